"""Finds what `quiver retry` can try again in a dataset, and plans a round of it
(pipeline/dataset/rounds.py).

Only what failed for a reason that may have been the machine's is tried again: a video that was
rejected or is damaged stays so. What fails again for such a reason can be tried in the next round.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pipeline.dataset.finalize import iter_shard_rows
from pipeline.dataset.folder import Dataset
from pipeline.dataset.rounds import EarlierFates, shard_label
from pipeline.extract.config import PlanConfig
from pipeline.extract.plan import plan_round
from pipeline.extract.plan_clip import PlannedClip
from schemas.outcome import ENVIRONMENTAL_REASONS, is_environmental
from schemas.records import PLAN_SCHEMA, PlanRow
from schemas.shard_record import FATE_COLUMNS, RecordRow


class RetryableRows(NamedTuple):
    """Rows of the manifest that failed for an environmental reason."""

    windows: Sequence[PlanRow]
    clips: Sequence[PlanRow]
    """The rows of clips that gave no window."""

    def __bool__(self) -> bool:
        return bool(self.windows or self.clips)

    def rows_to_probe(self) -> list[PlanRow]:
        """Returns the clips, and one row for each video of the windows: `begin_round` leaves out
        what cannot be read yet.
        """
        return [*self.clips, *{row.uri: row for row in self.windows}.values()]


def find_retryable(dataset: Dataset) -> RetryableRows:
    """Finds what can be tried again in a dataset whose shards are all committed.

    Raises ValueError if shards are left to build, DamagedShard or DamagedPlan for a file that is
    not the one recorded.
    """
    dataset.check_finished()
    rows = [
        row
        for part in iter_shard_rows(dataset)
        for row in part.rows
        if is_environmental(row.outcome, row.reason)
    ]
    return RetryableRows([row for row in rows if row.key], [row for row in rows if not row.key])


def unbuilt_shards(dataset: Dataset) -> dict[str, list[PlanRow]]:
    """Returns the rows of the shards of rounds that are not committed, by shard: a retry that was
    stopped leaves some. Raises DamagedPlan.
    """
    rounds = dataset.rounds()
    shards: dict[str, list[PlanRow]] = {}
    for row in (row for retry_round in rounds for row in retry_round.rows):
        if row.key:
            shards.setdefault(str(row.shard), []).append(row)
    fates = EarlierFates(rounds)
    unbuilt = {name: rows for name, rows in shards.items() if not dataset.is_committed(name)}
    return {name: fates.add_fates(rows) for name, rows in unbuilt.items()}


def begin_round(
    dataset: Dataset,
    windows: Iterable[PlanRow],
    probed: Iterable[PlannedClip],
    config: PlanConfig,
) -> int:
    """Adds a round of these windows of the manifest, and of the clips whose outcome is decided now;
    returns the number of its rows. If there are none, nothing is written.

    `probed` are the rows_to_probe after `retry_clip`. What fails again for an environmental reason
    is left out, and so are the windows of such a video: a round stays for good, and one that
    changes nothing is not begun.
    """
    windows, probed = list(windows), list(probed)
    failed = [planned for planned in probed if planned.reason in ENVIRONMENTAL_REASONS]
    unreadable = {planned.clip.uri for planned in failed}
    videos = {(row.clip_id, row.uri) for row in windows}
    retried = [_make_retry_row(row) for row in windows if row.uri not in unreadable]
    clips = [planned for planned in probed if (planned.retried, planned.clip.uri) not in videos]
    decided = [planned for planned in clips if planned.reason not in ENVIRONMENTAL_REASONS]
    label = shard_label(len(dataset.rounds()) + 1)
    rows = plan_round(decided, retried, dataset.stream_plan(), label, config)
    if rows:
        dataset.add_round(rows)
    return len(rows)


def _make_retry_row(row: PlanRow) -> PlanRow:
    """Returns a row of the plan for a window of the manifest, with its fate until now."""
    columns: dict[str, Any] = {name: getattr(row, name) for name in PLAN_SCHEMA.names}
    fate: dict[str, Any] = {name: columns.pop(name) for name in FATE_COLUMNS}
    del columns["root"]
    return PlanRow(**columns, before=RecordRow(key=row.window().key, **fate))
