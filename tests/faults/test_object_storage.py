"""P26: a data set in object storage, which fails one call in five, drops uploads and loses answers,
is the one of the undisturbed run in a folder.
"""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Barrier
from urllib.parse import unquote

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.cli.errors import ExitCode
from pipeline.dataset import object_store
from pipeline.dataset.commit import AlreadyCommitted, ShardDraft
from pipeline.dataset.crashpoint import CRASHPOINT_VARIABLE, POINTS, REMOTE_POINTS, SIGNAL_VARIABLE
from pipeline.dataset.remote import RemoteDataset
from pipeline.dataset.run_lock import LOCK_FOLDER
from pipeline.extract.config import to_contract
from schemas.outcome import FilterMeasures, Outcome, Reason, Stage
from schemas.shard_record import RecordRow
from tests.faults import storage
from tests.faults.reference import (
    FULL_COUNTS,
    PLACED_SHARDS,
    ROOT,
    SHARDS,
    SINGLE_THREAD_ENV,
    choose_count,
    count_windows,
    extract_command,
    promised_digests,
)
from tests.faults.runs import (
    TAKE_OVER_OPTIONS,
    build_in_process,
    run_forked,
    start_forked,
    wait_for_exit,
    wait_until_stopped,
)
from tests.faults.storage import FaultyProxy, bucket_url, download_dataset
from tests.support.datasets import CONFIG, PASSING_MEASURES, judge_window, make_plan_row

pytestmark = pytest.mark.promise("P26")
PASSES = {"mid-member": 3}
WHERE = {
    "after-contract": {"begun": "run"},
    "after-derived": {"manifest": "manifest", "card": "README"},
}
CRASHES = [
    (point, place, shard)
    for point in (*REMOTE_POINTS, *POINTS)
    for place, shard in WHERE.get(point, PLACED_SHARDS).items()
]
QUICK = [
    ("after-contract", "begun"),
    ("after-upload-tar", "first"),
    ("after-commit", "middle"),
    ("after-copy", "last"),
    ("after-record", "first"),
    ("mid-finalize", "last"),
]
"""In `make test`; all in `make test-faults`."""
SOME = CRASHES if FULL_COUNTS else [crash for crash in CRASHES if crash[:2] in QUICK]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    with storage.s3_server(tmp_path_factory.mktemp("storage") / "log") as address:
        storage.s3_client(address).create_bucket(Bucket=storage.BUCKET)
        yield address


@pytest.fixture
def proxy(server, request) -> Iterator[FaultyProxy]:
    seed = random.Random(request.node.name).randrange(1 << 30)
    with storage.faulty_proxy(server, seed) as proxy:
        yield proxy


@pytest.fixture
def prefix(tmp_path) -> str:
    """In the storage, of this test."""
    return f"{tmp_path.parent.name}/{tmp_path.name}"


def run(
    clips: Path, prefix: str, staging: Path, proxy: FaultyProxy, *options: str, **env: str
) -> int:
    """Exit code of a run without Ray, whose output is beside its staging folder."""
    return run_forked(
        build_in_process,
        arguments(clips, prefix, staging, *options),
        output=staging.with_suffix(".log"),
        **storage.proxy_environment(proxy),
        **env,
    )


def arguments(clips: Path, prefix: str, staging: Path, *options: str) -> list[str]:
    words = extract_command(clips, Path("out"), "--staging", str(staging), *options)[3:]
    return [bucket_url(prefix) if word == "out" else word for word in words]


def written(proxy: FaultyProxy, prefix: str) -> list[str]:
    """Names of the data set's objects that were written, in order."""
    return [
        unquote(path).split(f"/{prefix}/")[1]
        for method, path in list(proxy.changes)
        if method == "PUT"
    ]


def left(folder: Path) -> list[str]:
    return sorted(
        path.name for path in folder.rglob("*") if path.is_file() and LOCK_FOLDER not in path.parts
    )


