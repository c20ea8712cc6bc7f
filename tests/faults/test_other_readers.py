"""P24: a data set is read by plain tar, webdataset, Hugging Face's datasets and our reader, each
sample of it, with equal ids and equal bytes.
"""

import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.dataset.shards import read_sample
from schemas.sample import IMAGE_MEMBER, MEMBERS, META_MEMBER, MOTION_MEMBER, encode_sample
from tests.faults.reference import SHARDS
from tests.support import damage

pytestmark = pytest.mark.promise("P24")
Samples = dict[str, dict[str, bytes]]
"""Members by their name, by the sample's key."""


@pytest.fixture(scope="module")
def tars(reference) -> list[Path]:
    return [reference.root / "shards" / f"{shard}.tar" for shard in SHARDS]


@pytest.fixture(scope="module")
def plain(tars) -> Samples:
    """By the standard library, which knows nothing of samples."""
    found: Samples = {}
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, name = member.name.partition(".")
                found.setdefault(key, {})[name] = tar.extractfile(member).read()
    return found


@pytest.fixture
def kept(reference) -> list[dict]:
    rows = pq.read_table(reference.root / "manifest.parquet").to_pylist()
    return [row for row in rows if row["outcome"] == "kept"]


def test_plain_tar_finds_what_the_manifest_says(plain, kept, record_property):
    assert list(plain) == [row["key"] for row in kept] and all(
        tuple(sample) == MEMBERS for sample in plain.values()
    )
    record_property("injections", len(plain))


def test_our_reader(reference, plain, kept, record_property):
    assert {
        row["key"]: encode_sample(
            read_sample(reference.root / "shards" / f"{row['shard']}.tar", row["key"], row)
        )
        for row in kept
    } == plain
    record_property("injections", len(plain))


def test_webdataset(tars, plain, record_property):
    import webdataset as wds

    found = {
        one["__key__"]: {name: one[name] for name in MEMBERS}
        for one in wds.WebDataset([str(path) for path in tars], shardshuffle=False)
    }
    assert found == plain and list(found) == list(plain)
    record_property("injections", len(plain))


def test_hugging_face_datasets(tars, plain, tmp_path, record_property):
    """It reads JSON itself, and makes one table of it: what a sample does not say is None there."""
    datasets = pytest.importorskip("datasets")
    table = datasets.load_dataset(
        "webdataset",
        data_files=[str(path) for path in tars],
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    rows = list(table.cast_column(IMAGE_MEMBER, datasets.Image(decode=False)))
    assert [row["__key__"] for row in rows] == list(plain)
    for row in rows:
        sample = plain[row["__key__"]]
        assert (row[MOTION_MEMBER], row[IMAGE_MEMBER]["bytes"]) == (
            sample[MOTION_MEMBER],
            sample[IMAGE_MEMBER],
        )
        assert {
            name: value for name, value in row[META_MEMBER].items() if value is not None
        } == json.loads(sample[META_MEMBER])
    record_property("injections", len(plain))


STATED = [(None, None, "CC0-1.0", "CC0-1.0", None), ("CC0-1.0", None, None, None, "CC0-1.0")]


@pytest.mark.thorough
@pytest.mark.parametrize("licences", STATED)
@pytest.mark.parametrize("order", [1, -1])
def test_hugging_face_datasets_if_a_licence_is_not_stated(
    tmp_path, licences, order, record_property
):
    """It takes the kind of each field from the first samples, whichever these are."""
    datasets = pytest.importorskip("datasets")
    root = damage.make_dataset(tmp_path, licences)
    files = [str(root / tar) for tar in damage.TARS][::order]
    cache = str(tmp_path / "cache")
    table = datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=cache)
    clips = [row[META_MEMBER]["clip"] for row in table]
    found = {clip["clip_id"]: (clip["licence"], clip["source"]) for clip in clips}
    expected = {f"clip-{i}": (said or "", said or "") for i, said in enumerate(licences)}
    assert found.items() <= expected.items() and len(set(found.values())) == 2
    record_property("injections", len(table))
