"""What failed for a reason that may be the machine's is tried again, exactly that, whatever kills
the retry.
"""

import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.cli.errors import ExitCode
from pipeline.dataset.crashpoint import CRASHPOINT_VARIABLE, ROUND_POINTS
from pipeline.dataset.finalize import DERIVED_FILES, finalize
from pipeline.dataset.folder import DamagedPlan, Dataset
from pipeline.dataset.open import DatasetView, iter_samples
from pipeline.dataset.views import refilter
from pipeline.extract.build_shard import build_shard
from pipeline.extract.config import from_contract
from pipeline.extract.retry import find_retryable
from pipeline.filters import PRESETS
from pipeline.maintain.faults import Remedy
from pipeline.maintain.repair import rows_to_rebuild
from pipeline.maintain.verify import verify
from tests.faults import storage
from tests.faults.reference import (
    FULL_COUNTS,
    SHARDS,
    Reference,
    committed_files,
    count_windows,
    extract_command,
    promised_digests,
    tar_names,
)
from tests.faults.runs import (
    build_in_process,
    kill_without_ray,
    retry_in_process,
    run_forked,
    run_without_ray,
)

WINDOWS, BARREN = (1, 3), 2
"""Clips of which the video is gone when the shards are built, and when the clips are planned."""
RETRIED = "train-retry001-000000"


@pytest.fixture(scope="module")
def broken(reference, tmp_path_factory) -> Reference:
    return finished_without_some(reference, tmp_path_factory.mktemp("broken"))


def finished_without_some(reference: Reference, folder: Path) -> Reference:
    """A data set that was finished while videos were missing: two when the shards were built, one
    from the beginning.
    """
    table, out, away = copied(reference, folder / "clips"), folder / "dataset", folder / "away"
    away.mkdir()
    move(table.parent, away, BARREN)
    assert kill_without_ray(table, out, f"before-open {SHARDS[0]} 1") == -signal.SIGKILL
    move(table.parent, away, *WINDOWS)
    assert run_without_ray(table, out) == 0, out.with_suffix(".log").read_text()
    move(away, table.parent, BARREN, *WINDOWS)
    return Reference(table, out, promised_digests(out))


def copied(reference: Reference, folder: Path) -> Path:
    return (
        Path(
            shutil.copytree(reference.clips.parent, folder, ignore=shutil.ignore_patterns("bad *"))
        )
        / reference.clips.name
    )


def move(folder: Path, goal: Path, *clips: int) -> None:
    for clip in clips:
        (folder / f"{clip:03d}.mp4").rename(goal / f"{clip:03d}.mp4")


@pytest.fixture
def out(broken, tmp_path) -> Path:
    return Path(shutil.copytree(broken.root, tmp_path / "dataset"))


def retried(out: Path, **env: str) -> int:
    return run_forked(retry_in_process, str(out), None, output=out.with_suffix(".log"), **env)


def rows_of(out: Path) -> list[dict]:
    return pq.read_table(out / "manifest.parquet").to_pylist()


