"""P21: names that would lead out of a folder, in every place where a name of others becomes part of
a path.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import refilter, report_statistics, verify
from model import checkpoints
from model.data.shard_index import ShardIndex
from model.data.shard_reader import FileCache, read_image
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import DatasetView, open_dataset
from pipeline.dataset.shards import ShardWriter, read_sample
from schemas.sample import IMAGE_MEMBER, KEY_PATTERN, sample_key
from tests.schemas.test_sample import make_sample
from tests.support import datasets
from tests.support.damage import read_record_json, write_record_json

pytestmark = pytest.mark.promise("P21")
NAMES = {
    "up": "../x",
    "far up": "../../../../tmp/x",
    "the folder above": "..",
    "down and up": "a/../../x",
    "absolute": "/tmp/quiver-escaped",
    "below": "a/b",
    "NUL": "a\0b",
    "4 kB": "x" * 4096,
    "a dot": "a.b",
    "empty": "",
    "a line": "a\nb",
    "home": "~/x",
    "backslash": "..\\x",
    "other digits": "\uff11\u2215x",
}
TYPES = {
    "symbolic link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "device": tarfile.CHRTYPE,
    "disk": tarfile.BLKTYPE,
    "pipe": tarfile.FIFOTYPE,
    "folder": tarfile.DIRTYPE,
}
SHARD = "train-000000"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return datasets.write_dataset(tmp_path_factory.mktemp("sound") / "a", {SHARD: [{}, {}]}).root


@pytest.fixture
def root(sound, tmp_path) -> Path:
    """A data set in a folder of which nothing else may come to be, nor anything above it."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    before = set(os.listdir("/tmp"))
    yield Path(shutil.copytree(sound, inner / "a"))
    assert (
        [path.name for path in tmp_path.iterdir()] == ["outer"]
        and os.listdir(inner.parent) == ["inner"]
        and os.listdir(inner) == ["a"]
    )
    assert not [
        name for name in set(os.listdir("/tmp")) - before if name in ("x", "quiver-escaped")
    ]


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_key_of_a_sample(root, name):
    writer = ShardWriter(Dataset(root).tar_path("train-000001"))
    with pytest.raises(ValueError, match="key is "):
        writer.add(make_sample(name))
    writer.discard()


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_an_id_of_a_clip_becomes_a_plain_key(name):
    """An id is text, and stays it in the manifest; what names files is made of it."""
    assert KEY_PATTERN.fullmatch(sample_key(name, 7)) and sample_key(name, 7) != sample_key(
        name + "x", 7
    )


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_shard(root, name):
    for place in (Dataset(root).tar_path, Dataset(root).record_path, Dataset(root).histogram_path):
        with pytest.raises(ValueError, match="expected up to 60 letters"):
            place(name)
    index = json.loads((root / "index.json").read_bytes())
    index["shards"][name] = index["shards"].pop(SHARD)
    (root / "index.json").write_text(json.dumps(index))
    stopped(report_statistics.main, str(root))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_shard_of_the_plan(root, name):
    rows = pq.read_table(root / "plan.parquet").to_pylist()
    pq.write_table(
        pa.Table.from_pylist(
            [row | dict(shard=name) for row in rows], pq.read_schema(root / "plan.parquet")
        ),
        root / "plan.parquet",
    )
    stopped(verify.main, str(root), "--workers", "1")


@pytest.mark.parametrize(
    "name",
    [name for name in NAMES.values() if "\0" not in name],
    ids=[name for name in NAMES if name != "NUL"],
)
def test_a_view(root, name):
    stopped(refilter.main, str(root), "--name", name, "--filters", "none")
    with pytest.raises(ValueError, match=r"has no view|holds no dataset"):
        open_dataset(f"{root}:{name}")


def stopped(main: Callable[[list[str]], None], *arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code in (2, 5)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """One block, of a name that fits into it."""
    info = tarfile.TarInfo("x")
    info.size, info.mode, info.type, info.linkname = (
        size,
        0o644,
        kind,
        "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else "",
    )
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[:100] = name.encode()[:100].ljust(100, b"\0")
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))
    return bytes(block)


MEMBERS = {
    **{what: (name, tarfile.REGTYPE) for what, name in NAMES.items()},
    **{what: (None, kind) for what, kind in TYPES.items()},
}


@pytest.mark.parametrize("name, kind", MEMBERS.values(), ids=MEMBERS)
def test_a_member_of_a_tar(root, name, kind):
    """All readers refuse it, also where the record agrees with the tar; a tar is never unpacked
    into a folder.
    """
    dataset = Dataset(root)
    key, row = next(iter(dataset.read_record(SHARD).kept_members().items()))
    with dataset.tar_path(SHARD).open("r+b") as tar:
        tar.seek(row["image_offset"] - 512)
        tar.write(
            header(f"{key}.{IMAGE_MEMBER}" if name is None else name, row["image_size"], kind)
        )
    with pytest.raises(ValueError, match=r"member|header"):
        read_sample(dataset.tar_path(SHARD), key, row)
    rows = ShardIndex([DatasetView(dataset)], "train")
    with pytest.raises(ValueError, match=r"cannot be read: (member|no member)"):
        [read_image(FileCache(), rows[i], datasets.CONFIG.size) for i in range(len(rows))]
    digest = hashlib.sha256(dataset.tar_path(SHARD).read_bytes()).hexdigest()
    record = read_record_json(dataset, SHARD)
    write_record_json(dataset, SHARD, record | dict(tar=record["tar"] | dict(sha256=digest)))
    stopped(verify.main, str(root), "--workers", "1")


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_file_of_a_checkpoint(tmp_path, name):
    folder = checkpoints.write(tmp_path / "out", 1, dict(kind="x", step=1), {}, {}, keep=1)
    digests = json.loads((folder / "digests.json").read_bytes())
    (folder / "digests.json").write_text(json.dumps(digests | {name: "0" * 64}))
    with pytest.raises(ValueError, match="holds no checkpoint"):
        checkpoints.read_newest(tmp_path / "out")


def test_there_are_enough():
    assert sum(map(len, (NAMES, NAMES, NAMES, NAMES, MEMBERS, NAMES))) >= 40
    tarfile.TarInfo.frombuf(header("a/b", 5), "utf-8", "strict")  # its checksum is right
    with tarfile.open(fileobj=io.BytesIO(header("../x", 0) + bytes(1024))) as tar:
        assert tar.getnames() == ["../x"]