@pytest.mark.sample(2)
@pytest.mark.slow
@pytest.mark.parametrize("point, place, shard", SOME, ids=lambda value: value)
def test_a_run_killed_at(reference, injected, proxy, server, prefix, tmp_path, point, place, shard):
    """And the same command again; every second time on another machine, which has nothing of the
    first.
    """
    staging = tmp_path / "staging"
    assert (
        run(
            reference.clips,
            prefix,
            staging,
            proxy,
            **{CRASHPOINT_VARIABLE: f"{point} {shard} {PASSES.get(point, 1)}"},
        )
        == -signal.SIGKILL
    )
    before, calls = (
        promised_digests(download_dataset(server, prefix, tmp_path / "before")),
        len(written(proxy, prefix)),
    )
    again = tmp_path / "elsewhere" if CRASHES.index((point, place, shard)) % 2 else staging
    assert run(reference.clips, prefix, again, proxy) == 0, again.with_suffix(".log").read_text()
    shards = {Path(name).stem for name in before if name.startswith("records/")}
    touched = {*written(proxy, prefix)[calls:]}
    assert not touched & {
        name
        for name in before
        if name.startswith(("records/", "shards/", "histograms/", "run.json"))
    }
    assert not {
        name for name in touched for shard in shards if name.startswith(f".uploads/{shard}.")
    }
    injected.record_ended(
        download_dataset(server, prefix, tmp_path / "found"), 1 + proxy.fault_count
    )
    assert left(again) == []


@pytest.mark.thorough
def test_a_run_that_is_taken_over_from_another_machine_commits_nothing(
    reference, injected, proxy, server, prefix, tmp_path
):
    """It is stopped while it hands over a shard; runs share a token until one takes over, in the
    storage.
    """
    first, second = tmp_path / "first", tmp_path / "second"
    env = {CRASHPOINT_VARIABLE: f"after-upload-tar {SHARDS[1]} 1", SIGNAL_VARIABLE: "SIGSTOP"}
    holder = start_forked(
        build_in_process,
        arguments(reference.clips, prefix, first),
        output=first.with_suffix(".log"),
        **storage.proxy_environment(proxy),
        **env,
    )
    wait_until_stopped(holder)
    try:
        assert run(reference.clips, prefix, second, proxy, *TAKE_OVER_OPTIONS) == 0, (
            second.with_suffix(".log").read_text()
        )
        calls = len(written(proxy, prefix))
    finally:
        os.kill(holder.pid, signal.SIGCONT)
    assert (
        wait_for_exit(holder) == ExitCode.IN_USE
        and "a later run has taken over" in first.with_suffix(".log").read_text()
    ), first.with_suffix(".log").read_text()
    assert written(proxy, prefix)[calls:] == []
    injected.record_ended(
        download_dataset(server, prefix, tmp_path / "found"), 1 + proxy.fault_count
    )


@pytest.mark.thorough
def test_the_command_through_a_storage_that_fails(
    reference, injected, proxy, server, prefix, tmp_path
):
    """The real one, with two workers; it says where the data set is, and no secret of the storage
    is in it or in what is said.
    """
    env = storage.proxy_environment(proxy) | {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "AWS_SECRET_ACCESS_KEY": "canary0f00d",
    }
    words = [
        bucket_url(prefix) if word == "out" else word
        for word in extract_command(reference.clips, Path("out"))
    ]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=os.environ | SINGLE_THREAD_ENV | env,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert (
        f"manifest: {bucket_url(prefix)}/manifest.parquet" in done.stdout
        and left(tmp_path / "cache") == []
    )
    found = download_dataset(server, prefix, tmp_path / "found")
    injected.record_ended(found, proxy.fault_count)
    assert "canary0f00d" not in done.stdout + done.stderr and not [
        path for path in found.rglob("*") if path.is_file() and b"canary0f00d" in path.read_bytes()
    ]


