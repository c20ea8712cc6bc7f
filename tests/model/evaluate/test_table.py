"""Known answers: a set is at no distance from itself, and shuffled frames are further from the
truth than frames in order.
"""

from typing import NamedTuple

import cv2
import numpy as np
import pytest

from model.evaluate.pairs import Evaluators, PairMetrics, make_extractors, measure_pair
from model.evaluate.table import (
    amplitude_spectra,
    build_frame_curves,
    build_mean_row,
    build_sliding_curves,
    build_table,
    describe_rate_mismatch,
)
from pipeline.flow.dis import DenseInverseSearch
from tests.support import videos

SIZE, FRAMES = (128, 64), 36
PLAIN = make_extractors({})
TEMPORAL = [
    "flicker",
    "warping_error",
    "oscillation_share",
    "seam",
    "log_spectral_db",
    "changes_frechet",
    "changes32_frechet",
    "psnr_db",
    "ssim",
]
"""Metrics that look at the order of frames. Phase coherence compares places, which a shuffle
reorders all alike.
"""


class Clip(NamedTuple):
    frames: np.ndarray
    times: np.ndarray


def clip(seed: int, frames: int = FRAMES) -> Clip:
    """A texture of which the middle sways."""
    image, times = (
        videos.make_texture(*SIZE, seed).astype(np.float32),
        np.arange(frames, dtype=np.float64) / 30,
    )
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]].astype(np.float32)
    soft = np.exp(-np.square(np.linspace(-2, 2, SIZE[1], dtype=np.float32)))[:, None]
    shifts = 2 * np.sin(2 * np.pi * (1 + seed / 2) * times).astype(np.float32)
    made = [
        cv2.remap(
            image, columns - shift * soft, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        for shift in shifts
    ]
    return Clip(np.clip(np.rint(made), 0, 255).astype(np.uint8), times)


def noisy(one: Clip, levels: float = 1.0) -> Clip:
    """What a codec might do to it."""
    noise = np.random.default_rng(1).normal(0, levels, one.frames.shape)
    return one._replace(frames=np.clip(np.rint(one.frames + noise), 0, 255).astype(np.uint8))


def shuffled(one: Clip) -> Clip:
    return one._replace(frames=one.frames[np.random.default_rng(2).permutation(len(one.frames))])


def given() -> Evaluators:
    return Evaluators(DenseInverseSearch("medium"), PLAIN)


@pytest.fixture(scope="module")
def real() -> list[Clip]:
    return [clip(seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def same(real) -> list[PairMetrics]:
    return [measure_pair(f"clip {i}", one, one, given()) for i, one in enumerate(real)]


def by_key(found: list[PairMetrics]) -> dict:
    return {row.key: row for row in build_table(found, given(), rounds=10)}


def test_a_set_is_at_no_distance_from_itself(same):
    found = by_key(same)
    absent = {"lpips", "fid", "kid", "fvd", "fvd32", "dt_fvd", "dt_fvd32"}
    assert {key for key, row in found.items() if row.value is None} == absent
    assert found["psnr_db"].value == 100 and found["ssim"].value == pytest.approx(1)
    assert found["colours_kernel"].value <= 0
    features = np.concatenate([one.real.features["colours"] for one in same])
    assert found["colours_frechet"].value <= 1e-6 * 100 * features.var(axis=0, ddof=1).sum()
    others = set(found) - absent - {"psnr_db", "ssim", "colours_kernel", "colours_frechet"}
    assert all(found[key].value == pytest.approx(0, abs=1e-6) for key in others)


def test_what_is_absent_says_what_it_needs_and_what_is_there_says_how_it_was_made(same):
    found = by_key(same)
    assert (
        found["fid"].needs == "--inception FILE"
        and found["fvd32"].needs == "--i3d FILE"
        and found["dt_fvd"].needs == "--dt-i3d FILE"
    )
    assert found["dt_fvd32"].needs == "--dt-i3d-32 FILE"
    assert "--lpips FILE" in found["lpips"].needs
    protocol = found["changes_frechet"].protocol
    assert {
        name: protocol[name] for name in ("window", "stride", "pairs", "samples", "dimensions")
    } == dict(window=16, stride=8, pairs=2, samples=6, dimensions=64)
    assert protocol["interval"] == "bootstrap over pairs, 10 rounds"
    assert found["magnitude_px"].protocol["every_pixel"] == 4
    assert (
        found["log_spectral_db"].protocol["window"] == [FRAMES]
        and len(found["log_spectral_db"].protocol["by_band_db"]) == 15
    )


def test_the_frame_that_was_given_counts_for_nothing(real):
    """Of a grey level more in every frame but the first PSNR is 20 log10 255, at every moment."""
    darker = [Clip(np.minimum(one.frames, 254), one.times) for one in real]
    brighter = [
        one._replace(frames=np.concatenate([one.frames[:1], one.frames[1:] + 1])) for one in darker
    ]
    found = [
        measure_pair(f"clip {i}", *pair, given())
        for i, pair in enumerate(zip(darker, brighter, strict=True))
    ]
    row = by_key(found)["psnr_db"]
    assert row.value == pytest.approx(20 * np.log10(255), abs=1e-3) and row.protocol[
        "frames"
    ] == 2 * (FRAMES - 1)
    assert row.protocol["mean"] == "over the frames after the first, then over pairs"
    assert build_frame_curves(found)[0].values == pytest.approx(
        [row.value] * (FRAMES - 1), abs=1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [2, 3, 10])
def test_the_interval_of_a_mean_holds_the_true_one_as_often_as_it_says(pairs):
    """Of 2000 sets 1900 are expected, give or take 10; and it is as wide as Student's must be."""
    drawn = [
        build_mean_row(values.tolist(), "key", "name", "", "lower", {})
        for values in np.random.default_rng(0).normal(300, 2, (2000, pairs))
    ]
    held = [row.low <= 300 <= row.high for row in drawn]
    assert abs(sum(held) - 1900) < 40
    deviation = np.mean([row.high - row.low for row in drawn]) / (2 * 2 / np.sqrt(pairs))
    assert deviation == pytest.approx(
        {2: 12.706 * 0.7979, 3: 4.303 * 0.8862, 10: 2.262 * 0.9727}[pairs], rel=0.05
    )  # t, and by how much s is too small
    assert drawn[0].protocol["interval"] == "Student's t over pairs" and (
        drawn[0].low + drawn[0].high
    ) / 2 == pytest.approx(drawn[0].value)
    assert build_mean_row([0.0] * (pairs - 1) + [1.0], "key", "name", "", "nearer", {}).low == 0
    assert (
        build_mean_row([1.5] * pairs, "key", "name", "", "lower", {})[4:7] == (1.5, 1.5, 1.5)
        and build_mean_row([1.5], "key", "name", "", "lower", {}).low is None
    )


@pytest.mark.slow
def test_shuffled_frames_are_worse_than_frames_in_order_for_every_temporal_metric(real):
    check_order(real)


def check_order(real: list[Clip]) -> None:
    ordered, mixed = (
        [measure_pair(f"clip {i}", one, change(one), given()) for i, one in enumerate(real)]
        for change in (noisy, lambda one: shuffled(noisy(one)))
    )
    before, after = by_key(ordered), by_key(mixed)
    for key in TEMPORAL:
        worse = (
            before[key].value > after[key].value
            if before[key].better == "higher"
            else before[key].value < after[key].value
        )
        assert worse, f"{key}: {before[key].value} in order, {after[key].value} shuffled"
    curves = [
        {one.key: one for one in build_sliding_curves(found, given())} for found in (ordered, mixed)
    ]
    assert np.mean(curves[0]["sliding_changes"].values) < np.mean(
        curves[1]["sliding_changes"].values
    )


@pytest.mark.thorough
def test_shuffled_frames_of_real_clips_are_worse(material):
    from pipeline.decode.config import DecodeConfig
    from pipeline.decode.pool import shared_pool
    from pipeline.whole_clip.frames import decode_clip, open_clip

    pool = shared_pool(DecodeConfig())
    takes = [
        open_clip(material / "clips" / "oscillating" / name, pool).truncate(60)
        for name in ("ducks_water.mp4", "breathing_seated.mp4")
    ]
    check_order(
        [
            Clip(found.frames, found.times)
            for found in (decode_clip(take, SIZE, pool) for take in takes)
        ]
    )


def test_curves_go_as_far_as_the_shortest_pair(real, same):
    short = Clip(real[0].frames[:33], real[0].times[:33])
    found = [*same, measure_pair("short", short, noisy(short), given())]
    frames = build_frame_curves(found)
    assert [one.key for one in frames] == ["psnr_db", "ssim"] and all(
        len(one.values) == 32 for one in frames
    )
    assert frames[0].seconds == pytest.approx(np.arange(1, 33) / 30)
    curves = {one.key: one for one in build_sliding_curves(found, given())}
    assert len(curves["sliding_colours"].values) == 1 and curves[
        "sliding_colours"
    ].seconds == pytest.approx([14.5 / 30])
    assert len(curves["sliding_changes"].values) == 3 and curves[
        "sliding_changes"
    ].seconds == pytest.approx([7.5 / 30, 15.5 / 30, 23.5 / 30])
    assert curves["sliding_fid"].needs == "--inception FILE"
    hz, both = amplitude_spectra(found)
    assert both.shape == (2, len(hz)) and hz[1] == pytest.approx(30 / 33)
    amplitude = same[0].real.amplitude
    assert hz[int(both[0].argmax())] == pytest.approx(1, abs=0.5) and amplitude.max() > 0.5


def test_courses_of_pairs_of_different_rates_are_over_seconds(same):
    """One pair has twice the frames in the same time, and a PSNR that rises by 10 dB a second."""
    slow = same[0]._replace(psnr_db=20 + 10 * same[0].times[1:])
    times = np.arange(2 * FRAMES - 1) / 60
    fast = same[1]._replace(times=times, psnr_db=20 + 10 * times[1:], ssim=np.ones(2 * FRAMES - 2))
    assert (
        describe_rate_mismatch([slow, fast]) == "30 to 60 frames a second"
        and describe_rate_mismatch([slow, slow]) is None
    )
    for found in ([slow, fast], [fast, slow]):
        course = build_frame_curves(found)[0]
        assert course.seconds == pytest.approx(
            np.arange(1, FRAMES) / 30
        ) and course.values == pytest.approx(20 + 10 * np.array(course.seconds))
        needs = {one.key: one.needs for one in build_sliding_curves(found, given())}
        assert (
            needs["sliding_changes"]
            == "pairs whose frames are shown at the same instants, these have 30 to 60 frames a second"
        )


def test_an_error_of_warping_says_over_how_much_of_the_picture_it_is(same):
    """Where it is over nothing there is none."""
    row = by_key(same)["warping_error"]
    assert row.protocol["visible"] == {
        "real": pytest.approx(np.mean([one.real.visible for one in same])),
        "generated": row.protocol["visible"]["real"],
    }
    blind = same[1]._replace(generated=same[1].generated._replace(warping_error=None, visible=0.0))
    row = by_key([same[0], blind])["warping_error"]
    assert (row.value, row.low, row.needs) == (
        None,
        None,
        "pixels that the flow finds again, clip 1 has none",
    )
    assert row.protocol["visible"]["generated"] == pytest.approx(same[0].generated.visible / 2)


def test_a_slower_sway_is_seen_in_the_spectrum(real):
    found = measure_pair("other", real[0], real[1], given())
    assert found.spectral_db.mean() > 1 and found.magnitude_px < 1


def test_pairs_that_do_not_fit_are_refused(real):
    with pytest.raises(ValueError, match="expected equal shapes of at least 16 frames"):
        measure_pair("uneven", real[0], Clip(real[0].frames[:20], real[0].times[:20]), given())
