"""Memory of a worker that builds a 1-minute and a 20-minute video: does it grow with the length?

Each video is built in a fresh process. The result is the largest sum of the proportional memory of
the process and all its children (PSS: a page that two share counts once). The long video is the
short one repeated. Flow uses the quickest preset and windows are far apart, since neither matters
for memory: every frame is decoded and measured as usual.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.clips import ordinary_clip, repeated
from benchmarks.extract import quiver
from benchmarks.rounds import Target, arguments, one_cpu, report, table
from pipeline.extract.config import BuildConfig, PlanConfig
from pipeline.filters import PRESETS
from pipeline.flow.config import FlowConfig

POLL_S = 0.05
CONFIG = BuildConfig(
    plan=PlanConfig(stride=150), flow=FlowConfig(dis_preset="ultrafast"), thresholds=PRESETS["none"]
)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--clips",
        type=Path,
        default=Path(tempfile.gettempdir()) / "quiver-bench-clips",
        help="folder where the videos are kept",
    )
    parser.add_argument(
        "--build", type=Path, help="only build this video (what the watched process does)"
    )
    options = parser.parse_args()
    one_cpu()
    if options.build:
        return quiver(options.build, CONFIG)
    clip = ordinary_clip(options.clips, (640, 360), 7.0 if options.quick else 30.0)
    repeats = {"28 s": 4, "70 s": 10} if options.quick else {"1 minute": 2, "20 minutes": 40}
    peaks = {name: peak_mb(repeated(clip, times)) for name, times in repeats.items()}
    short, long = peaks.values()
    target = Target(
        name=" more than ".join(reversed(peaks)),
        goal=300,
        reached=long - short,
        unit="MB",
        at_most=True,
    )
    report(
        "memory",
        "Memory",
        __doc__,
        table(("video", "peak, MB"), list(peaks.items())),
        [target],
        keep=not options.quick,
    )


def peak_mb(path: Path) -> float:
    """Measures the largest memory of a process that builds the video."""
    return watched([sys.executable, "-m", "benchmarks.memory", "--build", str(path)])


def watched(command: list[str]) -> float:
    """Largest memory of a command, its children included, in MB. Raises RuntimeError where it
    fails.
    """
    process, peak = subprocess.Popen(command, stdout=subprocess.DEVNULL), 0
    while process.poll() is None:
        peak = max(peak, sum(map(pss_kb, family(process.pid))))
        time.sleep(POLL_S)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return peak / 1024


def family(pid: int) -> list[int]:
    """Returns a process and all its descendants."""
    parents = {
        int(entry.name): parent(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()
    }
    processes = [pid]
    for process in processes:  # grows while it is walked
        processes.extend(child for child, its_parent in parents.items() if its_parent == process)
    return processes


def parent(entry: Path) -> int | None:
    """Returns None if the process has ended."""
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None


def pss_kb(pid: int) -> int:
    """Returns proportional memory; 0 if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()
