"""How steady pictures are: known numbers, and films of a known motion that are damaged, with flow
as it is measured.
"""

from itertools import islice, pairwise

import av
import cv2
import numpy as np
import pytest
from numpy.random import default_rng
from scipy.ndimage import gaussian_filter, map_coordinates

from model.evaluate.extractors import cut_excerpts, iter_feature_windows
from model.evaluate.spectral import seam
from model.evaluate.temporal import flicker, warping_error
from pipeline.flow.dis import DenseInverseSearch

T, H, W = 24, 64, 96


def filmed(amplitude: float) -> np.ndarray:
    """One period of a textured picture that sways from left to right, bytes [T, H, W, 3]."""
    rng = default_rng(0)
    picture = 128 + 300 * np.stack(
        [gaussian_filter(rng.normal(size=(H, W)), 2, mode="wrap") for _ in range(3)], axis=-1
    )
    y, x = np.mgrid[:H, :W].astype(float)
    places = amplitude * np.sin(2 * np.pi * np.arange(T) / T)
    frames = [
        np.stack(
            [
                map_coordinates(picture[..., c], [y, x - place], order=3, mode="grid-wrap")
                for c in range(3)
            ],
            axis=-1,
        )
        for place in places
    ]
    return np.clip(frames, 0, 255).astype(np.uint8)


def flickering(frames: np.ndarray) -> np.ndarray:
    """Brighter and darker from frame to frame."""
    return np.clip(frames + default_rng(1).normal(0, 10, (len(frames), 1, 1, 1)), 0, 255).astype(
        np.uint8
    )


def shuffled(frames: np.ndarray) -> np.ndarray:
    return frames[default_rng(2).permutation(len(frames))]


def noisy(frames: np.ndarray) -> np.ndarray:
    """Grain that is another in each frame."""
    return np.clip(frames + default_rng(3).normal(0, 10, frames.shape), 0, 255).astype(np.uint8)


