"""The report of a dataset of about 1,000 windows on two cores, and whether its memory grows with
the number of shards.

One procedural clip is extracted at 256 x 160 with a window on every frame, by the quickest preset
of the flow, 8 windows a shard; and a second dataset of a seventh of its windows. Each report is
written by the real command in a fresh process, with the gallery, for which the windows that it
shows are decoded again.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.clips import ordinary_clip
from benchmarks.memory import watched
from benchmarks.rounds import Target, arguments, report, table
from pipeline.dataset.folder import Dataset

OPTIONS = [
    "--filters",
    "none",
    "--stride",
    "1",
    "--windows-per-shard",
    "8",
    "--dis-preset",
    "ultrafast",
    "--test-fraction",
    "0",
]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--clips",
        type=Path,
        default=Path(tempfile.gettempdir()) / "quiver-bench-clips",
        help="folder where the videos are kept",
    )
    options = parser.parse_args()
    lengths = [5.3, 6.0] if options.quick else [10.0, 40.0]
    rows = [
        measure_report(ordinary_clip(options.clips, (512, 320), seconds)) for seconds in lengths
    ]
    (few, _, _, small), (windows, _, seconds, large) = rows
    targets = [
        Target(
            name=f"report of {windows} windows", goal=60, reached=seconds, unit="s", at_most=True
        ),
        Target(
            name=f"its memory, over that of {few} windows",
            goal=100,
            reached=large - small,
            unit="MB",
            at_most=True,
        ),
    ]
    report(
        "page",
        "The report",
        __doc__,
        table(("windows", "shards", "s", "peak, MB"), rows),
        targets,
        keep=not options.quick,
    )


def measure_report(clip: Path) -> tuple[int, int, float, float]:
    """Measures windows, shards, seconds and largest memory of the report on this clip's dataset."""
    root = Path(tempfile.mkdtemp(prefix="quiver-bench-page-"))
    try:
        command = [
            sys.executable,
            "-m",
            "jobs.extract_flow",
            "--clips",
            str(clip),
            "--out",
            str(root),
            *OPTIONS,
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        began = time.perf_counter()
        peak = watched([sys.executable, "-m", "jobs.report_statistics", str(root)])
        seconds = time.perf_counter() - began
        records = list(Dataset(root).records.iterdir())
        return (
            sum(1 for row in Dataset(root).stream_plan() if row.key),
            len(records),
            seconds,
            peak,
        )
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
