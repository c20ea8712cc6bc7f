"""Measures what safety costs: a video to committed shards as a run does it, against the same with
nothing that makes it safe.

The other way lacks the shard's SHA-256 and CRC-32, every fsync, the read-back of every sample, the
lock, heartbeat and fence of the folder. They are patched away; the product has no switch for
any of them. Both decode, measure, judge and write the same windows at the product's own size and
settings, one worker in this process; no filter rejects, so that every window is written, which is
when safety costs the most. The ratio is the median over the pairs of runs that follow each other.
"""

import functools
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from statistics import median, quantiles
from types import SimpleNamespace
from unittest import mock

from benchmarks.clips import ordinary_clip
from benchmarks.extract import quiver
from benchmarks.rounds import Target, Timing, arguments, interleaved, one_cpu, report, timings_table
from pipeline.extract.config import BuildConfig
from pipeline.filters import PRESETS

CONFIG = BuildConfig(thresholds=PRESETS["none"])
GOAL = 1.05


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=7.0, help="length of the rendered video")
    parser.add_argument(
        "--clips",
        type=Path,
        default=Path(tempfile.gettempdir()) / "quiver-bench-clips",
        help="folder where it is kept",
    )
    parser.add_argument(
        "--videos",
        type=Path,
        nargs="*",
        default=[],
        help="videos of yours, instead of the rendered one",
    )
    options = parser.parse_args()
    one_cpu()
    videos = options.videos or [
        ordinary_clip(options.clips, (640, 360), 7.0 if options.quick else options.seconds)
    ]
    by_video = {path.name: compare(path, 1 if options.quick else options.rounds) for path in videos}
    bodies = [f"{name}:\n\n{timings_table(timings)}" for name, timings in by_video.items()]
    targets = [
        paired(f"{name}: safe / bare", *timings.values()) for name, timings in by_video.items()
    ]
    report(
        "mechanisms", "Mechanisms", __doc__, "\n\n".join(bodies), targets, keep=not options.quick
    )


def compare(path: Path, rounds: int) -> dict[str, list[Timing]]:
    """Measures both ways on one video, in turns."""
    return interleaved(
        {"safe": functools.partial(quiver, path, CONFIG), "bare": functools.partial(bare, path)},
        rounds,
    )


def paired(name: str, safe: Sequence[Timing], without: Sequence[Timing]) -> Target:
    """Returns the median ratio of the pairs; its range is that of their middle half."""
    clock, cpu = (
        [a / b for a, b in zip(*times, strict=True)]
        for times in zip(zip(*safe, strict=True), zip(*without, strict=True), strict=True)
    )
    low, _, high = quantiles(clock, n=4, method="inclusive") if len(clock) > 1 else clock * 3
    return Target(
        name=name, goal=GOAL, reached=median(clock), at_most=True, span=(low, high), cpu=median(cpu)
    )


def bare(path: Path) -> None:
    """A dataset that a crash, a twin or a bad disk may spoil unseen."""
    with ExitStack() as off:
        for name, instead in UNSAFE.items():
            off.enter_context(mock.patch(name, instead))
        quiver(path, CONFIG)


class NoDigest:
    def update(self, data: bytes) -> None:
        """Reads nothing."""

    def hexdigest(self) -> str:
        return "0" * 64


UNSAFE = {
    "os.fsync": lambda _: None,
    "pipeline.dataset.shards.hashlib": SimpleNamespace(sha256=NoDigest),
    "pipeline.dataset.shards.zlib": SimpleNamespace(crc32=lambda _: 0),
    "pipeline.dataset.shards.check_shard": lambda *_: None,
    "pipeline.dataset.run_lock.LockedFolder.lock": lambda dataset: nullcontext(
        dataset.root.mkdir()
    ),
    "pipeline.dataset.commit.commit_lock": lambda _: nullcontext(),
    "pipeline.dataset.run_lock.LockedFolder.check_not_taken_over": lambda _: None,
}


if __name__ == "__main__":
    main()
