"""The real commands that take care of a dataset: status, verify, repair, finalize."""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from threading import Timer

import pytest

from jobs import cluster, extract_flow, finalize, refilter, repair, status, verify
from jobs.cli import main
from pipeline.dataset import finalize as derived
from pipeline.dataset import views
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import DatasetView
from pipeline.dataset.run_lock import STALE_AFTER_S, FolderInUse
from schemas.seal import open_seal, seal
from tests.support import damage

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return damage.make_dataset(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def root(sound, tmp_path) -> Path:
    return damage.copy_dataset(sound, tmp_path)


def called(job, capsys, *arguments: object) -> tuple[int, str, str]:
    """Returns exit code, standard output and standard error of a job in this process."""
    code = 0
    try:
        job.main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def quiver(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli.main", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.sample(20)
@pytest.mark.slow
@pytest.mark.promise("P15")
@pytest.mark.parametrize("how", ["delete", "corrupt", "empty"])
@pytest.mark.parametrize(
    "names",
    [*((name,) for name in damage.DERIVED_FILES), damage.DERIVED_FILES],
    ids=lambda names: names[0] if len(names) == 1 else "all",
)
def test_every_derived_file_can_be_lost_and_comes_back(root, sound, capsys, names, how):
    for name in names:
        data = (root / name).read_bytes()
        (root / name).unlink() if how == "delete" else (root / name).write_bytes(
            data[: len(data) // 2] + b"?" if how == "corrupt" else b""
        )
    code, out, _ = called(finalize, capsys, root, "--no-report")
    assert code == 0 and all(name in out for name in names)
    assert damage.read_promised_files(root) == damage.read_promised_files(sound)


@pytest.mark.thorough
@pytest.mark.promise("P15")
def test_the_report_and_the_files_of_a_view_come_back_too(root, capsys):
    assert called(refilter, capsys, root, "--name", "strict", "--camera-motion", "0.2")[0] == 0
    assert called(finalize, capsys, root)[0] == 0
    view = [path for path in (root / "views").iterdir() if path.name != "strict.json"]
    before = {path: path.read_bytes() for path in [root / "report.html", *view]}
    assert len(view) == 4 and b"<html" in before[root / "report.html"]
    for i, path in enumerate(before):
        path.unlink() if i % 2 else path.write_bytes(b"damage")
    assert called(finalize, capsys, root)[0] == 0
    assert {path: path.read_bytes() for path in before} == before


def test_an_unfinished_data_set_is_not_finalized(root, capsys):
    (root / "records" / "train-000001.json").unlink()
    code, _, err = called(finalize, capsys, root)
    assert code == 2 and "1 of 3 shards" in err and "train-000001" in err


@pytest.mark.parametrize(
    "path, words",
    [
        ("records/train-000000.json", "has changed since it was written"),
        ("plan.parquet", "not the plan of run.json"),
    ],
)
def test_nothing_is_derived_from_what_is_damaged(root, capsys, path, words):
    data = bytearray((root / path).read_bytes())
    data[data.index(b"0.") + 2 if path.endswith(".json") else 9] ^= 1
    (root / path).write_bytes(data)
    before = damage.read_promised_files(root)
    code, _, err = called(finalize, capsys, root)
    assert code == 5 and words in err and err.count("\n") == 1
    assert damage.read_promised_files(root) == before


@pytest.mark.parametrize("job", [status, verify, repair, finalize])
def test_a_folder_without_a_data_set_is_a_sentence_and_stays_as_it_is(tmp_path, capsys, job):
    for folder in (tmp_path, tmp_path / "nowhere"):
        code, _, err = called(job, capsys, folder)
        assert code == 2 and f"{folder} holds no dataset" in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("job", [repair, finalize])
def test_a_folder_that_a_run_holds_is_left_alone(root, capsys, job):
    with Dataset(root).lock():
        code, _, err = called(job, capsys, root)
    assert code == 4 and "another run is writing" in err


def test_status_counts_what_the_manifest_says(root, capsys):
    code, out, _ = called(status, capsys, root)
    assert (
        code == 0
        and "3 of 3 shards built, 10 of 10 windows" in out
        and "8 kept (test 2, train 6)" in out
        and "2 rejected (frozen 2)" in out
    )
    found = json.loads(called(status, capsys, root, "--json")[1])
    assert found.items() >= json.loads((root / "summary.json").read_bytes()).items()
    assert found["left"] == {"shards": 0, "windows": 0} and found["running"] is False
    assert (found["derived_missing"], found["derived_out_of_date"], found["views"]) == ([], [], [])


def test_status_of_an_unfinished_data_set_says_what_is_left_and_how_long_it_takes(root, capsys):
    (root / "records" / "train-000001.json").unlink()
    old = dict(shard="a", kept=1000, rejected=0, quarantined=0, elapsed_s=1.0, at=100.0)
    new = [
        old | dict(kept=2, elapsed_s=4.0, at=1004.0),
        old | dict(kept=1, rejected=2, quarantined=1, elapsed_s=12.0, at=1012.0),
    ]
    (root / "progress.jsonl").write_text(
        "\n".join(map(json.dumps, [old, *new])) + '\n{"shard": "tor'
    )
    found = json.loads(called(status, capsys, root, "--json")[1])
    assert found["left"] == {"shards": 1, "windows": 4} and found["planned"] == {
        "shards": 3,
        "windows": 10,
    }
    assert (found["windows_per_second"], found["seconds_left"]) == (0.5, 8.0)
    out = called(status, capsys, root)[1]
    assert (
        "2 of 3 shards built, 6 of 10 windows" in out and "0.50 windows a second about 8 s" in out
    )
    with Dataset(root).lock():
        assert (
            "a run is writing to it now, 0.50 windows a second, about 8 s left"
            in called(status, capsys, root)[1]
        )


def test_status_tells_a_run_that_lives_from_one_that_is_paused_and_one_that_died(root, capsys):
    def said() -> tuple[str, bool]:
        return called(status, capsys, root)[1], json.loads(
            called(status, capsys, root, "--json")[1]
        )["running"]

    assert (
        json.loads(called(status, capsys, root, "--json")[1])["last_run"] is None
        and "process" not in said()[0]
    )
    fence = Dataset(root).run_lock
    with fence.acquire() as token:
        out, running = said()
        assert (
            running
            and "a run is writing to it now" in out
            and f"the run that holds it: process {os.getpid()} on {os.uname().nodename}, since "
            in out
        )
        left = fence.token_path(token).read_bytes()
        os.utime(fence.token_path(token), (time.time() - 200,) * 2)
        out, running = said()
        assert (
            running
            and "does not move, it is paused: extract-flow --take-over-s 60 goes on in its place"
            in out
            and "last seen 20" in out
        )
    fence.token_path(token).write_bytes(left)  # as one that was killed leaves it
    out, running = said()
    assert not running and f"the run before died: process {os.getpid()} on" in out


def test_status_names_derived_files_that_are_missing_or_out_of_date(root, capsys):
    (root / "statistics.json").unlink()
    (root / "summary.json").write_text("{}")
    (root / "histogram.safetensors").write_bytes(b"")
    out = called(status, capsys, root)[1]
    assert (
        re.search(r"missing: statistics.json; quiver finalize", out)
        and "out of date: histogram.safetensors, summary.json" in out
    )


def test_status_names_damaged_records_and_goes_on(root, capsys):
    damage.flip_bit("records/test-000000.json", 0.5, 0, root)
    code, out, _ = called(status, capsys, root)
    assert code == 0 and "damaged records: test-000000" in out and "6 kept (train 6)" in out


def test_a_look_at_the_lock_does_not_stop_a_run(root):
    with Dataset(root).lock():
        pass
    with open(
        Dataset(root).run_lock.token_path(Dataset(root).run_lock.newest_token()), "rb"
    ) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert not Dataset(root).is_locked()
        Timer(0.05, fcntl.flock, (file, fcntl.LOCK_UN)).start()
        with Dataset(root).lock():
            pass
    with Dataset(root).lock():
        assert Dataset(root).is_locked()
    assert not Dataset(root).is_locked()


@pytest.mark.thorough
def test_verify_says_that_all_is_whole_in_as_many_processes(root, capsys):
    code, out, _ = called(verify, capsys, root)
    assert code == 0 and "whole (3 shards read, derived files built again and compared)" in out
    damage.flip_bit(damage.TARS[0], 0.5, 0, root)
    alone, two = quiver("verify", root), quiver("verify", root, "--workers", "2")
    assert (
        alone.returncode == two.returncode == 5
        and alone.stdout == two.stdout
        and "shards/train-000000.tar: member clip-1" in alone.stdout
    )


def test_verify_prints_one_object_for_a_program(root, capsys):
    assert (
        json.loads(called(verify, capsys, root, "--json")[1]).items()
        >= {"whole": True, "faults": [], "shards": 3, "compared": True}.items()
    )
    (root / "shards" / "a\x1b[31m.txt").write_text("")
    code, out, _ = called(verify, capsys, root, "--json")
    (fault,) = json.loads(out)["faults"]
    assert code == 5 and fault == {
        "path": "shards/a\x1b[31m.txt",
        "what": "no shard of the plan has that name",
        "remedy": "move",
        "shard": None,
    }
    assert "\x1b" not in called(verify, capsys, root)[1]


def test_verify_of_an_unfinished_data_set_is_no_failure(root, capsys):
    for name in ("records/train-000001.json", *damage.DERIVED_FILES):
        (root / name).unlink()
    code, out, _ = called(verify, capsys, root)
    assert (
        code == 0 and "sound so far (2 shards read)" in out and "1 shard of 3 not built yet" in out
    )


@pytest.mark.thorough
@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_repair_brings_back_the_bytes_by_the_real_command(root, sound, workers):
    damage.flip_bit(damage.TARS[0], 0.5, 0, root)
    damage.delete_file("records/test-000000.json", root)
    damage.delete_file("histograms/train-000001.safetensors", root)
    damage.add_file("shards/notes.txt", root)
    done = quiver("repair", root, *workers)
    assert done.returncode == 0, done.stderr
    put_aside = ", ".join(
        f".removed/{path}"
        for path in (
            "records/train-000000.json",
            "shards/train-000000.tar",
            "histograms/train-000000.safetensors",
        )
    )
    assert f"shard train-000000: {put_aside} put aside; building it again" in done.stdout
    assert [path.name for path in (root / ".removed").rglob("*") if path.is_file()] == ["notes.txt"]
    assert (
        "histograms/train-000001.safetensors: counted again" in done.stdout
        and "moved to .removed/shards/notes.txt" in done.stdout
    )
    assert damage.read_promised_files(root) == damage.read_promised_files(sound)
    again = quiver("repair", root)
    assert again.returncode == 0 and "nothing to repair" in again.stdout


@contextmanager
def taken_over(old: Dataset) -> Iterator[None]:
    """Another run takes over from this one, which was paused."""
    os.utime(old.run_lock.token_path(old.run_lock.newest_token()), (0, 0))
    with Dataset(old.root).lock(STALE_AFTER_S):
        yield


@pytest.mark.promise("P14")
@pytest.mark.parametrize(
    "harm",
    [
        partial(damage.delete_file, "histograms/train-000001.safetensors"),
        partial(damage.add_file, "shards/notes.txt"),
    ],
)
def test_a_repair_that_was_taken_over_when_it_had_looked_moves_and_writes_nothing(root, harm):
    harm(root)
    before = damage.read_promised_files(root)
    with (old := Dataset(root)).lock():
        found = verify.verify(old)
        with (
            taken_over(old),
            pytest.raises(FolderInUse, match=f"a later run has taken over {root}"),
        ):
            repair.repair(old, found, lambda: nullcontext(lambda shards: []))
    assert damage.read_promised_files(root) == before


@pytest.mark.promise("P14")
@pytest.mark.parametrize(
    "derive",
    [
        derived.finalize,
        lambda dataset: views.refilter(
            dataset,
            "strict",
            DatasetView(dataset).thresholds(),
            partial(cluster.parallel_map, workers=1),
        ),
        lambda dataset: finalize.write_report(
            DatasetView(dataset), lambda selections, statistics: "another"
        ),
    ],
    ids=["finalize", "refilter", "the report"],
)
def test_what_derives_files_and_was_taken_over_writes_none(root, derive):
    before = damage.read_promised_files(root)
    with (
        (old := Dataset(root)).lock(),
        taken_over(old),
        pytest.raises(FolderInUse, match=f"a later run has taken over {root}"),
    ):
        derive(old)
    assert damage.read_promised_files(root) == before and not Dataset(root).temporary_files()


@pytest.mark.promise("P14")
def test_a_repair_that_was_taken_over_while_ray_began_puts_no_shard_aside(root):
    """Another process has rebuilt it in the meantime, without damage."""
    sound = damage.read_promised_files(root)
    damage.flip_bit(damage.TARS[0], 0.5, 0, root)
    with (old := Dataset(root)).lock(), ExitStack() as later:

        def begun() -> AbstractContextManager[repair.BuildShards]:
            later.enter_context(taken_over(old))
            (root / damage.TARS[0]).write_bytes(sound[damage.TARS[0]])
            return nullcontext(lambda shards: [])

        with pytest.raises(FolderInUse, match=f"a later run has taken over {root}"):
            repair.repair(old, verify.verify(old), begun)
    assert damage.read_promised_files(root) == sound


@pytest.mark.thorough
def test_repair_keeps_what_it_cannot_build_to_the_same_bytes(root, capsys):
    tar = (root / damage.TARS[0]).read_bytes()
    damage.flip_bit("records/train-000000.json", 0.5, 0, root)
    index = open_seal((root / "index.json").read_bytes(), indent=1)
    index["shards"]["train-000000"]["tar"] = (
        "0" * 64
    )  # what the shard is said to have been, and cannot become
    (root / "index.json").write_bytes(seal(index, indent=1))
    code, out, _ = called(repair, capsys, root)
    assert code == 5 and "came out differently" in out
    assert (root / ".removed" / damage.TARS[0]).read_bytes() == tar


@pytest.mark.slow
def test_a_damaged_or_lost_file_of_a_view_is_a_fault_and_comes_back(root, capsys):
    assert called(refilter, capsys, root, "--name", "strict", "--camera-motion", "0.2")[0] == 0
    before = {path: path.read_bytes() for path in (root / "views").iterdir()}
    for path in before:
        if path.name == "strict.json":
            continue
        path.write_bytes(b"damage")
        code, out, _ = called(verify, capsys, root)
        assert code == 5 and f"views/{path.name}: is not what the records give" in out
    (root / "views" / "strict.parquet").unlink()
    assert "views: strict" in called(status, capsys, root)[1]
    assert called(repair, capsys, root)[0] == 0 and called(verify, capsys, root)[0] == 0
    assert {path: path.read_bytes() for path in before} == before


def test_repair_leaves_a_shard_alone_whose_video_is_another(root, capsys, tmp_path):
    damage.flip_bit(damage.TARS[0], 0.5, 0, root)
    before = damage.read_promised_files(root)
    (video, *_) = sorted(
        row.uri for row in Dataset(root).planned_rows() if row.shard == "train-000000"
    )
    data = Path(video).read_bytes()
    try:
        Path(video).write_bytes(data + b"x")
        code, out, err = called(repair, capsys, root)
    finally:
        Path(video).write_bytes(data)
    assert (
        code == 5
        and f"left as it is: video {video} is not the one that was planned" in out
        and "not what it was" in err
    )
    assert damage.read_promised_files(root) == before


@pytest.mark.parametrize(
    "path, words",
    list(
        zip(
            damage.CONTRACT_FILES,
            (
                "run the same extract-flow command with a new --out",
                "the same extract-flow command writes it again while",
            ),
            strict=True,
        )
    ),
)
def test_what_cannot_be_repaired_says_what_to_do(root, capsys, path, words):
    (root / path).write_bytes(b"{}")
    code, out, _ = called(repair, capsys, root)
    assert code == 5 and f"{path}: " in out and words in out


def test_out_that_is_a_file_is_a_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "a.mp4").write_text("")
    code, _, err = called(
        extract_flow, capsys, "--clips", tmp_path / "a.mp4", "--out", tmp_path / "file"
    )
    assert (
        code == 2
        and "file', which is a file; expected a folder" in err
        and (tmp_path / "file").read_text() == "mine"
    )


def test_the_version_is_that_of_the_package(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["quiver", "--version"])
    main.main()
    assert re.fullmatch(r"quiver \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize("name", ["status", "verify", "repair", "finalize"])
def test_a_job_file_can_be_run(name):
    assert os.access(ROOT / "jobs" / f"{name}.py", os.X_OK) and name in main.VERBS