@pytest.mark.thorough
def test_clips_that_are_in_the_storage(reference, injected, proxy, server, prefix, tmp_path):
    """A table here that names them: all that does not say where they are is as it was, and a run
    that was killed goes on.
    """
    for path in reference.clips.parent.glob(
        "[0-9]*.mp4"
    ):  # and not what other tests put beside them
        storage.s3_client(server).upload_file(
            str(path), storage.BUCKET, f"{prefix}/clips/{path.name}"
        )
    table = tmp_path / "clips.csv"
    table.write_text(
        re.sub(
            r"^(\d)",
            rf"{bucket_url(prefix)}/clips/\1",
            reference.clips.read_text(),
            flags=re.MULTILINE,
        )
    )
    staging = tmp_path / "staging"
    assert (
        run(
            table,
            f"{prefix}/out",
            staging,
            proxy,
            **{CRASHPOINT_VARIABLE: f"after-commit {SHARDS[1]} 1"},
        )
        == -signal.SIGKILL
    )
    assert run(table, f"{prefix}/out", staging, proxy) == 0, staging.with_suffix(".log").read_text()
    found = download_dataset(server, f"{prefix}/out", tmp_path / "found")
    same = [
        name
        for name in reference.digests
        if name.startswith(("shards/", "histograms/")) or name == "histogram.safetensors"
    ]
    assert {name: promised_digests(found)[name] for name in same} == {
        name: reference.digests[name] for name in same
    } and len(same) == 2 * len(SHARDS) + 1
    injected.injections += 1 + proxy.fault_count
    injected.losses, injected.duplicates = count_windows(reference, found)
    assert (injected.losses, injected.duplicates) == (0, 0) and left(staging) == []
    assert {row["uri"] for row in pq.read_table(found / "manifest.parquet").to_pylist()} == set(
        objects_in(table)
    )


def objects_in(table: Path) -> list[str]:
    return [line.split(",")[0] for line in table.read_text().splitlines()[1:]]


@pytest.mark.thorough
def test_a_worker_that_is_killed_between_record_and_copies(
    reference, injected, proxy, server, prefix, tmp_path
):
    """Of the real command: Ray gives the shard to another, which has only to copy. The driver
    lives, so the run ends by itself.
    """
    env = storage.proxy_environment(proxy) | {CRASHPOINT_VARIABLE: f"after-commit {SHARDS[1]} 1"}
    words = [*extract_command(reference.clips, Path("out"), "--staging", str(tmp_path / "staging"))]
    words = [bucket_url(prefix) if word == "out" else word for word in words]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=os.environ | SINGLE_THREAD_ENV | env,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    injected.record_ended(
        download_dataset(server, prefix, tmp_path / "found"), 1 + proxy.fault_count
    )


