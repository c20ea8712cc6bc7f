"""How the benchmarks measure: interleaved rounds on one CPU and one thread, and ratios of medians.

A machine's speed drifts by more than most differences that are worth knowing. So the contenders
take turns, each round in the reverse order of the last, and what is reported is how many times as
long one took as another: on the clock, and in processor time, which is the steadier one on a
machine that others use too (it leaves out waiting for the disk).
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import cv2
import threadpoolctl

RESULTS = Path(__file__).parent / "results"
LIBRARIES = (
    "numpy",
    "scipy",
    "opencv-python-headless",
    "decord",
    "av",
    "webdataset",
    "safetensors",
    "pillow",
)
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A goal for a measurement, and what was reached."""

    name: str
    goal: float
    reached: float
    unit: str = "x"
    at_most: bool = False
    """The goal is an upper bound."""
    span: tuple[float, float] | None = None
    """Smallest and largest of the rounds."""
    cpu: float | None = None
    """The ratio of processor times."""

    @property
    def met(self) -> bool:
        return self.reached <= self.goal if self.at_most else self.reached >= self.goal


class Timing(NamedTuple):
    """Seconds of one call: on the clock, and of processor time, including child processes."""

    clock: float
    cpu: float


def arguments(description: str) -> argparse.ArgumentParser:
    """Returns a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--rounds", type=int, default=7, help="interleaved rounds; the median counts"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one small round, not kept: does it run at all?"
    )
    return parser


def one_cpu() -> None:
    """Runs this process and its children on one thread, and on the CPU that is idle the most."""
    os.sched_setaffinity(0, {quietest_cpu()})
    os.environ.update(dict.fromkeys(THREADS, "1"))
    cv2.setNumThreads(1)
    threadpoolctl.threadpool_limits(1)


def quietest_cpu() -> int:
    """Returns the CPU that was idle most over half a second, of those that this process may use."""
    before = idle_ticks()
    time.sleep(0.5)
    after = idle_ticks()
    return max(os.sched_getaffinity(0), key=lambda cpu: after[cpu] - before[cpu])


def idle_ticks() -> dict[int, int]:
    """Returns by CPU the clock ticks that it was idle since the machine was started."""
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    return {
        int(name[3:]): int(fields[3])
        for name, *fields in lines
        if name.startswith("cpu") and name != "cpu"
    }


def interleaved(
    contenders: dict[str, Callable[[], Any]], rounds: int, *, warm_up: bool = True
) -> dict[str, list[Timing]]:
    """Measures how long each contender takes in each round. `warm_up` runs each once before."""
    timings: dict[str, list[Timing]] = {name: [] for name in contenders}
    order = list(contenders)
    for name in order if warm_up else ():
        contenders[name]()
    for _ in range(rounds):
        for name in order:
            timings[name].append(timed(contenders[name]))
        order.reverse()
    return timings


def timed(call: Callable[[], Any]) -> Timing:
    begin = Timing(time.perf_counter(), cpu_seconds())
    call()
    return Timing(time.perf_counter() - begin.clock, cpu_seconds() - begin.cpu)


def cpu_seconds() -> float:
    """Processor time of this process and of its children, those that have ended and those that live
    on.
    """
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (
        time.process_time()
        + ended.ru_utime
        + ended.ru_stime
        + sum(map(child_seconds, Path("/proc").glob("[0-9]*/stat")))
    )


def child_seconds(stat: Path) -> float:
    """Returns the processor time in a /proc/PID/stat, if the process is a child of this one."""
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (
        (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if int(fields[1]) == os.getpid()
        else 0.0
    )


def medians(timings: Sequence[Timing]) -> Timing:
    return Timing(*map(median, zip(*timings, strict=True)))


def speedup(
    name: str, goal: float, ours: Sequence[Timing], theirs: Sequence[Timing], *, share: float = 1.0
) -> Target:
    """How many times as long they take: the ratio of the medians, and the range of the ratios
    within a round.

    `share` of the work is what they were timed on.
    """
    ratios = [b.clock / a.clock / share for a, b in zip(ours, theirs, strict=True)]
    clock, cpu = (b / a / share for a, b in zip(medians(ours), medians(theirs), strict=True))
    return Target(name=name, goal=goal, reached=clock, span=(min(ratios), max(ratios)), cpu=cpu)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Renders Markdown, numbers with three digits."""
    cells = [
        [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows
    ]
    return "\n".join(
        "| " + " | ".join(line) + " |" for line in [list(header), ["---"] * len(header), *cells]
    )


def targets_table(targets: Sequence[Target]) -> str:
    """Renders goals beside what was reached."""
    rows = []
    for target in targets:
        span = f"{target.span[0]:.3g} to {target.span[1]:.3g}" if target.span else ""
        goal = f"{'<=' if target.at_most else '>='} {target.goal:g} {target.unit}"
        cpu = f"{target.cpu:.3g} x" if target.cpu else ""
        rows.append(
            (
                target.name,
                goal,
                f"{target.reached:.3g} {target.unit}",
                span,
                cpu,
                "yes" if target.met else "no",
            )
        )
    return table(
        ("measured", "goal", "reached", "range of the rounds", "by processor time", "met"), rows
    )


def timings_table(timings: dict[str, list[Timing]], unit: str = "s", scale: float = 1.0) -> str:
    """Renders medians; for orientation only, since another machine has others."""
    rows = [(name, scale * medians(t).clock, scale * medians(t).cpu) for name, t in timings.items()]
    return table(("median", f"{unit} on the clock", f"{unit} of processor time"), rows)


def report(
    name: str, title: str, how: str, body: str, targets: Sequence[Target], *, keep: bool
) -> None:
    """Prints the tables, and with `keep` leaves them, with the machine they were measured on, in
    results/NAME.json.
    """
    text = "\n\n".join((how.strip(), targets_table(targets), body))
    print(f"## {title}\n\n{text}\n")
    if not keep:
        return
    RESULTS.mkdir(exist_ok=True)
    record = dict(
        title=title,
        text=text,
        targets=[asdict(t) | {"met": t.met} for t in targets],
        machine=machine(),
        command=command(),
    )
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")


def command() -> str:
    """Returns the command that runs this again; of a folder only the name."""
    options = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *options])


def machine() -> dict[str, Any]:
    """Returns what the numbers depend on."""
    return dict(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        cpu=cpu_model(),
        cores=os.cpu_count(),
        load=round(os.getloadavg()[0], 1),
        python=platform.python_version(),
        libraries={name: version(name) for name in LIBRARIES},
        commit=commit(),
    )


def cpu_model() -> str:
    """Returns the processor's name as Linux knows it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def commit() -> str | None:
    """Returns the checkout's commit, if git is installed."""
    try:
        return subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
