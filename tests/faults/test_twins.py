"""P5: a shard that is attempted twice, by a worker that was thought dead, is committed once, and
whole.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest

from pipeline.dataset.commit import AlreadyCommitted, ShardDraft, commit_lock
from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import Dataset
from pipeline.dataset.shards import check_shard
from pipeline.extract.config import to_contract
from pipeline.maintain.verify import verify
from schemas.outcome import FilterMeasures, Outcome, Reason, Stage
from schemas.shard_record import RecordRow
from tests.faults.reference import choose_count
from tests.faults.runs import FORKSERVER
from tests.support.datasets import CONFIG, PASSING_MEASURES, judge_window, make_plan_row

pytestmark = [pytest.mark.promise("P5"), pytest.mark.timeout(choose_count(1800, 300))]
SHARD = "train-000000"
ROWS = [make_plan_row(SHARD, i) for i in range(2)]
ROUNDS, TWINS = choose_count(50, 8), 8


def attempt(datasets: Sequence[Dataset], twin: int, together: Barrier, late: bool) -> None:
    """One shard of each data set, with other bytes than its twins', committed when all are ready;
    if late, when all others are done.

    As a run's workers get them: with the token of the run that holds the folder.
    """
    for dataset in datasets:
        draft, rng, root = (
            ShardDraft(dataset, SHARD, CONFIG.frequencies),
            np.random.default_rng(twin),
            dataset.root,
        )
        for row in ROWS:
            draft.add(*judge_window(row, FilterMeasures(**PASSING_MEASURES), rng, CONFIG))
        together.wait(240)
        if late:
            together.wait(240)
        try:
            draft.commit()
            (root.parent / f"{root.name}-{twin}").touch()
        except AlreadyCommitted:
            draft.discard()
        if not late:
            together.wait(240)


def begun(root: Path, held: ExitStack) -> Dataset:
    dataset = Dataset(root)
    held.enter_context(dataset.lock())
    dataset.create_or_resume(ROWS, to_contract(CONFIG), {"python": "3"})
    return dataset


@pytest.mark.slow
@pytest.mark.parametrize("late", [0, 1], ids=["all at once", "one after all others have committed"])
def test_twins_of_a_shard_commit_it(tmp_path, record_property, late):
    roots, together = [tmp_path / f"{i}" for i in range(ROUNDS)], FORKSERVER.Barrier(TWINS)
    with ExitStack() as held:
        datasets = [begun(root, held) for root in roots]
        twins = [
            FORKSERVER.Process(target=attempt, args=(datasets, twin, together, late and twin == 0))
            for twin in range(TWINS)
        ]
        for twin in twins:
            twin.start()
        for twin in twins:
            twin.join(choose_count(1700, 280))
        assert all(
            dataset.token and dataset.run_lock.commit_lock_path(dataset.token).exists()
            for dataset in datasets
        )
    assert [twin.exitcode for twin in twins] == [0] * TWINS
    record_property("injections", ROUNDS)
    won = {root.name: sorted(tmp_path.glob(f"{root.name}-*")) for root in roots}
    extra = sum(len(names) - 1 for names in won.values())
    record_property("duplicates", extra)
    assert extra == 0
    for root in roots:
        assert [path.name for path in root.glob("shards/*")] == [f"{SHARD}.tar"] and not (
            late and won[root.name][0].name.endswith("-0")
        )
        record = Dataset(root).read_record(SHARD)
        check_shard(Dataset(root).tar_path(SHARD), record.kept_members(), record.tar.sha256)
        finalize(Dataset(root))  # reads the histogram


@pytest.mark.parametrize(
    "stopped", [False, True], ids=["", "and the second was stopped after its record"]
)
def test_what_an_attempt_left_goes_when_the_next_keeps_nothing(tmp_path, stopped):
    """The first was killed when its tar had its name; of the second every window timed out."""
    dataset = Dataset(tmp_path)
    with dataset.lock():
        dataset.create_or_resume(ROWS, to_contract(CONFIG), {"python": "3"})
        first, second = (ShardDraft(dataset, SHARD, CONFIG.frequencies) for _ in range(2))
        for row in ROWS:
            first.add(
                *judge_window(
                    row, FilterMeasures(**PASSING_MEASURES), np.random.default_rng(0), CONFIG
                )
            )
            second.add(
                RecordRow(
                    key=row.window().key,
                    outcome=Outcome.QUARANTINED,
                    stage=Stage.DECODE,
                    reason=Reason.TIMEOUT,
                    detail="",
                    attempts=3,
                ),
                None,
                None,
            )
        first.writer.finish()
        first.writer.publish()
        left = dataset.tar_path(SHARD).read_bytes()
        second.commit()
        second.discard()
        if stopped:
            dataset.tar_path(SHARD).write_bytes(left)
        finalize(dataset)
    assert verify(dataset).faults == [] and not list(dataset.shards.iterdir())


def test_a_twin_that_hangs_in_its_commit_is_said_after_a_while(tmp_path, monkeypatch):
    """It may have been stopped there for ever: the others end with a sentence, and the same command
    goes on.
    """
    monkeypatch.setattr("pipeline.dataset.commit.COMMIT_TIMEOUT_S", 0.2)
    dataset = Dataset(tmp_path)
    dataset.run_json.write_text("{}")
    with (
        commit_lock(Dataset(tmp_path)),
        pytest.raises(TimeoutError, match="has been committing a shard for") as said,
        commit_lock(dataset),
    ):
        pass
    assert said.value.filename == str(dataset.run_json)