@pytest.mark.thorough
def test_another_configuration_or_a_full_bucket_of_another_run(
    reference, proxy, prefix, tmp_path, record_property
):
    """Is refused by what is in the storage, from whatever machine; nothing in it changes."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert (
        run(
            reference.clips,
            prefix,
            first,
            proxy,
            **{CRASHPOINT_VARIABLE: f"after-commit {SHARDS[0]} 1"},
        )
        == -signal.SIGKILL
    )
    before = len(written(proxy, prefix))
    for staging in (first, second):
        assert run(reference.clips, prefix, staging, proxy, "--pairs", "2") == ExitCode.CONTRACT
        assert "pairs: 1 -> 2" in staging.with_suffix(".log").read_text()
    assert len(written(proxy, prefix)) == before
    record_property("injections", 2)


@pytest.mark.slow
def test_a_storage_that_knows_no_conditions_is_refused(
    reference, proxy, prefix, tmp_path, record_property
):
    proxy.ignores_conditions = True
    assert run(reference.clips, prefix, tmp_path / "staging", proxy) == ExitCode.STORAGE
    assert (
        "this storage overwrites what was only to be created"
        in (tmp_path / "staging.log").read_text()
    )
    assert not [name for name in written(proxy, prefix) if not name.startswith(".uploads/")]
    record_property("injections", 1)


@pytest.mark.thorough
def test_a_storage_that_goes_away_is_one_sentence(
    reference, server, prefix, tmp_path, record_property
):
    """In the middle of a run; when it is there again, the same command ends it."""
    with storage.faulty_proxy(server, share=0.0) as proxy:
        proxy.max_requests = 25
        assert run(reference.clips, prefix, tmp_path / "staging", proxy) == ExitCode.STORAGE
    said = [
        line
        for line in (tmp_path / "staging.log").read_text().splitlines()
        if not line.startswith("shard ")
    ]
    assert (
        len(said) == 1
        and said[0].startswith(f"quiver: {bucket_url(prefix)}: ")
        and "10 times" in said[0]
    ), said
    record_property("injections", 1)


@pytest.fixture
def here(proxy, monkeypatch) -> None:
    """This process uses the storage through the proxy."""
    for name, value in storage.proxy_environment(proxy).items():
        monkeypatch.setenv(name, value)
    object_store.client.cache_clear()
    yield
    object_store.client.cache_clear()


@pytest.mark.thorough
@pytest.mark.parametrize("late", [0, 1], ids=["both at once", "one after the other has committed"])
def test_twins_on_two_machines_commit_one_shard(
    proxy, here, server, prefix, tmp_path, record_property, late
):
    """To other bytes, as GPUs do: the record and what it names are of one of them."""
    rows, rounds, together = (
        [make_plan_row(SHARDS[0], i) for i in range(2)],
        choose_count(10, 3),
        Barrier(2),
    )
    record_property("injections", rounds)
    for number in range(rounds):
        twins = [
            RemoteDataset(bucket_url(f"{prefix}/{number}"), tmp_path / f"{number}-{name}")
            for name in ("one", "two")
        ]
        with twins[0].lock():
            twins[0].create_or_resume(rows, to_contract(CONFIG), {"python": "3"})

        def attempt(twin: int, twins: list[RemoteDataset] = twins, number: int = number) -> None:
            with twins[twin].build_session(SHARDS[0]):
                draft, rng = (
                    ShardDraft(twins[twin], SHARDS[0], CONFIG.frequencies),
                    np.random.default_rng(2 * number + twin),
                )
                for row in rows:
                    draft.add(*judge_window(row, FilterMeasures(**PASSING_MEASURES), rng, CONFIG))
                draft.commit()
                together.wait(60)
                if late and twin:
                    together.wait(60)
            if late and not twin:
                together.wait(60)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(attempt, range(2)))
        found = download_dataset(server, f"{prefix}/{number}", tmp_path / f"{number}-found")
        record = check_named(found)
        assert hashlib.sha256((found / "run.json").read_bytes()).hexdigest() == record["run"]


class Interrupted(RemoteDataset):
    """Something else happens between its record and its copies."""

    meanwhile: Callable[[], None] | None = None

    def _promote_uploads(self, shard: str) -> None:
        if self.meanwhile:
            self.meanwhile()
        super()._promote_uploads(shard)


def begun(address: str, *stagings: Path) -> list[Interrupted]:
    """A data set of one shard, as attempts see it that have each a folder, or share one."""
    attempts = [Interrupted(address, staging) for staging in stagings]
    with attempts[0].lock():
        attempts[0].create_or_resume(
            [make_plan_row(SHARDS[0], i) for i in range(2)], to_contract(CONFIG), {"python": "3"}
        )
    return attempts


def built(staged: RemoteDataset, detail: str, seed: int = 0) -> None:
    """Commits the shard here: the same tar from the same seed, beside a window that was quarantined
    with these words.
    """
    rows, draft = (
        [make_plan_row(SHARDS[0], i) for i in range(2)],
        ShardDraft(staged, SHARDS[0], CONFIG.frequencies),
    )
    draft.add(
        *judge_window(
            rows[0], FilterMeasures(**PASSING_MEASURES), np.random.default_rng(seed), CONFIG
        )
    )
    draft.add(
        RecordRow(
            key=rows[1].window().key,
            outcome=Outcome.QUARANTINED,
            stage=Stage.DECODE,
            reason=Reason.OUT_OF_MEMORY,
            detail=detail,
            attempts=3,
        ),
        None,
        None,
    )
    with suppress(AlreadyCommitted):
        draft.commit()
    draft.discard()


def check_named(found: Path) -> dict:
    """The record, whose files are all that is there."""
    record = json.loads((found / f"records/{SHARDS[0]}.json").read_bytes())
    named = {
        f"shards/{SHARDS[0]}.tar": record["tar"]["sha256"],
        f"histograms/{SHARDS[0]}.safetensors": record["histogram"],
    }
    assert {
        name: sha256
        for name, sha256 in promised_digests(found).items()
        if name.startswith(("shards/", "histograms/", ".uploads"))
    } == named
    return record


@pytest.mark.thorough
@pytest.mark.parametrize("moment", ["before its copies", "after all"])
def test_twins_whose_tars_are_equal_and_whose_records_are_not(
    proxy, here, server, prefix, tmp_path, record_property, moment
):
    """Both upload under the same names; the second finds the record of the first and takes nothing
    away that it names.
    """
    first, second = begun(bucket_url(prefix), tmp_path / "one", tmp_path / "two")
    with ExitStack() as late:
        late.enter_context(second.build_session(SHARDS[0]))
        built(second, "the decoder took 2100 MB")
        first.meanwhile = late.pop_all().close if moment == "before its copies" else None
        with first.build_session(SHARDS[0]):
            built(first, "the decoder took 2050 MB")
    record = check_named(download_dataset(server, prefix, tmp_path / "found"))
    assert record["rows"][1]["detail"] == "the decoder took 2050 MB"
    assert not {*tmp_path.rglob("*.tar")} - {*(tmp_path / "found").rglob("*.tar")}
    record_property("injections", 1 + proxy.fault_count)


@pytest.mark.slow
def test_twins_on_one_machine_of_which_the_second_finds_its_tar_handed_over(
    proxy, here, server, prefix, tmp_path, record_property
):
    first, second = begun(bucket_url(prefix), tmp_path / "one", tmp_path / "one")
    with second.build_session(SHARDS[0]):
        with first.build_session(SHARDS[0]):
            built(first, "")
        built(second, "")
    check_named(download_dataset(server, prefix, tmp_path / "found"))
    record_property("injections", 1 + proxy.fault_count)


@pytest.mark.slow
def test_a_shard_is_built_again_where_its_record_was_removed(
    proxy, here, server, prefix, tmp_path, record_property
):
    """To other bytes, as after windows that a broken machine quarantined: what stands there of the
    old one is not taken for its.
    """
    first, second = begun(bucket_url(prefix), tmp_path / "one", tmp_path / "two")
    with first.build_session(SHARDS[0]):
        built(first, "", seed=0)
    first.bucket.delete(f"records/{SHARDS[0]}.json")
    second.meanwhile = crash
    with pytest.raises(KeyboardInterrupt), second.build_session(SHARDS[0]):
        built(second, "", seed=1)
    with second.lock():
        second.meanwhile = None
        second.create_or_resume(
            [make_plan_row(SHARDS[0], i) for i in range(2)], to_contract(CONFIG), {"python": "3"}
        )
    check_named(download_dataset(server, prefix, tmp_path / "found"))
    record_property("injections", 2 + proxy.fault_count)


def crash() -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_tar_that_is_gone_before_anyone_has_committed_is_an_error(
    proxy, here, prefix, tmp_path, record_property
):
    (staged,) = begun(bucket_url(prefix), tmp_path / "one")
    with pytest.raises(FileNotFoundError), staged.build_session(SHARDS[0]):
        built(staged, "")
        staged.tar_path(SHARDS[0]).unlink()
    record_property("injections", 1 + proxy.fault_count)