def members(root: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path in (root / "shards").glob("*.tar"):
        with tarfile.open(path) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
    return found


def assert_whole(reference: Reference, out: Path) -> None:
    """Every sample is the reference's, no window is lost or twice, and the derived files follow
    from the records.
    """
    dataset = Dataset(out)
    assert members(out) == members(reference.root) and count_windows(reference, out) == (0, 0)
    fates = [
        {row["key"]: (row["outcome"], row["reason"]) for row in rows_of(root)}
        for root in (reference.root, out)
    ]
    assert fates[0] == fates[1]
    found = verify(dataset)
    assert not found.faults and not found.unbuilt and found.compared
    before = promised_digests(out)
    for name in DERIVED_FILES:
        (out / name).unlink(missing_ok=True)
    finalize(dataset)
    assert promised_digests(out) == before


@pytest.mark.slow
def test_what_the_machine_may_have_done_is_marked_and_nothing_else(broken):
    windows, clips = find_retryable(Dataset(broken.root))
    assert {row.clip_id for row in windows} == {f"clip-{clip:03d}" for clip in WINDOWS}
    assert [(row.clip_id, row.reason, row.sha256, row.split) for row in clips] == [
        (f"clip-{BARREN:03d}", "missing", None, "train")
    ]


@pytest.mark.thorough
def test_a_retry_ends_at_the_samples_of_an_undisturbed_run(reference, broken, out):
    before, plan = committed_files(out), (out / "plan.parquet").read_bytes()
    assert retried(out) == 0, out.with_suffix(".log").read_text()
    assert (
        before.items() <= committed_files(out).items()
        and (out / "plan.parquet").read_bytes() == plan
    )
    assert {
        row["shard"]
        for row in rows_of(out)
        if row["clip_id"] in (f"clip-{clip:03d}" for clip in (BARREN, *WINDOWS))
    } == {f"train-retry001-{i:06d}" for i in range(-(-(len(WINDOWS) + 1) // 2))}
    assert_whole(reference, out)
    assert {
        sample.key
        for shard in DatasetView(Dataset(out)).read_index().shards
        for sample in iter_samples(DatasetView(Dataset(out)), shard)
    } == {row["key"] for row in rows_of(out) if row["outcome"] == "kept"}
    done = promised_digests(out)
    assert retried(out) == 0 and promised_digests(out) == done, "nothing is left to try again"
    assert run_without_ray(broken.clips, out) == 0 and promised_digests(out) == done, (
        "the command that made it changes nothing"
    )


KILLED = [
    *(f"{point} run 1" for point in ROUND_POINTS),
    f"mid-member {RETRIED} 3",
    f"after-rename {RETRIED} 1",
    f"mid-record {RETRIED} 1",
    f"after-record {RETRIED} 1",
    f"mid-finalize {RETRIED} 1",
]
COMMANDS = {"retry": True, "extract-flow": False}
CASES = [
    (armed, name)
    for i, armed in enumerate(KILLED)
    for j, name in enumerate(COMMANDS)
    if FULL_COUNTS or i % 2 == j or i == 0
]


@pytest.mark.thorough
@pytest.mark.parametrize("armed, name", CASES)
def test_a_retry_that_is_killed_is_finished_by_the_same_command_or_by_the_first(
    reference, broken, out, armed, name
):
    before = committed_files(out)
    assert retried(out, **{CRASHPOINT_VARIABLE: armed}) == -signal.SIGKILL
    between = committed_files(out)
    assert before.items() <= between.items()
    code = retried(out) if COMMANDS[name] else run_without_ray(broken.clips, out)
    assert code == 0, out.with_suffix(".log").read_text()
    if (
        not COMMANDS[name] and armed == "mid-round run 1"
    ):  # no round was begun: there is nothing to finish
        assert find_retryable(Dataset(out)) and retried(out) == 0
    assert between.items() <= committed_files(out).items()
    assert_whole(reference, out)


@pytest.mark.thorough
def test_what_fails_again_can_be_tried_once_more_and_what_is_decided_stays(reference, tmp_path):
    """A video that is none by now is final; one that is still missing is not."""
    made = finished_without_some(reference, tmp_path)
    folder, away, out = made.clips.parent, tmp_path / "away", made.root
    move(folder, away, BARREN, WINDOWS[0])
    assert retried(out) == 0, out.with_suffix(".log").read_text()
    again = find_retryable(Dataset(out))
    assert [row.clip_id for row in (*again.windows, *again.clips)] == [
        f"clip-{clip:03d}" for clip in (WINDOWS[0], BARREN)
    ]
    (folder / f"{BARREN:03d}.mp4").write_bytes(b"no film at all")
    move(away, folder, WINDOWS[0])
    assert retried(out) == 0, out.with_suffix(".log").read_text()
    assert not find_retryable(Dataset(out)) and len(Dataset(out).rounds()) == 2
    (row,) = [row for row in rows_of(out) if row["clip_id"] == f"clip-{BARREN:03d}"]
    assert (row["key"], row["reason"]) == (None, "not_media")
    found = verify(Dataset(out))
    assert not found.faults and found.compared
    names = [name for path in (out / "shards").glob("*.tar") for name in tar_names(path)]
    assert len(names) == len(set(names))


@pytest.mark.slow
@pytest.mark.parametrize("retry_first", [False, True])
def test_a_shard_that_is_built_again_keeps_what_the_retry_has_taken_over(
    reference, out, retry_first
):
    """Else its windows would stand in two tars, and a rebuilt shard would have other bytes."""
    dataset = Dataset(out)
    if retry_first:
        assert retried(out) == 0
    before, names = (
        promised_digests(out),
        {name for path in (out / "shards").glob("*.tar") for name in tar_names(path)},
    )
    rows = rows_to_rebuild(dataset, {SHARDS[0]})[SHARDS[0]]
    assert [row.key for row in rows if row.known_result is not None] == ["clip-001-000000"]
    for path in (
        dataset.tar_path(SHARDS[0]),
        dataset.record_path(SHARDS[0]),
        dataset.histogram_path(SHARDS[0]),
    ):
        path.unlink(missing_ok=True)
    if retry_first:  # the record is gone, and the round knows
        rows = rows_to_rebuild(dataset, {SHARDS[0]})[SHARDS[0]]
    list(build_shard(dataset, SHARDS[0], rows, from_contract(dataset.contract().config)))
    finalize(dataset)
    assert promised_digests(out) == before
    assert {name for path in (out / "shards").glob("*.tar") for name in tar_names(path)} == names


@pytest.mark.slow
def test_a_round_that_was_damaged_is_named_put_aside_and_made_again(reference, out):
    assert retried(out) == 0
    path = out / "retries" / "001.json"
    data = bytearray(path.read_bytes())
    for place in range(40, len(data), len(data) // 60):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        faults = verify(Dataset(out)).faults
        assert faults[-1].path == "retries/001.json" and {f.remedy for f in faults} == {Remedy.MOVE}
        assert {fault.path for fault in faults} >= {
            f"records/{RETRIED}.json",
            f"shards/{RETRIED}.tar",
        }
        with pytest.raises(DamagedPlan, match="quiver repair"):
            Dataset(out).planned_rows()
    path.unlink()
    (fault,) = verify(Dataset(out)).faults
    assert (fault.path, fault.remedy) == ("retries/001.json", Remedy.PUT_BACK)


@pytest.mark.slow
def test_a_view_of_a_data_set_whose_windows_were_tried_again(out):
    assert retried(out) == 0
    dataset = Dataset(out)
    with dataset.lock():
        judged = refilter(
            dataset,
            "all",
            PRESETS["none"],
            lambda function, items: ((item, function(item)) for item in items),
        )
    assert judged.kept == sum(row["outcome"] == "kept" for row in rows_of(out))
    assert not verify(dataset).faults


@pytest.mark.slow
def test_nothing_is_tried_in_a_folder_that_is_none_or_not_finished(broken, tmp_path):
    for folder in (tmp_path / "none", tmp_path / "begun"):
        if folder.name == "begun":
            assert (
                kill_without_ray(broken.clips, folder, f"before-open {SHARDS[0]} 1")
                == -signal.SIGKILL
            )
        code = retried(folder)
        assert code == ExitCode.USAGE, folder.with_suffix(".log").read_text()


REMOTE_KILLED = [
    "after-round run 1",
    "after-round-upload run 1",
    f"after-upload-tar {RETRIED} 1",
    f"after-commit {RETRIED} 1",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    with storage.s3_server(tmp_path_factory.mktemp("storage") / "log") as address:
        storage.s3_client(address).create_bucket(Bucket=storage.BUCKET)
        yield address


@pytest.mark.thorough
@pytest.mark.parametrize("armed", [*REMOTE_KILLED] if FULL_COUNTS else REMOTE_KILLED[1:3])
def test_a_retry_in_object_storage_is_killed_and_finished_from_elsewhere(
    reference, server, tmp_path, armed
):
    """Through a storage that fails one call in five; the second machine has none of its files."""
    table, away, prefix = copied(reference, tmp_path / "clips"), tmp_path / "away", tmp_path.name
    away.mkdir()
    with storage.faulty_proxy(server) as proxy:

        def run(function: Callable, *arguments: Any, staging: str, **env: str) -> int:
            log = tmp_path / f"{staging}.log"
            return run_forked(
                function,
                *arguments,
                tmp_path / staging,
                output=log,
                **storage.proxy_environment(proxy),
                **env,
            )

        def extract(staging: str, **env: str) -> int:
            words = extract_command(table, Path("out"), "--staging", str(tmp_path / staging))[3:]
            return run(
                build_there,
                [storage.bucket_url(prefix) if word == "out" else word for word in words],
                staging=staging,
                **env,
            )

        move(table.parent, away, BARREN)
        assert (
            extract("a", **{CRASHPOINT_VARIABLE: f"before-open {SHARDS[0]} 1"}) == -signal.SIGKILL
        )
        move(table.parent, away, *WINDOWS)
        assert extract("a") == 0, (tmp_path / "a.log").read_text()
        move(away, table.parent, BARREN, *WINDOWS)
        before = promised_digests(storage.download_dataset(server, prefix, tmp_path / "before"))
        assert (
            run(
                retry_in_process,
                storage.bucket_url(prefix),
                staging="a",
                **{CRASHPOINT_VARIABLE: armed},
            )
            == -signal.SIGKILL
        )
        assert run(retry_in_process, storage.bucket_url(prefix), staging="b") == 0, (
            tmp_path / "b.log"
        ).read_text()
        found = storage.download_dataset(server, prefix, tmp_path / "found")
        kept = {
            name
            for name in before
            if name.startswith(("records/", "shards/", "histograms/", "run.json", "plan.parquet"))
        }
        assert {name: before[name] for name in kept}.items() <= promised_digests(found).items()
        assert_whole(reference, found)
        assert extract("c") == 0, (tmp_path / "c.log").read_text()
        again = storage.download_dataset(server, prefix, tmp_path / "again")
        assert promised_digests(again) == promised_digests(found)


def build_there(arguments: list[str], _: Path) -> None:
    build_in_process(arguments)
