#!/usr/bin/env python
"""Writes a page of one file on which people choose between the videos of two folders, without
knowing which is which.

    quiver user-study DIR_A DIR_B --out page.html

Videos are paired by their names without suffix. Each pair is cut to the length of the shorter one,
brought to the size of the lower one, and encoded alike, so that only what the videos show tells one
from the other. `quiver score-study` reads what the page saves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import tyro

from jobs.cli.args import check_output_file, parse_args
from jobs.cli.console import print_message, print_output
from jobs.cli.errors import error_boundary
from model.pages.user_study import MIN_SECONDS, build_study_page, encode_pair, study_id
from model.pages.user_study_results import MAX_FIELD_CHARS
from pipeline.atomic_files import replace_file
from pipeline.decode.config import DecodeConfig
from pipeline.decode.pool import shared_pool
from pipeline.sizes import human_size
from pipeline.whole_clip.frames import collect_videos

_MAX_EXAMPLE_NAMES = 3
"""A message gives at most so many names as examples."""


@dataclass(frozen=True, kw_only=True)
class UserStudy:
    """Writes a page on which people choose between the videos of two folders, without knowing which
    is which.
    """

    a: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR_A")]
    """Folder of the first set of videos."""
    b: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR_B")]
    """Folder of the second set, in which the videos have the same names."""
    out: Path
    """File to write, .html."""
    question: str = "Which looks more realistic?"
    """Question that the page asks about each pair."""
    pairs: int | None = None
    """Number of pairs, drawn at random by --seed; without a number, all pairs."""
    seed: int = 0
    """Seed of --pairs. The page draws sides and order for each viewer."""
    width: int = 512
    """Largest width of the videos, pixels."""
    seconds: float = 5.0
    """Largest length of the videos, seconds."""
    look: float = 2.0
    """Seconds for which a viewer must watch a pair before judging it."""
    megabytes: float = 60.0
    """Largest size of the page."""

    def __post_init__(self):
        if self.out.suffix.lower() != ".html":
            raise ValueError(f"--out is {self.out}, expected a name that ends in .html")
        if not self.question.strip():
            raise ValueError(f"--question is {self.question!r}, expected words")
        if self.pairs is not None and self.pairs < 1:
            raise ValueError(f"--pairs is {self.pairs}, expected at least 1")
        for name, low, high in (
            ("width", 64, 1920),
            ("seconds", MIN_SECONDS, 60),
            ("look", 0, 60),
            ("megabytes", 0.1, 1000),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"--{name} is {value:g}, expected {low:g} to {high:g}")


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(UserStudy, "quiver user-study", args)
        check_output_file("--out", job.out)
        if job.out.exists():
            raise ValueError(
                f"--out is {job.out}, which exists: answers to a page belong to it alone,"
                " expected another name"
            )
        a, b = _find_videos(job.a, "DIR_A"), _find_videos(job.b, "DIR_B")
        names = _choose_pairs(job, a, b)
        # base64 makes four letters of three bytes
        max_bytes = 1e6 * job.megabytes * 3 / 4 / len(names)
        pairs = [
            encode_pair(
                name,
                (a[name], b[name]),
                shared_pool(DecodeConfig()),
                max_seconds=job.seconds,
                max_width=job.width,
                max_bytes=max_bytes,
            )
            for name in names
        ]
        page = build_study_page(pairs, job.question.strip(), job.look).encode()
        replace_file(job.out, page)
        crf = sorted({pair.crf for pair in pairs})
        quality = f"CRF {crf[0]}" + (f" to {crf[-1]}" if len(crf) > 1 else "")
        print_output(
            f"{job.out}: {human_size(len(page))}, {len(pairs)} pairs, H.264 at {quality};"
            f" study {study_id(pairs)}: A is {job.a}, B is {job.b}"
        )
        unpaired = len(a.keys() ^ b.keys())
        if unpaired == 1:
            print_message("1 video has no partner of that name and is left out")
        elif unpaired:
            print_message(f"{unpaired} videos have no partner of that name and are left out")


def _choose_pairs(job: UserStudy, a: dict[str, Path], b: dict[str, Path]) -> list[str]:
    """Names of the pairs. Raises ValueError if there are none, or fewer than --pairs."""
    names = sorted(a.keys() & b.keys())
    if not names:
        raise ValueError(
            f"no names agree: {job.a} has {_format_examples(a)},"
            f" and {job.b} has {_format_examples(b)}"
        )
    count = job.pairs or len(names)
    if count > len(names):
        raise ValueError(
            f"--pairs is {count}, expected at most {len(names)}, for which names agree"
        )
    return sorted(Random(job.seed).sample(names, count))  # noqa: S311 - nothing secret


def _format_examples(videos: dict[str, Path]) -> str:
    """The names of the first files, and how many more there are."""
    names = [path.name for path in videos.values()]
    examples = ", ".join(names[:_MAX_EXAMPLE_NAMES])
    more = len(names) - _MAX_EXAMPLE_NAMES
    return f"{examples} and {more} more" if more > 0 else examples


def _find_videos(folder: Path, option: str) -> dict[str, Path]:
    """The videos of a folder by their names without suffix. Raises ValueError as `collect_videos`
    does, and for a name that cannot be a field of the answers.
    """
    videos = collect_videos(folder, option)
    for name in videos:
        if not name.isprintable() or len(name) > MAX_FIELD_CHARS:
            raise ValueError(
                f"{option} has a video named {name[:60]!r},"
                f" expected up to {MAX_FIELD_CHARS} printable characters"
            )
    return videos


if __name__ == "__main__":
    main()
