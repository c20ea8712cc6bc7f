"""The whole way from a video file to its spectrum, against scenes whose motion is known."""

import hashlib
import re
import shutil
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import Dataset
from pipeline.decode.client import DecoderProcess
from pipeline.decode.config import DecodeConfig
from pipeline.decode.pool import DecoderPool
from pipeline.extract.build_shard import build_shard, build_windows
from pipeline.extract.config import BuildConfig, PlanConfig, to_contract
from pipeline.extract.timing import ShardTimer
from pipeline.extract.window import choose_pair_frames, synchronize
from pipeline.filters import PRESETS
from pipeline.flow.config import FlowConfig
from pipeline.flow.dis import DenseInverseSearch
from pipeline.flow.estimator import make_estimator
from pipeline.images.film import X264, TimedFrame, write_film
from pipeline.motion.spectrum import to_motion, to_spectrum
from pipeline.synthetic import render, scenes
from pipeline.synthetic.clips import make_clip
from pipeline.whole_clip.first_window import fit_window, motion_of_video
from schemas.clip import VideoInfo
from schemas.outcome import Outcome, Quarantined, Reason, Stage
from schemas.sample import channels_to_complex, encode_sample
from tests.pipeline.decode.test_client import fake as misbehaving
from tests.support import videos
from tests.support.building import begin_video, build_results, plan_video