def measured(frames: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Flow from each frame to the next and back."""
    dis = DenseInverseSearch("medium")
    grey = dis.prepare(list(frames))
    pairs = list(pairwise(grey))
    return list(zip(dis.displace(pairs), dis.displace([pair[::-1] for pair in pairs]), strict=True))


TRUE = filmed(3)
METRICS = {
    "flicker": flicker,
    "warping error": lambda frames: warping_error(frames, measured(frames)).error,
}


@pytest.mark.parametrize("damage", [flickering, noisy])
@pytest.mark.parametrize("name", METRICS)
def test_what_is_unsteady_is_seen(name, damage):
    assert METRICS[name](damage(TRUE)) > 1.3 * METRICS[name](TRUE)


@pytest.mark.parametrize(("name", "amplitude"), [("flicker", 3), ("warping error", 20)])
def test_shuffled_frames_are_unsteady(name, amplitude):
    """Flow explains steps of 5 px, and most of the shuffled ones are too long for it; of a short
    sway it would explain those too.
    """
    film = filmed(amplitude)
    assert METRICS[name](shuffled(film)) > 1.3 * METRICS[name](film)


@pytest.mark.parametrize("clip", ["breathing_seated.mp4", "opencv_tree.avi", "tacoma_bridge.mp4"])
def test_shuffled_frames_of_a_real_clip_are_unsteady(material, clip):
    with av.open(str(material / "clips" / "oscillating" / clip)) as video:
        seen = [
            cv2.resize(frame.to_ndarray(format="rgb24"), (128, 80), interpolation=cv2.INTER_AREA)
            for frame in islice(video.decode(video=0), T)
        ]
    frames = np.stack(seen)
    for metric in METRICS.values():
        assert metric(shuffled(frames)) > 1.3 * metric(frames)


@pytest.mark.parametrize("name", METRICS)
def test_what_is_steady_is_not(name):
    """Backwards, or another turn of the same sway."""
    assert METRICS[name](TRUE[::-1]) == pytest.approx(METRICS[name](TRUE), rel=0.1)
    assert METRICS[name](np.roll(TRUE, 5, axis=0)) == pytest.approx(METRICS[name](TRUE), rel=0.1)


def test_motion_is_flicker_but_no_error_of_warping():
    """Four times the motion is four times the flicker; what is left of an error is that of
    interpolation.
    """
    slow, fast = filmed(2), filmed(8)
    assert flicker(fast) > 2 * flicker(slow)
    error = warping_error(fast, measured(fast))
    assert (
        error.error < 0.05 * np.square(np.diff(fast / 255, axis=0)).mean() and error.visible > 0.8
    )


def test_flicker_of_a_known_number():
    frames = np.zeros((3, 2, 2, 3), np.uint8)
    frames[1], frames[2] = 250, 240
    assert flicker(frames) == 130
    assert flicker(iter(frames)) == 130 and flicker(frames[:1].repeat(5, axis=0)) == 0


def test_a_warping_error_of_known_numbers():
    """A picture that moves by two pixels, and comes in from the side: those that leave do not
    count, and of the others none differs.
    """
    rng = default_rng(4)
    wide = rng.integers(0, 255, (8, 20, 3), dtype=np.uint8)
    frames = np.stack([wide[:, 2:18], wide[:, :16]])
    right = np.zeros((2, 8, 16), np.float32)
    right[0] = 2
    assert warping_error(frames, [(right, -right)]) == (0, 14 / 16)
    still = np.zeros_like(right)
    by_hand = np.square((frames[1].astype(float) - frames[0]) / 255).mean()
    assert warping_error(frames, [(still, still)]) == pytest.approx((by_hand, 1))
    # flow that does not lead back is not believed
    assert warping_error(frames, [(right, right)]) == (None, 0)


def test_a_step_counts_by_what_is_visible_in_it():
    frames = np.zeros((3, 8, 16, 3), np.uint8)
    frames[2] = 255
    still, half = np.zeros((2, 8, 16), np.float32), np.zeros((2, 8, 16), np.float32)
    half[0, :, :8] = 5
    assert warping_error(frames, [(still, still), (half, np.zeros_like(half))]) == pytest.approx(
        (0.5 / 1.5, 0.75)
    )
    lost = np.full_like(half, 5)
    assert warping_error(
        frames[1:].repeat(2, axis=0)[:3], [(lost, still), (still, still)]
    ) == pytest.approx((1, 0.5))


def test_a_film_of_one_turn_closes_and_a_film_of_most_of_one_does_not():
    """Of pictures as of displacements, bytes too."""
    assert seam(TRUE).position == pytest.approx(1, abs=0.2)
    assert seam(TRUE[: T * 3 // 4]).position > 1.3


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: flicker(TRUE[:1]), "the video has fewer than 2 frames, expected at least 2"),
        (
            lambda: warping_error(TRUE[:1], []),
            "the video has fewer than 2 frames, expected at least 2",
        ),
        (
            lambda: warping_error(TRUE[:3], [(np.zeros((2, H, W), np.float32),) * 2]),
            "there are 1 flows between 3 frames, expected 2",
        ),
        (lambda: cut_excerpts(TRUE, 25, 1), "excerpts of 25 frames every 1 of a video of 24"),
        (lambda: cut_excerpts(TRUE, 8, 0), "excerpts of 8 frames every 0 of a video of 24"),
        (
            lambda: iter_feature_windows(np.zeros((3, 4, 2)), 5, 1),
            "excerpts of 5 frames every 1 of a video of 4",
        ),
    ],
)
def test_too_few_frames_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_excerpts_are_the_frames_from_every_stride_on():
    found = cut_excerpts(TRUE, 10, 5)
    assert len(found) == 3
    for number, excerpt in enumerate(found):
        np.testing.assert_array_equal(excerpt, TRUE[5 * number : 5 * number + 10])
    assert np.shares_memory(found, TRUE)


def test_features_over_time_are_those_of_all_videos_in_each_excerpt():
    features = np.arange(2 * 7 * 1.0).reshape(2, 7, 1)
    assert [one.ravel().tolist() for one in iter_feature_windows(features, 3, 2)] == [
        [0, 1, 2, 7, 8, 9],
        [2, 3, 4, 9, 10, 11],
        [4, 5, 6, 11, 12, 13],
    ]
    assert [one.ravel().tolist() for one in iter_feature_windows(features[:, :2], 1, 1)] == [
        [0, 7],
        [1, 8],
    ]
