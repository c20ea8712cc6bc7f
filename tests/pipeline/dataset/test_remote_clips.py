"""A data set whose clips are in object storage: what reads a clip again later than the run fetches
it too.
"""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.cli.workers import build_in_worker
from jobs.repair import repair
from jobs.verify import shard_mapper
from pipeline.dataset import object_store
from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import DatasetView
from pipeline.extract.config import BuildConfig, PlanConfig, to_contract
from pipeline.filters import PRESETS
from pipeline.maintain.repair import RowsByShard
from pipeline.maintain.verify import verify
from pipeline.preview.reconstruct import Reconstruction, reconstruct
from schemas.outcome import Quarantined
from tests.faults import storage
from tests.support import videos
from tests.support.building import plan_video

CONFIG = BuildConfig(
    size=(96, 64),
    frequencies=4,
    plan=PlanConfig(frames=12, fps=15.0, stride=30),
    thresholds=PRESETS["none"],
)
NAME = "a.mp4"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory) -> Iterator[object_store.Bucket]:
    with (
        storage.s3_server(tmp_path_factory.mktemp("storage") / "log") as address,
        pytest.MonkeyPatch.context() as patched,
    ):
        storage.s3_client(address).create_bucket(Bucket=storage.BUCKET)
        for name, value in (storage.CREDENTIALS | {"AWS_ENDPOINT_URL": address}).items():
            patched.setenv(name, value)
        object_store.client.cache_clear()
        yield object_store.Bucket(storage.bucket_url("clips"))
    object_store.client.cache_clear()


@pytest.fixture
def clip(bucket, tmp_path) -> Path:
    """The file whose copy is in the storage."""
    path = Path(videos.write_swaying(tmp_path / NAME, seconds=1.5, amplitude=2.0, hertz=1.25))
    bucket.put(NAME, path)
    return path


@pytest.fixture
def dataset(bucket, clip, tmp_path) -> Dataset:
    rows = [replace(row, uri=f"{bucket.url}/{NAME}") for row in plan_video(clip, CONFIG)]
    dataset = Dataset(tmp_path / "dataset")
    with dataset.lock():
        dataset.create_or_resume(rows, to_contract(CONFIG), {})
        list(build_in_worker(dataset, CONFIG, 1, None, (rows[0].shard, rows)))
    finalize(dataset)
    return dataset


def shown(dataset: Dataset) -> Reconstruction:
    return reconstruct(DatasetView(dataset), dataset.planned_rows()[0].window().key)


@pytest.mark.slow
def test_the_real_frames_are_those_of_the_clip(dataset, clip):
    stored = shown(dataset)
    there = Reconstruction(
        row=replace(stored.row, uri=str(clip)),
        sample=stored.sample,
        settings=stored.settings,
        motion=stored.motion,
    )
    frames = list(stored.real_frames())
    assert len(frames) == 12 and all(
        np.array_equal(a, b) for a, b in zip(frames, there.real_frames(), strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("words", ["no such object", "NoSuchBucket", "needs boto3"])
def test_a_clip_that_cannot_be_had_is_quarantined(dataset, bucket, monkeypatch, words):
    stored = shown(dataset)
    if words == "no such object":
        bucket.delete(NAME)
    elif words == "NoSuchBucket":
        stored = replace(stored, row=replace(stored.row, uri="s3://quiver-none/a.mp4"))
    else:
        monkeypatch.setitem(sys.modules, "boto3.session", None)
        object_store.client.cache_clear()
    with pytest.raises(Quarantined, match=words):
        list(stored.real_frames())
    object_store.client.cache_clear()


def test_repair_builds_a_shard_again(dataset, bucket, clip, tmp_path, capsys):
    def build(shards: RowsByShard) -> list[str]:
        for shard in shards.items():
            list(build_in_worker(dataset, CONFIG, 1, None, shard))
        return []

    tar = dataset.tar_path(dataset.planned_rows()[0].shard)
    sound = tar.read_bytes()
    tar.write_bytes(sound[:-3000] + b"?" + sound[-2999:])
    bucket.put(NAME, b"another")
    with dataset.lock():
        assert not repair(
            dataset,
            verify(dataset, shard_mapper(1)),
            lambda: nullcontext(build),
            tmp_path / "staging",
        ).is_sound
        assert (
            f"video {bucket.url}/{NAME} is not the one that was planned" in capsys.readouterr().out
        )
        bucket.put(NAME, clip)
        assert repair(
            dataset,
            verify(dataset, shard_mapper(1)),
            lambda: nullcontext(build),
            tmp_path / "staging",
        ).is_sound
    assert tar.read_bytes() == sound and not list((tmp_path / "staging").iterdir())
