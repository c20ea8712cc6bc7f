"""The true motion is the best that a renderer can be given, and more frequencies come nearer to it."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from model.evaluate.upper_bound import MAX_PSNR_DB, STILL_FRAME, TRUE_MOTION, measure_upper_bounds
from tests.support import videos

T, FPS, SIZE = 30, 30.0, (64, 48)


@pytest.fixture(scope="module")
def swaying() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A texture whose middle sways at 1, 3 and 7 Hz, with its displacements and times."""
    image, times = videos.make_texture(*SIZE), np.arange(T) / FPS
    soft = np.exp(-np.square(np.linspace(-2, 2, SIZE[1])))[:, None] * np.ones(SIZE[0])
    course = sum(a * np.sin(2 * np.pi * hz * times) for a, hz in ((2.0, 1), (1.5, 3), (1.0, 7)))
    flows = np.zeros((T, 2, *SIZE[::-1]), np.float32)
    flows[:, 0] = course[:, None, None] * soft
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]].astype(float)
    moved = [
        np.stack(
            [
                map_coordinates(
                    image[..., c].astype(float),
                    [rows, columns - dx * soft],
                    order=3,
                    mode="nearest",
                )
                for c in range(3)
            ],
            axis=2,
        )
        for dx in course
    ]
    return np.clip(np.rint(moved), 0, 255).astype(np.uint8), flows, times


def test_more_frequencies_come_nearer_and_the_true_motion_is_nearest(swaying):
    frames, flows, times = swaying
    found = {
        one.name: one
        for one in measure_upper_bounds(frames, flows, times, window=T, fps=FPS, counts=(2, 4, 8))
    }
    assert list(found) == [STILL_FRAME, "K = 2", "K = 4", "K = 8", TRUE_MOTION]
    for measure in (
        lambda one: one.psnr_db.mean(),
        lambda one: one.ssim.mean(),
        lambda one: -one.error_px,
    ):
        values = [measure(one) for one in found.values()]
        assert np.all(np.diff(values) >= -1e-9) and values[1] < values[2] < values[3], values
    # K = 2 leaves out the sways of 1.5 and 1 px, K = 4 that of 1 px, K = 8 nothing
    energies = np.array([2.0, 1.5, 1.0]) ** 2
    assert found[STILL_FRAME].error_share == pytest.approx(1) and found[
        "K = 2"
    ].error_share == pytest.approx(np.sqrt(energies[1:].sum() / energies.sum()), rel=1e-4)
    assert (
        found["K = 8"].error_px == pytest.approx(0, abs=1e-5) and found[TRUE_MOTION].error_px == 0
    )


def test_what_stands_still_is_reached_to_the_last_bit(swaying):
    frames = np.repeat(swaying[0][:1], T, axis=0)
    found = list(
        measure_upper_bounds(
            frames, np.zeros_like(swaying[1]), swaying[2], window=T, fps=FPS, counts=(4,)
        )
    )
    assert all(
        np.all(one.psnr_db == MAX_PSNR_DB) and np.allclose(one.ssim, 1) and one.error_share == 0
        for one in found
    )


def test_frames_between_those_of_the_working_rate_are_compared_at_their_own_times(swaying):
    """At 29 frames a second the spectrum stands on a grid of 30."""
    frames, flows, times = swaying
    found = {
        one.name: one
        for one in measure_upper_bounds(
            frames, flows, times * 30 / 29, window=T, fps=FPS, counts=(4, 8)
        )
    }
    assert (
        len(found[TRUE_MOTION].psnr_db) == 28
        and found["K = 8"].error_share < 0.2 < found["K = 4"].error_share
    )


@pytest.mark.parametrize(
    ("count", "times", "said"),
    [((17,), slice(None), "expected 1 to 16"), ((4,), slice(0, 1), "there are 1 frames")],
)
def test_what_cannot_be_reached_is_said(swaying, count, times, said):
    frames, flows, at = (part[times] for part in swaying)
    with pytest.raises(ValueError, match=said):
        list(measure_upper_bounds(frames, flows, at, window=T, fps=FPS, counts=count))


@pytest.mark.thorough
def test_four_frequencies_are_worse_than_sixteen_on_real_clips(material):
    from pipeline.decode.config import DecodeConfig
    from pipeline.decode.pool import shared_pool
    from pipeline.flow.dis import DenseInverseSearch
    from pipeline.whole_clip.flow import flow_from_start
    from pipeline.whole_clip.frames import decode_clip, open_clip

    pool, estimator = shared_pool(DecodeConfig()), DenseInverseSearch("medium")
    for path in sorted((material / "clips" / "oscillating").iterdir()):
        take = open_clip(path, pool)
        count = int(np.searchsorted(take.times, 149 / 30 - 1e-6)) + 1
        clip = decode_clip(take.truncate(count), (128, 80), pool)
        flows = flow_from_start(clip.frames, estimator)
        found = {
            one.frequencies: one
            for one in measure_upper_bounds(
                clip.frames, flows, clip.times, window=150, fps=30.0, counts=(4, 16)
            )
            if one.frequencies
        }
        for measure in (
            lambda one: one.psnr_db.mean(),
            lambda one: one.ssim.mean(),
            lambda one: -one.error_px,
        ):
            assert measure(found[4]) < measure(found[16]), path.name
