"""P8: a clip that cannot be read costs itself alone, and is named with its reason."""

import os
import random
import signal
import tarfile
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.cli.errors import ExitCode
from jobs.cli.workers import plan_in_worker
from jobs.extract_flow import parse_job
from pipeline.dataset.crashpoint import CRASHPOINT_VARIABLE, SIGNAL_VARIABLE
from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import Dataset
from pipeline.extract.build_shard import build_shard
from pipeline.extract.config import to_contract
from pipeline.extract.list_clips import list_clips
from pipeline.extract.plan import plan_rows
from pipeline.extract.versions import library_versions
from schemas.outcome import Reason
from tests.faults.reference import (
    CLIP_COUNT,
    SHARDS,
    choose_count,
    count_windows,
    extract_command,
    promised_digests,
    write_table,
)
from tests.faults.runs import run_without_ray, start_without_ray, wait_for_exit, wait_until_stopped
from tests.support import videos


def written(data: bytes) -> Callable[[Path], Path]:
    return lambda path: (path.write_bytes(data), path)[1]


def zeroed(path: Path) -> Path:
    data = bytearray(videos.write_swaying(path, seconds=2).read_bytes())
    data[len(data) // 4 : 3 * len(data) // 4] = bytes(len(data) // 2)
    path.write_bytes(data)
    return path


BAD: dict[str, tuple[Callable[[Path], Path], set[Reason]]] = {
    "empty": (videos.write_empty, {Reason.NOT_MEDIA}),
    "text": (videos.write_text_file, {Reason.NOT_MEDIA}),
    "HTML": (written(b"<!doctype html><html><body>404</body></html>"), {Reason.NOT_MEDIA}),
    "random": (written(random.Random(0).randbytes(20_000)), {Reason.NOT_MEDIA}),
    "truncated": (videos.write_truncated, {Reason.TRUNCATED}),
    "cut off": (videos.write_cut_off, {Reason.TRUNCATED}),
    "zeroed": (zeroed, {Reason.DECODE_ERROR, Reason.TRUNCATED}),
    "audio": (videos.write_audio_only, {Reason.NO_VIDEO}),
    "no frames": (videos.write_without_frames, {Reason.NO_FRAMES}),
    "picture": (videos.write_jpeg, {Reason.NOT_MEDIA}),
    "playlist": (videos.write_playlist, {Reason.NOT_MEDIA}),
    "folder": (lambda path: path.mkdir() or path, {Reason.NOT_MEDIA}),
    "unreadable": (lambda path: path.symlink_to("/proc/self/mem") or path, {Reason.UNREADABLE}),
}
"""Each in a table; reading the last gives an error even to root."""


def members(root: Path) -> dict[str, bytes]:
    found = {}
    for path in root.glob("shards/*.tar"):
        with tarfile.open(path) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
    return found


def links_out(folder: Path, good: Path, number: int) -> Path:
    """A folder that is listed, of links to a file beside it."""
    folder.mkdir()
    for i in range(number):
        (folder / f"link {i}.mp4").symlink_to(good)
    return folder


@pytest.mark.thorough
def test_windows_that_a_broken_machine_quarantined_are_tried_again_without_their_record(
    reference, tmp_path
):
    """One of the videos was not to be had while the shards were built; docs/guides/maintain.md says
    what to do then.
    """
    out = tmp_path / "dataset"
    job, video, away = (
        parse_job(extract_command(reference.clips, out)[3:]),
        reference.clips.with_name("001.mp4"),
        tmp_path / "away.mp4",
    )
    rows, dataset = (
        plan_rows(
            (plan_in_worker(job.build, None, clip) for clip in list_clips(job.clips)),
            job.build.plan,
        ),
        Dataset(out),
    )
    with dataset.lock():
        dataset.create_or_resume(rows, to_contract(job.build), library_versions(job.build))
        video.rename(away)
        for shard, mine in groupby(rows, key=lambda row: row.shard):
            list(build_shard(dataset, shard, list(mine), job.build))
        away.rename(video)
        finalize(dataset)
    lost = [
        row["shard"]
        for row in pq.read_table(out / "manifest.parquet").to_pylist()
        if row["outcome"] == "quarantined"
    ]
    assert (
        lost == [SHARDS[0]]
        and run_without_ray(reference.clips, out) == 0
        and promised_digests(out) != reference.digests
    )
    dataset.record_path(SHARDS[0]).unlink()
    assert run_without_ray(reference.clips, out) == 0, out.with_suffix(".log").read_text()
    assert promised_digests(out) == reference.digests


@pytest.mark.slow
def test_a_run_whose_folder_of_videos_goes_away_commits_no_quarantine(reference, tmp_path):
    """After the plan, as a mount does; when it is there again, the same command ends the run."""
    out, log, folder = tmp_path / "dataset", tmp_path / "log", reference.clips.parent
    run = start_without_ray(
        reference.clips,
        out,
        log,
        **{CRASHPOINT_VARIABLE: f"before-open {SHARDS[1]} 1", SIGNAL_VARIABLE: "SIGSTOP"},
    )
    wait_until_stopped(run)
    folder.rename(tmp_path / "unmounted")
    try:
        os.kill(run.pid, signal.SIGCONT)
        assert wait_for_exit(run) == ExitCode.STORAGE and log.read_text().splitlines()[1:] == [
            f"quiver: {folder}: No such file or directory"
        ], log.read_text()
    finally:
        (tmp_path / "unmounted").rename(folder)
    assert [path.stem for path in (out / "records").iterdir()] == [SHARDS[0]]
    assert run_without_ray(reference.clips, out) == 0 and promised_digests(out) == reference.digests


@pytest.mark.slow
@pytest.mark.promise("P8")
def test_bad_clips_among_good_ones_cost_themselves(reference, tmp_path, record_property):
    """With names that a shell or a table could stumble over."""
    folder, out, expected, number = (
        reference.clips.parent,
        tmp_path / "dataset",
        {},
        choose_count(5, 1),
    )
    for kind, (make, reasons) in BAD.items():
        for i in range(number):
            expected[make(folder / f"bad {kind} $(x) ' ä{i}.mp4").name] = reasons
    table = write_table(folder / "with bad.csv", range(CLIP_COUNT))
    table.write_text(
        table.read_text() + "".join(f"{name},bad-{i},train\n" for i, name in enumerate(expected))
    )
    links = links_out(tmp_path / "links", folder / "000.mp4", number)
    expected |= {path.name: {Reason.FORBIDDEN_PATH} for path in links.iterdir()}
    assert run_without_ray(table, out, options=("--clips", str(table), str(links))) == 0, (
        out.with_suffix(".log").read_text()
    )
    rows = [
        row
        for row in pq.read_table(out / "manifest.parquet").to_pylist()
        if Path(row["uri"]).name in expected
    ]
    assert {Path(row["uri"]).name for row in rows} == expected.keys()
    for row in rows:
        assert (
            row["outcome"] == "quarantined" and row["reason"] in expected[Path(row["uri"]).name]
        ), row
    found, wanted, counts = (
        members(out),
        members(reference.root),
        count_windows(reference._replace(root=out), out),
    )
    came = dict(injections=len(expected), losses=counts.losses, duplicates=counts.duplicates)
    for name, value in (
        came
        | dict(
            different=sum(
                found.get(name) != wanted.get(name) for name in found.keys() | wanted.keys()
            )
        )
    ).items():
        record_property(name, value)
    assert found == wanted and counts == (0, 0)
