import hashlib
import io
import json
import tarfile

import numpy as np
import pytest

from pipeline.atomic_files import create_file
from pipeline.dataset.shards import ShardWriter, read_sample
from schemas.sample import encode_sample
from schemas.shard_record import TarDigest
from tests.schemas.test_sample import make_sample


@pytest.fixture
def shard(tmp_path):
    """A published shard of three samples: (path, offsets by key, samples by key)."""
    samples = {s.key: s for s in (make_sample(f"clip-{i:06d}", seed=i) for i in range(3))}
    writer = ShardWriter(tmp_path / "train-000000.tar")
    for sample in samples.values():
        writer.add(sample)
    tar = writer.finish()
    writer.publish()
    assert tar == TarDigest(
        sha256=hashlib.sha256(writer.path.read_bytes()).hexdigest(),
        bytes=writer.path.stat().st_size,
    )
    return writer.path, writer.rows, samples


def test_equal_samples_give_equal_bytes(shard, tmp_path):
    path, _, samples = shard
    writer = ShardWriter(tmp_path / "again.tar")
    for sample in samples.values():
        writer.add(sample)
    writer.finish()
    writer.publish()
    assert writer.path.read_bytes() == path.read_bytes()


def test_nothing_stands_under_the_name_before_it_is_published(tmp_path):
    writer = ShardWriter(tmp_path / "a.tar")
    writer.add(make_sample())
    assert not writer.path.exists()
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_our_reader_finds_every_sample_by_its_offsets(shard):
    path, rows, samples = shard
    for key, sample in samples.items():
        assert encode_sample(read_sample(path, key, rows[key])) == encode_sample(sample)


def test_plain_tar_reads_it(shard):
    path, _, samples = shard
    with tarfile.open(path) as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}
    assert found == {
        f"{key}.{name}": data
        for key, sample in samples.items()
        for name, data in encode_sample(sample).items()
    }
    with tarfile.open(path) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in tar} == {(0, 0, 0, "", 0o644)}


@pytest.mark.parametrize(
    "damage", ["truncated", "flipped", "flipped motion", "zeroed tail", "shifted"]
)
def test_a_damaged_shard_raises_before_a_wrong_sample_is_given(shard, damage):
    path, rows, _ = shard
    data, last = bytearray(path.read_bytes()), list(rows)[-1]
    if damage == "truncated":
        del data[rows[last]["motion_offset"] + 100 :]
    elif damage == "flipped":
        data[rows[last]["image_offset"] + rows[last]["image_size"] // 2] ^= 1
    elif damage == "flipped motion":
        data[rows[last]["motion_offset"] + rows[last]["motion_size"] - 1] ^= 1
    elif damage == "zeroed tail":
        data[rows[last]["image_offset"] - 512 :] = bytes(
            len(data) - rows[last]["image_offset"] + 512
        )
    else:
        data[:0] = bytes(512)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=last):
        read_sample(path, last, rows[last])


def test_a_sample_that_is_not_finite_is_never_published(tmp_path):
    sample = make_sample()
    sample.spectrum[0, 0, 0, 0] = np.inf
    writer = ShardWriter(tmp_path / "a.tar")
    writer.add(sample)
    with pytest.raises(ValueError, match="not finite"):
        writer.finish()
    assert not writer.path.exists()


@pytest.mark.parametrize("place", [600, -1500])
def test_what_a_disk_did_not_keep_is_never_published(tmp_path, place):
    """Of the first sample's picture, and between the last sample and the end: no reader would see
    the latter.
    """
    writer = ShardWriter(tmp_path / "a.tar")
    writer.add(make_sample())
    writer.file.flush()
    data = bytearray(writer.temporary_path.read_bytes()) + bytes(1024)
    data[place] ^= 1
    writer.temporary_path.write_bytes(data[:-1024])
    with pytest.raises(ValueError, match=r"a\.tar"):
        writer.finish()
    assert not writer.path.exists()


@pytest.mark.parametrize("key", ["a.b", "../a", "/a", "", "a" * 91, "a\0"])
def test_a_key_that_a_reader_would_cut_or_follow_is_refused(tmp_path, key):
    writer = ShardWriter(tmp_path / "a.tar")
    with pytest.raises(ValueError, match="expected"):
        writer.add(make_sample(key))


def test_a_record_is_created_once(tmp_path):
    create_file(tmp_path / "r.json", json.dumps({"a": 1}).encode())
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "r.json", b"{}")
    assert json.load(io.BytesIO((tmp_path / "r.json").read_bytes())) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