T, FPS = 150, 30.0
SCENES = ["cloth-24fps", "reeds-25fps", "plant-30fps", "lantern-50fps", "ripples-vfr"]
SMALL = BuildConfig(
    size=(64, 40),
    frequencies=12,
    plan=PlanConfig(frames=24, stride=6),
    flow=FlowConfig(dis_preset="fast"),
    thresholds=PRESETS["none"],
)


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    """scene -> (true motion, valid pixels, measured motion) of its first window, flow by `fine`;
    made once each.
    """
    folder, config = (
        tmp_path_factory.mktemp("scenes"),
        BuildConfig(frequencies=T // 2 + 1, flow=FlowConfig(dis_preset="fine")),
    )
    known = {}

    def measure(name: str):
        if name not in known:
            make_clip(name, folder, seconds=5.2)
            truth = load_file(folder / f"{name}.truth.safetensors")
            (window,) = begin_video(plan_video(folder / f"{name}.mp4", config)[:1], config)
            known[name] = (
                truth["motion"].astype(np.float32),
                truth["valid"] > 0,
                to_motion(
                    synchronize(window.motion, window.frames[0].stats.gray).sums.spectrum(), T
                ),
            )
        return known[name]

    return measure


@pytest.mark.thorough
@pytest.mark.parametrize("name", SCENES)
def test_the_measured_motion_is_the_true_one(measured, name):
    truth, _, found = measured(name)
    assert 0.3 < np.abs(truth).max() < 6
    assert np.hypot(*(found - truth).transpose(1, 0, 2, 3)).mean() < 0.10


@pytest.mark.sample(2)
@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_amplitude_and_phase_are_those_of_the_true_spectrum(measured, name):
    truth, _, found = measured(name)
    true, estimate = to_spectrum(truth, 16), to_spectrum(found, 16)
    strong = 2 * np.abs(true) / T > 0.3
    bands = [k for k in range(1, 16) if strong[k].sum() > 50]
    assert bands
    for k in bands:
        size = [np.sqrt(np.square(np.abs(s[k][strong[k]])).mean()) for s in (true, estimate)]
        assert size[1] / size[0] == pytest.approx(1, abs=0.10), f"amplitude of band {k}"
        assert (
            np.quantile(np.abs(np.angle(estimate[k][strong[k]] / true[k][strong[k]])), 0.9) < 0.2
        ), f"phase of band {k}"


@pytest.mark.parametrize("name", SCENES)
def test_peaks_stand_at_the_true_bins(measured, name):
    truth, valid, found = measured(name)
    power = [
        np.square(np.abs(to_spectrum(m, 16)))[:, :, valid].sum(axis=(1, 2)) for m in (truth, found)
    ]
    true_peaks, found_peaks = (
        set(
            1
            + np.flatnonzero(
                (p[1:-1] > p[:-2]) & (p[1:-1] > p[2:]) & (p[1:-1] > 0.03 * p[1:].max())
            )
        )
        for p in power
    )
    assert true_peaks and true_peaks <= found_peaks


def built(
    path: Path, out: Path, config: BuildConfig = SMALL
) -> tuple[Dataset, list[dict], list[Outcome]]:
    """One shard of all windows of a video, built in this process, and what became of each."""
    rows, dataset = plan_video(path, config), Dataset(out)
    with dataset.lock():
        dataset.create_or_resume(rows, to_contract(config), {})
        return (
            dataset,
            rows,
            [
                decided.outcome
                for decided in list(build_shard(dataset, rows[0].shard, rows, config))[:-1]
            ],
        )


@pytest.mark.thorough
def test_a_window_in_the_middle_of_a_video_is_measured_from_its_own_start(tmp_path):
    config = BuildConfig(flow=FlowConfig(dis_preset="fine"))
    scene = scenes.SCENES["cloth"](np.random.default_rng(5))
    render.write_clip(tmp_path / "a.mp4", scene, np.arange(212) / 30)
    rows = [row for row in plan_video(tmp_path / "a.mp4", config) if row.start_frame == 50]
    (window,) = begin_video(rows, config)
    found = synchronize(window.motion, window.frames[0].stats.gray).sums.spectrum()
    true = to_spectrum(render.true_motion(scene, 50 / 30, np.arange(T) / FPS), 16)
    strong = 2 * np.abs(true) / T > 0.3
    assert (
        np.sqrt(
            np.square(np.abs(found - true))[strong].mean() / np.square(np.abs(true))[strong].mean()
        )
        < 0.1
    )


@pytest.mark.sample(2)
@pytest.mark.slow
@pytest.mark.parametrize(
    "name, reason",
    [
        ("still-30fps", Reason.NO_MOTION),
        ("cut-30fps", Reason.CUT),
        ("pan-30fps", Reason.CAMERA_MOTION),
        ("lantern-50fps", None),
        ("ripples-vfr", None),
    ],
)
def test_scenes_are_judged_for_what_they_are(tmp_path, name, reason):
    config = BuildConfig(flow=FlowConfig(dis_preset="fast"), thresholds=PRESETS["subtle"])
    make_clip(name, tmp_path, seconds=7.0)
    (result,) = build_results(plan_video(tmp_path / f"{name}.mp4", config)[:1], config)
    assert result.row.reason == reason
    assert (result.sample is None) == (result.strip is not None) == (reason is not None)


def test_every_frame_of_a_stretch_is_prepared_once_however_many_windows_need_it(tmp_path):
    path, prepared = videos.write_swaying(tmp_path / "a.mp4", seconds=3), []

    class Counting(DenseInverseSearch):
        def prepare(self, images):
            prepared.extend(images)
            return super().prepare(images)

    rows = plan_video(path, SMALL)
    assert sum(
        len(window.frames) for window in begin_video(rows, SMALL, Counting("fast"))
    ) > 3 * len(prepared)
    assert len(prepared) <= 90


def test_a_sample_holds_what_its_windows_frames_say(tmp_path):
    path = videos.write_swaying(tmp_path / "a.mp4", seconds=1.5, amplitude=2)
    config = replace(SMALL, damp=False)  # its spectrum is compared with the motion as measured
    rows, estimator = plan_video(path, config)[:2], make_estimator(config.flow)
    for (row, seen, moving, _), result in zip(
        begin_video(rows, config), build_results(rows, config), strict=True
    ):
        sample = result.sample
        targets = [
            np.flatnonzero(np.isclose([s.time - seen[0].time for s in seen], t, atol=1e-4))[0]
            for t in sample.pair_time
        ]
        np.testing.assert_array_equal(sample.image, seen[0].image)
        np.testing.assert_array_equal(sample.pair_image, [seen[i].image for i in targets])
        flow = estimator.displace([(seen[0].flow_input, seen[i].flow_input) for i in targets])
        np.testing.assert_array_equal(sample.pair_flow, flow.astype(np.float16))
        np.testing.assert_allclose(
            channels_to_complex(sample.spectrum),
            synchronize(moving, seen[0].stats.gray).sums.spectrum(),
            rtol=2e-3,
            atol=2e-3,
        )
        assert targets == choose_pair_frames(row.key, len(seen), 4) and 0 not in targets


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2"])
def test_blas_threads_in_the_process_do_not_change_a_byte(tmp_path, threads):
    from threadpoolctl import threadpool_limits

    path = videos.write_swaying(tmp_path / "a.mp4", seconds=1.5)
    digests = []
    for limit in (1, int(threads)):
        with threadpool_limits(limit):
            dataset, rows, _ = built(path, tmp_path / f"{limit}-{len(digests)}")
        digests.append(hashlib.sha256(dataset.tar_path(rows[0].shard).read_bytes()).hexdigest())
    assert digests[0] == digests[1]


def test_a_sample_says_where_its_motion_is_to_be_believed_and_damping_quiets_the_rest(tmp_path):
    """The right half of the picture is plain, and noise moves there."""
    rng, pictures = np.random.default_rng(0), []
    for i in range(45):
        image = videos.shift_image(videos.make_texture(96, 64), 2 * np.sin(i / 4), 0)
        image[:, 48:] = np.clip(90 + rng.normal(0, 3, (64, 48, 3)), 0, 255)
        pictures.append(image)
    rows = plan_video(videos.write_video(tmp_path / "a.mp4", pictures, np.arange(45) / 30), SMALL)[
        :1
    ]
    ((raw,), (damped,)) = (
        [r.sample for r in build_results(rows, replace(SMALL, damp=damp))] for damp in (False, True)
    )
    np.testing.assert_array_equal(raw.confidence, damped.confidence)
    assert raw.confidence[:, 4:28].mean() > 3 * raw.confidence[:, 40:].mean()
    energy = [np.square(sample.spectrum.astype(float)).sum(axis=(0, 1)) for sample in (raw, damped)]
    assert energy[1][:, 44:].sum() < 0.5 * energy[0][:, 44:].sum()
    assert energy[1][:, 4:28].sum() == pytest.approx(energy[0][:, 4:28].sum(), rel=0.1)
    assert damped.weight[:, 44:].mean() < raw.weight[:, 44:].mean()
    assert (raw.meta["damped"], damped.meta["damped"]) == (False, True)


def test_the_next_stretch_is_decoded_while_the_flow_of_this_one_is_computed(tmp_path):
    rows = [
        row
        for seed in range(2)
        for row in plan_video(
            videos.write_swaying(tmp_path / f"{seed}.mp4", seconds=1.2, seed=seed), SMALL
        )
    ]
    decoded, seen_ahead = threading.Event(), []

    class Watching(DecoderProcess):
        def pictures(self, path, video, indices, size):
            yield from super().pictures(path, video, indices, size)
            if path == rows[-1].uri:
                decoded.set()

    class Waiting(DenseInverseSearch):
        def displace(self, pairs):
            seen_ahead.append(decoded.wait(20))  # the very first flow of the first clip
            return super().displace(pairs)

    pool = DecoderPool(SMALL.decode, 1, Watching)
    assert (
        len(list(build_windows(rows, SMALL, Waiting("fast"), pool, ShardTimer()))) == len(rows) > 2
    )
    assert seen_ahead[0]
    pool.close()


class DyingAfter(DecoderProcess):
    """Its videos give out after so many frames."""

    def __init__(self, config, frames):
        super().__init__(config)
        self.frames_left = frames

    def pictures(self, path, video, indices, size):
        for index, picture in zip(
            indices, super().pictures(path, video, indices, size), strict=True
        ):
            if index >= self.frames_left:
                raise Quarantined(Stage.DECODE, Reason.DECODE_ERROR, "gives out")
            yield picture


class Unmounting(DecoderProcess):
    """The folder of its videos goes away in the middle of the first."""

    def __init__(self, config, folder):
        super().__init__(config)
        self.folder = folder

    def pictures(self, path, video, indices, size):
        yield from super().pictures(path, video, indices[:10], size)
        self.folder.rename(self.folder.with_name("unmounted"))
        yield from super().pictures(path, video, indices[10:], size)


class FirstWindowExaggerated(DenseInverseSearch):
    """Reports a million times the displacement from the first frame that it sees."""

    first = None

    def prepare(self, images):
        prepared = super().prepare(images)
        self.first = prepared[0] if self.first is None else self.first
        return prepared

    def displace(self, pairs):
        return super().displace(pairs) * np.float32(1e6 if pairs[0][0] is self.first else 1)


def test_what_passes_float16_is_quarantined_and_its_neighbours_are_kept(tmp_path):
    rows = plan_video(videos.write_swaying(tmp_path / "a.mp4", seconds=1.5), SMALL)
    found = build_results(rows, SMALL, FirstWindowExaggerated("fast"))
    assert [r.row.reason for r in found] == [Reason.OVERFLOW] + [None] * (len(rows) - 1)
    assert found[0].row.stage == "spectrum" and "float16" in found[0].row.detail


@pytest.mark.slow
def test_a_clip_whose_decoder_dies_costs_its_own_windows_alone(tmp_path):
    """Its neighbours, before and after it in the shard, are the same bytes as without it."""
    rows = [
        plan_video(videos.write_swaying(tmp_path / f"{name}.mp4", seconds=1.5, seed=seed), SMALL)
        for seed, name in enumerate(("first", "aborts", "last"))
    ]
    pool = DecoderPool(SMALL.decode, 1, misbehaving)
    for order in ((0, 1, 2), (1, 0, 2)):
        found = list(
            build_windows(
                [row for i in order for row in rows[i]],
                SMALL,
                make_estimator(SMALL.flow),
                pool,
                ShardTimer(),
            )
        )
        kept = {r.sample.key: encode_sample(r.sample) for r in found if r.sample}
        assert kept == {
            r.sample.key: encode_sample(r.sample)
            for i in (0, 2)
            for r in build_results(rows[i], SMALL)
        }
        dead = [r.row for r in found if not r.sample]
        assert [row.key for row in dead] == [row.key for row in rows[1]]
        assert {(row.outcome, row.stage, row.reason, row.attempts) for row in dead} == {
            ("quarantined", "probe", Reason.CRASH, 3)
        }
    pool.close()


def test_windows_before_the_place_where_a_video_gives_out_are_what_they_would_have_been(tmp_path):
    """Every picture of the second half of this file is destroyed."""
    path = videos.write_video(
        tmp_path / "a.mp4",
        [videos.shift_image(videos.make_texture(96, 64), i / 10, 0) for i in range(60)],
        np.arange(60) / 30,
    )
    rows = plan_video(path, SMALL)
    whole = {r.sample.key: encode_sample(r.sample) for r in build_results(rows, SMALL)}
    pool = DecoderPool(SMALL.decode, 1, partial(DyingAfter, frames=40))
    found = list(build_windows(rows, SMALL, make_estimator(SMALL.flow), pool, ShardTimer()))
    kept = {r.sample.key: encode_sample(r.sample) for r in found if r.sample}
    assert 0 < len(kept) < len(rows) and all(whole[key] == members for key, members in kept.items())
    assert {
        row.start_frame + 24 > 40 for row, r in zip(rows, found, strict=True) if not r.sample
    } == {True}
    assert all(row.start_frame + 24 > 40 or r.sample for row, r in zip(rows, found, strict=True))
    pool.close()


def test_a_video_that_was_replaced_after_the_plan_is_quarantined(tmp_path):
    path = videos.write_swaying(tmp_path / "a.mp4", seconds=1.5)
    rows = plan_video(path, SMALL)
    videos.write_swaying(path, seconds=2.5, seed=4)
    assert [(r.row.stage, r.row.reason) for r in build_results(rows, SMALL)] == [
        ("decode", Reason.HASH_MISMATCH)
    ] * len(rows)
    path.unlink()
    assert [r.row.reason for r in build_results(rows, SMALL)] == [Reason.MISSING] * len(rows)


def test_a_video_of_equal_size_and_times_is_another_if_a_byte_of_it_is(tmp_path):
    path = videos.write_swaying(tmp_path / "a.mp4", seconds=1.5)
    rows, data = plan_video(path, SMALL), bytearray(path.read_bytes())
    assert build_results(rows, SMALL)[0].sample
    place = data.index(b"mdat") + 200
    data[place] ^= 1
    path.write_bytes(data)
    assert [row.start_time_s for row in plan_video(path, SMALL)] == [
        row.start_time_s for row in rows
    ]
    assert [r.row.reason for r in build_results(rows, SMALL)] == [Reason.HASH_MISMATCH] * len(rows)


def test_a_folder_of_videos_that_is_gone_ends_the_run(tmp_path):
    """As a mount that is lost, before a clip is begun or while it is read: no clip is to blame."""
    (tmp_path / "videos").mkdir()
    rows = [
        row
        for name in ("a", "b")
        for row in plan_video(
            videos.write_swaying(tmp_path / "videos" / f"{name}.mp4", seconds=1.5, seed=ord(name)),
            SMALL,
        )
    ]
    folder = re.escape(f"'{tmp_path / 'videos'}'")
    pool = DecoderPool(SMALL.decode, 1, partial(Unmounting, folder=tmp_path / "videos"))
    with pytest.raises(FileNotFoundError, match=folder):
        list(build_windows(rows, SMALL, make_estimator(SMALL.flow), pool, ShardTimer()))
    pool.close()
    with pytest.raises(FileNotFoundError, match=folder):
        build_results(rows, SMALL)


def test_a_file_system_that_does_not_tell_ends_the_run(tmp_path):
    """Here since a link leads to itself beside the video, in place of its folder."""
    (tmp_path / "videos").mkdir()
    rows = plan_video(videos.write_swaying(tmp_path / "videos" / "a.mp4", seconds=1.5), SMALL)
    (tmp_path / "videos").rename(tmp_path / "elsewhere")
    (tmp_path / "videos").symlink_to(tmp_path / "videos")
    with pytest.raises(OSError, match="Too many levels"):
        build_results(rows, SMALL)


def test_a_shard_without_a_kept_window_is_a_record_without_a_tar(tmp_path):
    config = replace(SMALL, thresholds=PRESETS["paper"])
    path = videos.write_video(
        tmp_path / "still.mp4", [videos.make_texture(96, 64)] * 45, np.arange(45) / 30
    )
    dataset, rows, outcomes = built(path, tmp_path / "out", config)
    assert set(outcomes) == {Outcome.REJECTED} and list(dataset.shards.iterdir()) == []
    assert dataset.read_record(rows[0].shard).tar is None
    summary = finalize(dataset)
    assert summary["kept"] == 0 and summary["rejected_by_reason"] == {"frozen": len(rows)}


def test_a_folder_is_held_by_one_writer(tmp_path):
    from pipeline.dataset.run_lock import FolderInUse

    with (
        Dataset(tmp_path).lock(),
        pytest.raises(FolderInUse, match="another run is writing"),
        Dataset(tmp_path).lock(),
    ):
        pass


def test_a_sample_has_all_its_pairs_where_there_are_fewer_frames(tmp_path):
    config = replace(SMALL, pairs=40)
    (result,) = build_results(
        plan_video(videos.write_swaying(tmp_path / "a.mp4", seconds=1.2), config)[:1], config
    )
    assert (
        result.sample.pair_image.shape == (40, 40, 64, 3)
        and (np.diff(result.sample.pair_time) >= 0).all()
    )


def test_a_relative_name_with_a_colon_is_a_file_and_no_protocol(tmp_path, monkeypatch):
    """FFmpeg takes what stands before it for one: 12:30.mp4 would be read through a protocol 12."""
    videos.write_swaying(tmp_path / "whole.mp4", seconds=1.2).rename(tmp_path / "12:30.mp4")
    (tmp_path / "2026:").mkdir()
    shutil.copy(tmp_path / "12:30.mp4", tmp_path / "2026:" / "file:a.mp4")
    monkeypatch.chdir(tmp_path)
    pool = DecoderPool(DecodeConfig())
    try:
        for name in ("12:30.mp4", "2026:/file:a.mp4"):
            video = pool.probe(name)
            assert len(list(pool.frames(name, video, [0, 30], (64, 40)))) == 2
    finally:
        pool.close()
    config = replace(SMALL, plan=PlanConfig(frames=24))
    assert motion_of_video(Path("12:30.mp4"), config).frames == 24
    still = np.zeros((32, 32, 3), np.uint8)
    shown = [TimedFrame(still, i * 3000, 3000) for i in range(2)]
    write_film(Path("1:2.mp4"), shown, X264, rate=30, index_first=True)
    assert (tmp_path / "1:2.mp4").stat().st_size > 0


@pytest.mark.parametrize(
    "frames, fps, expected", [(299, 60, 150), (124, 25, 150), (122, 25, 146), (90, 30, 90)]
)
def test_a_video_that_lacks_a_frame_or_two_of_a_window_is_measured_as_one(frames, fps, expected):
    video = VideoInfo(
        times=7 + np.arange(frames) / fps,
        end_s=7 + frames / fps,
        aspect=1.6,
        height=400,
        keyframes=np.zeros(1, int),
        decoder="none",
        decoder_reason="",
        signature=(0, 0, 0),
    )
    assert fit_window(BuildConfig(), video, Path("a.mp4")).plan.frames == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "size",
    [(48, 48), (72, 72), (72, 48), (48, 72), (33, 47)],
    ids=lambda size: f"{size[0]}x{size[1]}",
)
def test_every_accepted_size_is_extracted(tmp_path, size):
    """decord pads the rows of pictures of some widths (8, 12, 16, 24, 48, 72) and fails."""
    path = videos.write_swaying(tmp_path / "a.mp4", seconds=1, size=(96, 96))
    config = replace(SMALL, size=size)
    (row, *_) = build_results(plan_video(path, config)[:1], config)
    assert (
        row.row.outcome == Outcome.KEPT
        and row.sample is not None
        and row.sample.image.shape == (size[1], size[0], 3)
    )


@pytest.mark.sample(4)
@pytest.mark.slow
@pytest.mark.parametrize("width", [8, 12, 16, 24, 48, 72])
def test_frames_of_every_width_can_be_had(tmp_path, width):
    """As of small videos, which are measured at their own size."""
    path, pool = (
        videos.write_swaying(tmp_path / "a.mp4", seconds=1, size=(96, 96)),
        DecoderPool(DecodeConfig()),
    )
    try:
        (one, other) = pool.frames(str(path), pool.probe(str(path)), [3, 20], (width, width))
    finally:
        pool.close()
    assert (
        one.shape == other.shape == (width, width, 3)
        and one.std() > 5
        and np.abs(one.astype(int) - other).max() > 2
    )
