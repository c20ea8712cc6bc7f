"""What a person sees while a run goes on: a live bar on a terminal, otherwise one JSON line per
shard.
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
from pipeline.sizes import human_size
from schemas.outcome import Outcome, WindowOutcome


class RunProgress:
    """Counts outcomes as they arrive. A line for every shard also goes to `log`, with times, for
    the report.
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

    def record_window(self, shard: str, decided: WindowOutcome) -> None:
        """One more window of a shard is decided."""
        self.counts[outcome := decided.outcome] += 1
        self.shard_counts.setdefault(shard, Counter())[outcome] += 1
        rate = self.counts.total() / (time.monotonic() - self.started_at)
        note = f"{rate:.1f}/s, {self.counts[Outcome.REJECTED]} rejected, {self.counts[Outcome.QUARANTINED]} quarantined, left"
        self.bar.update(self.task, completed=self.counts.total(), note=note)

    def record_shard(self, shard: str, effort: ShardTiming) -> None:
        """A shard is committed."""
        elapsed = round(time.monotonic() - self.started_at, 2)
        counts = {
            outcome.value: self.shard_counts.get(shard, Counter())[outcome] for outcome in Outcome
        }
        known = {name: value for name, value in effort._asdict().items() if value is not None}
        line = json.dumps(
            {
                "shard": shard,
                **counts,
                **known,
                "token": self.token,
                "elapsed_s": elapsed,
                "at": round(time.time(), 2),
            }
        )
        with add_path_to_errors(self.log), self.log.open("a") as file:
            file.write(line + "\n")
        if self.bar.disable:
            print_output(line)


def format_summary(summary: dict[str, Any]) -> list[str]:
    """A data set's summary, for a terminal."""
    lines = [
        f"{pluralize(summary['clips'], 'clip')}, {pluralize(summary['windows'], 'window')}: {summary['kept']} kept {format_counts(summary['kept_by_split'])}".rstrip()
    ]
    lines += [
        f"  {summary[outcome]} {outcome} {format_counts(summary[f'{outcome}_by_reason'])}".rstrip()
        for outcome in ("rejected", "quarantined")
    ]
    if barren := summary["clips_without_window"]:
        lines[-1] += f"; of these {pluralize(barren, 'whole clip')}, which gave no window"
    return [
        *lines,
        f"  {pluralize(summary['shards'], 'shard')}, {human_size(summary['bytes'])}, {summary['hours']:.2f} h of video",
    ]


def format_retry_hint(retryable: dict[str, int], dataset: str) -> list[str]:
    """What can be tried again in a data set, and by which command."""
    tries = " and ".join(
        pluralize(number, what[:-1]) for what, number in retryable.items() if number
    )
    words = f"  {tries} failed for a reason that may be the machine's"
    return [f"{words}: quiver retry {dataset} tries again"] if tries else []


def pluralize(number: int, what: str) -> str:
    """`1 shard`, `2 shards`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def format_counts(counts: dict[str, int]) -> str:
    return (
        "(" + ", ".join(f"{name} {count}" for name, count in counts.items()) + ")" if counts else ""
    )
