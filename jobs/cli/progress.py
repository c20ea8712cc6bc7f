"""Shows how a run proceeds, and summarizes a dataset for a terminal: a live bar on a terminal,
otherwise one line per shard.
"""

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.cli.console import print_output
from pipeline.atomic_files import add_path_to_errors
from pipeline.extract.timing import ShardTiming
from pipeline.sizes import human_duration, human_size
from schemas.outcome import Outcome, WindowOutcome


class RunProgress:
    """Counts outcomes as they arrive. A JSON line for every shard also goes to `log`, with times,
    for the report.
    """

    def __init__(self, total: int, log: Path, token: int | None):
        self.log, self.token, self.started_at, self.counts = log, token, time.monotonic(), Counter()
        self.shard_counts: dict[str, Counter] = {}
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("windows"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, disable=not sys.stdout.isatty())
        self.task = self.bar.add_task("", total=total, note="")

    def __enter__(self) -> "RunProgress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def record_window(self, shard: str, window: WindowOutcome) -> None:
        """Counts one window of a shard."""
        self.counts[window.outcome] += 1
        self.shard_counts.setdefault(shard, Counter())[window.outcome] += 1
        rate = self.counts.total() / (time.monotonic() - self.started_at)
        note = (
            f"{rate:.1f}/s, {self.counts[Outcome.REJECTED]} rejected, "
            f"{self.counts[Outcome.QUARANTINED]} quarantined, left"
        )
        self.bar.update(self.task, completed=self.counts.total(), note=note)

    def record_shard(self, shard: str, timing: ShardTiming) -> None:
        """Records that a shard is committed."""
        elapsed = time.monotonic() - self.started_at
        shard_counts = self.shard_counts.get(shard, Counter())
        counts = {outcome.value: shard_counts[outcome] for outcome in Outcome}
        times = {name: value for name, value in timing._asdict().items() if value is not None}
        line = {
            "shard": shard,
            **counts,
            **times,
            "token": self.token,
            "elapsed_s": round(elapsed, 2),
            "at": round(time.time(), 2),
        }
        with add_path_to_errors(self.log), self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.bar.disable:
            words = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
            print_output(f"shard {shard}: {words}; {human_duration(elapsed)} since the start")


def format_summary(summary: dict[str, Any]) -> list[str]:
    """Returns the summary of a dataset, line by line."""

    def outcome_counts(outcome: str, group: str) -> str:
        return f"{summary[outcome]} {outcome} {format_counts(summary[f'{outcome}_by_{group}'])}"

    clips, windows = pluralize(summary["clips"], "clip"), pluralize(summary["windows"], "window")
    quarantined = outcome_counts("quarantined", "reason").rstrip()
    if empty_clips := summary["clips_without_window"]:
        quarantined += f"; of these {pluralize(empty_clips, 'whole clip')}, which gave no window"
    shards, size = pluralize(summary["shards"], "shard"), human_size(summary["bytes"])
    return [
        f"{clips}, {windows}: {outcome_counts('kept', 'split')}".rstrip(),
        f"  {outcome_counts('rejected', 'reason')}".rstrip(),
        f"  {quarantined}",
        f"  {shards}, {size}, {human_duration(summary['hours'] * 3600)} of video",
    ]


def format_retry_hint(retryable: dict[str, int], dataset: str) -> list[str]:
    """Returns what can be tried again in a dataset and by which command, in at most one line."""
    counts = " and ".join(
        pluralize(count, what.removesuffix("s")) for what, count in retryable.items() if count
    )
    if not counts:
        return []
    return [
        f"  {counts} failed for a reason that may be the machine's: quiver retry {dataset} tries "
        "again"
    ]


def pluralize(count: int, noun: str) -> str:
    """`1 shard`, `2 shards`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def format_counts(counts: dict[str, int]) -> str:
    """`(train 30, test 2)`; empty without counts."""
    words = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f"({words})" if words else ""
