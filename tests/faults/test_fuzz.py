"""Our own readers, given files that began as ours and were changed at random: the errors that they
document, and nothing else; no memory beyond what a file of its size may take.

QUIVER_FUZZ=2000 tries as many files for each reader, other ones each time; by default few, always
the same.
"""

import hashlib
import json
import os
import resource
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model import checkpoints
from model.data.shard_index import SampleLocation, ShardIndex
from model.data.shard_reader import FileCache, read_image, read_pair, read_spectrum
from pipeline.dataset import histogram
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import DatasetView
from pipeline.dataset.shards import read_sample
from pipeline.flow.raft_weights import parse_weights
from pipeline.maintain.verify import verify
from pipeline.report.queries import read_log
from schemas import sample, spectral_volume
from schemas import statistics as schema
from schemas.seal import seal
from schemas.shard_record import ShardRecord
from tests.support.datasets import CONFIG, write_dataset

COUNT = int(os.environ.get("QUIVER_FUZZ", "25"))
ROOM = 1 << 30
"""Bytes of address space that a reader may take."""
usual = settings(
    max_examples=COUNT,
    deadline=None,
    derandomize="QUIVER_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
    database=None,
    print_blob=True,
)
slow = settings(usual, max_examples=max(8, COUNT // 5))
pytestmark = pytest.mark.timeout(max(300, 3 * COUNT))
INTERESTING = [
    0,
    1,
    -1,
    7,
    2**31,
    2**32 - 1,
    2**40,
    2**53,
    2**62,
    2**63 - 1,
    2**63,
    2**64,
    10**400,
    -(2**63),
    0.5,
    1e308,
    float("inf"),
    float("nan"),
]
values = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from(INTERESTING)
    | st.text(max_size=8)
    | st.sampled_from(["kept", "train", "F16", "../x", "x" * 5000, "\0"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=6,
)
deep = st.sampled_from(
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"",
        b"\xff\xfe",
        b"nul",
        b"1" * 5000,
        b'"' + b"\\ud800" + b'"',
    ]
)


@contextmanager
def bounded() -> Iterator[None]:
    """More memory than this is a MemoryError, which no reader documents."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def reads(
    reader: Callable[[], Any],
    documented: type[Exception] | tuple[type[Exception], ...] = ValueError,
) -> Any:
    """What it reads, or None where it refuses as it says it does."""
    with bounded():
        try:
            return reader()
        except documented as error:
            assert not isinstance(error, MemoryError) and str(error)
            return None


@st.composite
def changed(draw: st.DrawFn, data: bytes) -> bytes:
    """A few bytes of it are others, gone, twice, or a number that may be read as a length."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(found) - 1, 0)))
        kind = draw(
            st.sampled_from(["flip", "number", "cut", "insert", "remove", "repeat", "zero"])
        )
        length = draw(st.integers(1, 64))
        if kind == "flip" and found:
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "number":
            width = draw(st.sampled_from([1, 2, 4, 8]))
            found[at : at + width] = (int(draw(st.integers(0, 2**64 - 1))) % 256**width).to_bytes(
                width, draw(st.sampled_from(["little", "big"]))
            )
        elif kind == "cut":
            del found[at:]
        elif kind == "insert":
            found[at:at] = draw(st.binary(max_size=64))
        elif kind == "remove":
            del found[at : at + length]
        elif kind == "repeat":
            found[at:at] = found[at : at + length]
        else:
            found[at : at + length] = bytes(len(found[at : at + length]))
    return bytes(found)


def places(value: Any, above: tuple = ()) -> Iterator[tuple]:
    """Where something stands in a JSON value."""
    yield above
    for name, inner in (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    ):
        yield from places(inner, (*above, name))


def put(value: Any, place: tuple, new: Any, remove: bool) -> Any:
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if remove and len(place) == 1:
        del copy[place[0]]
    elif place[0] in copy if isinstance(copy, dict) else place[0] < len(copy):
        copy[place[0]] = put(copy[place[0]], place[1:], new, remove)
    return copy


@st.composite
def other(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value of which something is missing, or is something else."""
    for _ in range(draw(st.integers(1, 3))):
        value = put(
            value,
            draw(st.sampled_from(list(places(value)))),
            draw(values),
            draw(st.integers(0, 3)) == 0,
        )
    return value


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


def files(data: bytes) -> st.SearchStrategy[bytes]:
    """Of a JSON file: other values, other bytes, or nothing of the kind."""
    return other(json.loads(data)).map(text) | changed(data) | deep


@st.composite
def safetensors(draw: st.DrawFn, data: bytes) -> bytes:
    """A file of safetensors with another header, or other bytes."""
    if draw(st.booleans()):
        return draw(changed(data))
    length = int.from_bytes(data[:8], "little")
    header = draw(
        other(json.loads(data[8 : 8 + length])).map(text) | changed(data[8 : 8 + length]) | deep
    )
    says = draw(st.just(len(header)) | st.sampled_from([0, 1, 2**31, 2**63, 2**64 - 1, 10**8]))
    return struct.pack("<Q", says) + header + data[8 + length :]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Dataset:
    return write_dataset(
        tmp_path_factory.mktemp("fuzz") / "sound",
        {"train-000000": [{}, {}, {"mean_motion_px": 0.01}], "test-000000": [{}]},
    )


@pytest.fixture(scope="module")
def dataset(sound, tmp_path_factory) -> Dataset:
    """A copy of which one file after the other is changed, and put back."""
    return Dataset(shutil.copytree(sound.root, tmp_path_factory.mktemp("fuzz") / "changed"))


@contextmanager
def replaced(path: Path, data: bytes) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


SHARD = "train-000000"


def picture_of(row: SampleLocation) -> list[bytes]:
    return [read_image(FileCache(), row, CONFIG.size).tobytes()]


def bands_of(row: SampleLocation) -> list[bytes]:
    return [band.tobytes() for band in read_spectrum(FileCache(), row, [0, 1], CONFIG.size)]


def pair_of(row: SampleLocation) -> list[bytes]:
    return [part.tobytes() for part in read_pair(FileCache(), row, 0.7, CONFIG.size)]


@slow
@given(data=st.data())
def test_a_tar(dataset, data):
    """Every reader of it: the sample that was written, or a ValueError; verify names it."""
    path, rows = (
        dataset.tar_path(SHARD),
        dataset.read_record(SHARD).kept_members(),
    )
    original = path.read_bytes()
    at = data.draw(st.sampled_from([512 * i for i in range(len(original) // 512)]))
    new = original[:at] + data.draw(changed(original[at : at + 512])) + original[at + 512 :]
    truth = {
        key: sample.encode_sample(read_sample(path, key, members)) for key, members in rows.items()
    }
    found = ShardIndex([DatasetView(dataset)], "train")
    parts = [(i, read) for i in range(len(found)) for read in (picture_of, bands_of, pair_of)]
    sound = [read(found[i]) for i, read in parts]
    with replaced(path, new):
        for key, members in rows.items():
            read = reads(lambda key=key, members=members: read_sample(path, key, members))
            assert read is None or sample.encode_sample(read) == truth[key]
        for (i, part), true in zip(parts, sound, strict=True):
            given = reads(lambda i=i, part=part: part(found[i]))
            assert given is None or given == true
        with bounded():
            assert (new == original) != bool(list(verify(dataset, map).faults))


def first_members(dataset: Dataset) -> tuple[str, Mapping[str, int]]:
    """The key of the first sample of a shard, and where its members are."""
    return next(iter(dataset.read_record(SHARD).kept_members().items()))


@usual
@given(data=st.data())
def test_the_offsets_of_a_manifest(dataset, data):
    """As somebody else's manifest may have them."""
    key, row = first_members(dataset)
    names = list(row)
    new = dict(row) | {
        data.draw(st.sampled_from(names)): data.draw(
            st.integers(-(2**63), 2**63 - 1) | st.integers(0, 10_000)
        )
        for _ in range(2)
    }
    reads(lambda: read_sample(dataset.tar_path(SHARD), key, new))
    places = [(new["image_offset"], new["image_size"]), (new["motion_offset"], new["motion_size"])]
    found = ShardIndex([DatasetView(dataset)], "train")[0]._replace(
        key=key, image_span=places[0], motion_span=places[1]
    )
    reads(lambda: read_image(FileCache(), found, CONFIG.size))
    reads(lambda: [band.copy() for band in read_spectrum(FileCache(), found, [0], CONFIG.size)])


@usual
@given(data=st.data())
def test_the_header_of_a_motion_member(dataset, data):
    """With a length that stays, as the trainer reads it; once with a table that agrees, as somebody
    else may write one.
    """
    key, row = first_members(dataset)
    original = dataset.tar_path(SHARD).read_bytes()
    begin = row["motion_offset"] + 8
    length = int.from_bytes(original[begin - 8 : begin], "little")
    header = data.draw(
        other(json.loads(original[begin : begin + length])).map(text)
        | changed(original[begin : begin + length])
    )[:length].ljust(length)
    rows = ShardIndex([DatasetView(dataset)], "train")
    new = original[:begin] + header + original[begin + length :]
    member = new[row["motion_offset"] :][: row["motion_size"]]
    with replaced(dataset.tar_path(SHARD), new):
        for i in range(len(rows)):
            for one in (
                rows[i],
                rows[i]._replace(
                    checksums=(rows[i].checksums[0], zlib.crc32(member[: 8 + length]))
                ),
            ):
                reads(
                    lambda one=one: [
                        band.copy() for band in read_spectrum(FileCache(), one, [0, 3], CONFIG.size)
                    ]
                )
                reads(lambda one=one: read_pair(FileCache(), one, 0.7, CONFIG.size))
        reads(
            lambda: read_sample(
                dataset.tar_path(SHARD), key, dict(row) | {"motion_crc32": zlib.crc32(member)}
            )
        )


@usual
@given(data=st.data())
def test_the_members_of_a_sample(sound, data):
    members = sample.encode_sample(read_sample(sound.tar_path(SHARD), *first_members(sound)))
    which = data.draw(st.sampled_from(sorted(members)))
    new = data.draw(
        {"json": files, "motion.safetensors": safetensors}.get(which, changed)(members[which])
    )
    reads(lambda: sample.decode_sample("key", members | {which: new}))


def png(width: int, height: int) -> bytes:
    """A picture that says it is that large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    head = chunk(b"IHDR", width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\0\0\0")
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "size", [(13_000, 13_000), (1, 150_000_000), (2**31 - 1, 2**31 - 1), (0, 5)]
)
def test_a_picture_that_says_it_is_huge(sound, size):
    """It is compared with the other arrays of its sample before room is made for it."""
    members = sample.encode_sample(read_sample(sound.tar_path(SHARD), *first_members(sound)))
    assert reads(lambda: sample.decode_sample("key", members | {"image.png": png(*size)})) is None


@slow
@given(data=st.data())
def test_a_record(dataset, data):
    path = dataset.record_path(SHARD)
    record = {
        name: value for name, value in json.loads(path.read_bytes()).items() if name != "digest"
    }
    new = data.draw(
        files(path.read_bytes())
        | other(record).filter(lambda value: isinstance(value, dict)).map(resealed)
    )
    reads(lambda: ShardRecord.load(new))
    with replaced(path, new):
        reads(lambda: dataset.read_record(SHARD), (ValueError, OSError))
        with bounded():
            list(verify(dataset, map).faults)


def resealed(record: dict) -> bytes:
    """With a digest that agrees, if it has one at all."""
    try:
        return seal(record)
    except ValueError:
        return text(record)


@usual
@given(data=st.data())
def test_the_contract_and_the_index(dataset, data):
    name = data.draw(st.sampled_from(["run.json", "index.json"]))
    with replaced(dataset.root / name, data.draw(files((dataset.root / name).read_bytes()))):
        reads(dataset.contract)
        reads(DatasetView(dataset).thresholds)
        reads(DatasetView(dataset).read_index, (ValueError, OSError))
        reads(DatasetView(dataset).training_shards, (ValueError, OSError))
        reads(DatasetView(dataset).read_histogram, (ValueError, OSError))


@usual
@given(data=st.data())
def test_the_manifest(dataset, data):
    """Other bytes, and other values in its columns."""
    original = dataset.manifest.read_bytes()
    if data.draw(st.booleans()):
        new = data.draw(changed(original))
    else:
        rows = pq.read_table(dataset.manifest).to_pylist()
        row, name = (
            data.draw(st.integers(0, len(rows) - 1)),
            data.draw(
                st.sampled_from(["shard", "key", "split", "outcome", "image_offset", "motion_size"])
            ),
        )
        value = data.draw(
            st.integers(-(2**63), 2**63 - 1)
            if name.endswith(("offset", "size"))
            else st.none() | st.text(max_size=9) | st.just("../../x")
        )
        rows[row] = rows[row] | {name: value}
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(dataset.manifest)), sink)
        new = sink.getvalue().to_pybytes()
    with replaced(dataset.manifest, new):
        reads(lambda: read_all(dataset), (ValueError, OSError))


def read_all(dataset: Dataset) -> None:
    rows = ShardIndex([DatasetView(dataset)], "train")
    for i in range(len(rows)):
        read_image(FileCache(), rows[i], CONFIG.size)


@usual
@given(data=st.data())
def test_statistics(dataset, data):
    new = data.draw(files(dataset.statistics.read_bytes()))
    reads(lambda: schema.decode_statistics(new))


@usual
@given(data=st.data())
def test_a_histogram(dataset, data):
    new = data.draw(safetensors(dataset.histogram_path(SHARD).read_bytes()))
    reads(lambda: histogram.decode(new))


MOTION = spectral_volume.encode_volume(
    spectral_volume.SpectralVolume(
        spectrum=np.ones((3, 4, 6, 8), np.float32), fps=30.0, frames=24, provenance={"seed": 1}
    )
)


@usual
@given(data=safetensors(MOTION))
def test_a_file_of_motion(data):
    reads(lambda: spectral_volume.decode_volume(data))


@usual
@given(data=st.data())
def test_a_log(dataset, data):
    line = dict(
        shard=SHARD,
        kept=1,
        rejected=0,
        quarantined=0,
        elapsed_s=1.0,
        seconds=1.0,
        waiting_share=0.0,
        at=1.0,
    )
    dataset.progress.write_bytes(
        b"\n".join(
            data.draw(st.lists(files(text(line)) | st.just(text(line)), min_size=1, max_size=3))
        )
    )
    reads(lambda: read_log(DatasetView(dataset)), ())  # it documents none


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    state = {"a": torch.ones(3, 4), "b": torch.zeros(2, dtype=torch.int64)}
    return checkpoints.write(
        tmp_path_factory.mktemp("out"),
        1,
        dict(kind="x", step=1),
        {"network": state},
        {"averaged": 1, "optimiser": {"a": torch.ones(9)}},
        1,
    )


@usual
@given(data=st.data())
def test_a_checkpoint(checkpoint, data):
    """Also where its digests agree."""
    name = data.draw(
        st.sampled_from(["config.json", "network.safetensors", "training.pt", "digests.json"])
    )
    original = (checkpoint / name).read_bytes()
    new = data.draw(
        (
            files
            if name.endswith("json")
            else safetensors
            if name.endswith("safetensors")
            else changed
        )(original)
    )
    digests = json.loads((checkpoint / "digests.json").read_bytes()) | {
        name: hashlib.sha256(new).hexdigest()
    }
    with (
        replaced(checkpoint / name, new),
        replaced(checkpoint / "digests.json", new if name == "digests.json" else text(digests)),
    ):
        found = reads(lambda: checkpoints.load_checkpoint(checkpoint.parent))
        if found is not None:
            reads(lambda: found.load_weights("network"))
            reads(found.load_training_state)


@usual
@given(data=st.data())
def test_a_file_of_weights(checkpoint, data):
    name = data.draw(st.sampled_from(["network.safetensors", "training.pt"]))
    new = data.draw(
        (safetensors if name.endswith("safetensors") else changed)((checkpoint / name).read_bytes())
    )
    reads(lambda: parse_weights(new, checkpoint / name))
