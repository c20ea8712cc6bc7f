"""Flow that stays on a device: its sums are the same, and the samples of a run with RAFT say which
network made them.
"""

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.dataset.folder import ContractMismatch, Dataset
from pipeline.dataset.shards import read_sample
from pipeline.extract.build_shard import build_shard
from pipeline.extract.config import BuildConfig, PlanConfig, to_contract
from pipeline.extract.timing import ShardTimer, ShardTiming
from pipeline.extract.window import synchronize
from pipeline.filters import PRESETS
from pipeline.flow.config import FlowConfig
from pipeline.flow.estimator import describe_estimator, make_estimator
from pipeline.motion.spectrum import BLOCK_FRAMES, RunningSpectrum
from pipeline.motion.spectrum_gpu import DeviceSpectrum
from pipeline.torchvision_import import raft_small
from tests.support import videos
from tests.support.building import begin_video, plan_video


@pytest.mark.parametrize("frequencies", [4, 24])
def test_sums_on_a_device_are_the_sums(frequencies):
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.02, 0.05, 130))
    motion = rng.normal(0, 3, (130, 2, 40, 64)).astype(np.float32)
    shape = dict(time=120, fps=30.0, frequencies=frequencies, size=(64, 40))
    expected = RunningSpectrum(times - times[0], **shape)
    on_device = DeviceSpectrum(times - times[0], device="cpu", **shape)
    for first in range(0, len(motion), BLOCK_FRAMES):
        expected.add(motion[first : first + BLOCK_FRAMES])
        on_device.add(torch.from_numpy(motion[first : first + BLOCK_FRAMES]))
    on_device.synchronize()
    np.testing.assert_allclose(on_device.spectrum(), expected.spectrum(), atol=1e-3)
    np.testing.assert_allclose(on_device.weight(), expected.weight(), rtol=1e-5)
    np.testing.assert_allclose(on_device.total_energy(), expected.total_energy(), rtol=1e-6)
    np.testing.assert_array_equal(on_device.grid_motion(), expected.grid_motion())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_displacement_that_is_not_finite_is_seen_in_the_sums(bad):
    block = np.zeros((8, 2, 8, 16), np.float32)
    block[3, 1, 2, 5] = bad
    shape = dict(time=8, fps=30.0, frequencies=2, size=(16, 8))
    for sums, array in (
        (RunningSpectrum(np.arange(8) / 30, **shape), block),
        (DeviceSpectrum(np.arange(8) / 30, device="cpu", **shape), torch.from_numpy(block)),
    ):
        sums.add(array)
        sums.synchronize()
        assert not sums.is_finite()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file with random weights of raft_small."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(raft_small(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def config(weights) -> BuildConfig:
    flow = FlowConfig(flow="raft_small", weights=str(weights), device="cpu", updates=2)
    return BuildConfig(
        size=(128, 128),
        frequencies=4,
        checks=2,
        plan=PlanConfig(frames=10, stride=5),
        flow=flow,
        thresholds=PRESETS["none"],
    )


@pytest.fixture(scope="module")
def rows(tmp_path_factory, config) -> list[dict]:
    path = videos.write_swaying(
        tmp_path_factory.mktemp("clip") / "a.mp4", seconds=0.7, size=(128, 128), amplitude=2
    )
    return plan_video(path, config)


def create_dataset(folder: Path, rows: list[dict], config: BuildConfig) -> Dataset:
    dataset = Dataset(folder)
    dataset.root.mkdir()
    dataset.create_or_resume(rows, to_contract(config), {})
    return dataset


def test_a_shard_by_raft_says_what_made_it(tmp_path, rows, config, weights):
    dataset = create_dataset(tmp_path / "out", rows, config)
    *outcomes, timing = build_shard(dataset, rows[0].shard, rows, config)
    assert {window.outcome for window in outcomes} == {"kept"}
    assert [window.key for window in outcomes] == [row.key for row in rows] and len(rows) > 1
    assert isinstance(timing, ShardTiming) and 0 <= timing.idle_share < 1 and timing.seconds > 0
    record = dataset.read_record(rows[0].shard).rows[0]
    sample = read_sample(dataset.tar_path(rows[0].shard), rows[0].key, record.members)
    assert sample.meta["flow"]["weights"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert sample.meta["flow"]["flow"] == "raft_small" and sample.spectrum.any()
    assert (
        json.loads(dataset.run_json.read_bytes())["config"]["flow"]
        == sample.meta["flow"]
        == describe_estimator(config.flow)
    )


def test_a_windows_sums_are_those_of_its_flow(rows, config):
    for window in begin_video(rows, config):
        frames = [frame.flow_input for frame in window.frames]
        flow = (
            make_estimator(config.flow).displace([(frames[0], frame) for frame in frames]).numpy()
        )
        assert not flow[0].any() and flow[1].any()
        motion = synchronize(window.motion, window.frames[0].stats.gray)
        expected = RunningSpectrum(
            np.array([frame.time - window.frames[0].time for frame in window.frames]),
            time=10,
            fps=30.0,
            frequencies=4,
            size=(128, 128),
        )
        expected.add(flow)
        np.testing.assert_allclose(
            motion.sums.spectrum(),
            expected.spectrum(),
            atol=1e-2 * np.abs(expected.spectrum()).max(),
        )


def test_other_weights_on_another_machine_are_refused(tmp_path, rows, config, weights):
    dataset = create_dataset(tmp_path / "out", rows, config)
    torch.manual_seed(1)
    torch.save(raft_small(weights=None).state_dict(), tmp_path / "other.pth")
    changed = replace(config, flow=replace(config.flow, weights=str(tmp_path / "other.pth")))
    with pytest.raises(ContractMismatch, match=r"flow\.weights"):
        list(build_shard(dataset, rows[0].shard, rows, changed))
    assert not list(dataset.shards.iterdir())


def test_a_moved_file_of_the_same_weights_is_the_same_run(tmp_path, rows, config, weights):
    dataset = create_dataset(tmp_path / "out", rows, config)
    (tmp_path / "moved.pth").write_bytes(weights.read_bytes())
    moved = replace(config, flow=replace(config.flow, weights=str(tmp_path / "moved.pth")))
    assert dataset.create_or_resume(rows, to_contract(moved), {}) == []


def test_settings_of_raft_do_not_bind_a_run_with_dis():
    dis = BuildConfig()
    assert to_contract(dis) == to_contract(
        replace(dis, flow=replace(dis.flow, updates=5, weights="/anywhere"))
    )
    assert to_contract(dis) != to_contract(replace(dis, flow=replace(dis.flow, dis_preset="fast")))


def test_a_clock_counts_the_wait_for_frames_and_for_the_error_after_them():
    def frames():
        time.sleep(0.15)
        yield 1
        time.sleep(0.15)
        raise ValueError("gives out")

    clock = ShardTimer()
    with pytest.raises(ValueError, match="gives out"):
        for _ in clock.measure_wait(frames()):
            time.sleep(0.3)
    assert 0.35 < clock.timing().waiting_share < 0.65 and clock.timing().idle_share is None
