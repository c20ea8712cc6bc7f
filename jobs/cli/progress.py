"""What a person sees while a run goes on: a live bar on a terminal, otherwise one JSON line per shard."""

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.cli.errors import say
from pipeline.dataset.shards import named
from pipeline.extract.timing import Effort
from pipeline.sizes import human_size
from schemas.outcome import Decided, Outcome


class RunProgress:
    """Counts outcomes as they arrive. A line for every shard also goes to `log`, with times, for the report."""

    def __init__(self, total: int, log: Path, token: int | None):
        self.log, self.token, self.began, self.counts = log, token, time.monotonic(), Counter()
        self.shard_counts: dict[str, Counter] = {}
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("windows"), TextColumn("{task.fields[note]}"), TimeRemainingColumn())
        self.bar = Progress(*columns, disable=not sys.stdout.isatty())
        self.task = self.bar.add_task("", total=total, note="")

    def __enter__(self) -> "RunProgress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def window(self, shard: str, decided: Decided) -> None:
        """One more window of a shard is decided."""
        self.counts[outcome := decided.outcome] += 1
        self.shard_counts.setdefault(shard, Counter())[outcome] += 1
        rate = self.counts.total() / (time.monotonic() - self.began)
        note = f"{rate:.1f}/s, {self.counts[Outcome.REJECTED]} rejected, {self.counts[Outcome.QUARANTINED]} quarantined, left"
        self.bar.update(self.task, completed=self.counts.total(), note=note)

    def shard(self, shard: str, effort: Effort) -> None:
        """A shard is committed."""
        elapsed = round(time.monotonic() - self.began, 2)
        counts = {outcome.value: self.shard_counts.get(shard, Counter())[outcome] for outcome in Outcome}
        known = {name: value for name, value in effort._asdict().items() if value is not None}
        line = json.dumps({"shard": shard, **counts, **known, "token": self.token, "elapsed_s": elapsed, "at": round(time.time(), 2)})
        with named(self.log), self.log.open("a") as file:
            file.write(line + "\n")
        if self.bar.disable:
            say(line)


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """A data set's summary, for a terminal."""
    lines = [f"{count(summary['clips'], 'clip')}, {count(summary['windows'], 'window')}: {summary['kept']} kept {by(summary['kept_by_split'])}".rstrip()]
    lines += [f"  {summary[outcome]} {outcome} {by(summary[f'{outcome}_by_reason'])}".rstrip() for outcome in ("rejected", "quarantined")]
    if barren := summary["clips_without_window"]:
        lines[-1] += f"; of these {count(barren, 'whole clip')}, which gave no window"
    return [*lines, f"  {count(summary['shards'], 'shard')}, {human_size(summary['bytes'])}, {summary['hours']:.2f} h of video"]


def retry_lines(retryable: dict[str, int], dataset: str) -> list[str]:
    """What can be tried again in a data set, and by which command."""
    tries = " and ".join(count(number, what[:-1]) for what, number in retryable.items() if number)
    words = f"  {tries} failed for a reason that may be the machine's"
    return [f"{words}: quiver retry {dataset} tries again"] if tries else []


def count(number: int, what: str) -> str:
    """`1 shard`, `2 shards`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def by(counts: dict[str, int]) -> str:
    return "(" + ", ".join(f"{name} {count}" for name, count in counts.items()) + ")" if counts else ""
