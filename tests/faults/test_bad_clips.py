"""P8: a clip that cannot be read costs itself alone, and is named with its reason."""

import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from schemas.outcome import Reason
from tests import videos
from tests.faults.reference import CLIPS, counted, write_table
from tests.faults.runs import ended_here


def written(data: bytes) -> Callable[[Path], Path]:
    return lambda path: (path.write_bytes(data), path)[1]


def zeroed(path: Path) -> Path:
    data = bytearray(videos.swaying(path, seconds=2).read_bytes())
    data[len(data) // 4 : 3 * len(data) // 4] = bytes(len(data) // 2)
    path.write_bytes(data)
    return path


BAD: dict[str, tuple[Callable[[Path], Path], set[Reason]]] = {
    "empty": (videos.empty, {Reason.NOT_MEDIA}),
    "text": (videos.text, {Reason.NOT_MEDIA}),
    "HTML": (written(b"<!doctype html><html><body>404</body></html>"), {Reason.NOT_MEDIA}),
    "random": (written(random.Random(0).randbytes(20_000)), {Reason.NOT_MEDIA}),
    "truncated": (videos.truncated, {Reason.TRUNCATED}),
    "cut off": (videos.cut_off, {Reason.TRUNCATED}),
    "zeroed": (zeroed, {Reason.DECODE_ERROR, Reason.TRUNCATED}),
    "audio": (videos.audio_only, {Reason.NO_VIDEO}),
    "no frames": (videos.without_frames, {Reason.NO_FRAMES}),
    "picture": (videos.picture, {Reason.NOT_MEDIA}),
    "playlist": (videos.playlist, {Reason.NOT_MEDIA}),
    "folder": (lambda path: path.mkdir() or path, {Reason.UNREADABLE}),
}


def members(root: Path) -> dict[str, bytes]:
    found = {}
    for path in root.glob("shards/*.tar"):
        with tarfile.open(path) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
    return found


@pytest.mark.promise("P8")
def test_bad_clips_among_good_ones_cost_themselves(reference, tmp_path, record_property):
    """With names that a shell or a table could stumble over."""
    folder, out, lines, count = reference.clips.parent, tmp_path / "dataset", [], counted(5, 1)
    for kind, (make, _) in BAD.items():
        for i in range(count):
            name = f"bad {kind} $(x) ' ä{i}.mp4"
            make(folder / name)
            lines.append(f"{name},bad-{kind.replace(' ', '-')}-{i},train")
    table = write_table(folder / "with bad.csv", range(CLIPS))
    table.write_text(table.read_text() + "\n".join(lines) + "\n")
    assert ended_here(table, out) == 0, out.with_suffix(".log").read_text()
    rows = [row for row in pq.read_table(out / "manifest.parquet").to_pylist() if row["clip_id"].startswith("bad-")]
    names, expected = {line.split(",")[1] for line in lines}, {kind.replace(" ", "-"): reasons for kind, (_, reasons) in BAD.items()}
    assert {row["clip_id"] for row in rows} == names
    for row in rows:
        assert row["outcome"] == "quarantined" and row["reason"] in expected[row["clip_id"][4:].rpartition("-")[0]], row
    found, wanted = members(out), members(reference.root)
    record_property("injections", len(lines))
    record_property("different", sum(found.get(name) != wanted.get(name) for name in found.keys() | wanted.keys()))
    assert found == wanted
