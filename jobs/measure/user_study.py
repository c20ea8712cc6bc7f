#!/usr/bin/env python
"""A page of one file on which people choose between two folders of videos, without knowing which is
which.

    quiver user-study DIR_A DIR_B --out page.html

Videos are paired by name, whatever their suffix. Each pair is cut to the shorter one's length and
brought to the lower one's size, and both are encoded alike, so that nothing but what they show
tells one from the other. `quiver score-study` reads what the page saves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import tyro

from jobs.cli.args import check_output_file, parse_args
from jobs.cli.console import print_message, print_output
from jobs.cli.errors import error_boundary
from model.pages.user_study import (
    Films,
    Pair,
    build_study_page,
    common_size,
    encode_to_fit,
    study_id,
)
from model.pages.user_study_results import MAX_FIELD_CHARS
from pipeline.atomic_files import replace_file
from pipeline.decode.config import DecodeConfig
from pipeline.decode.pool import DecoderPool, shared_pool
from pipeline.images.encode import TICKS_PER_SECOND, TimedFrame, encode_h264
from pipeline.sizes import human_size
from pipeline.whole_clip.first_window import display_size
from pipeline.whole_clip.frames import collect_videos, open_clip
from schemas.clip import VideoInfo
from schemas.outcome import Quarantined

_MIN_SECONDS = 0.5
"""A shorter video shows no motion to judge."""
_MAX_EXAMPLE_NAMES = 3
"""Names that are given for an example."""


@dataclass(frozen=True, kw_only=True)
class UserStudy:
    """Writes a page on which people choose between the videos of two folders, without knowing which
    is which.
    """

    a: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR_A")]
    """Folder of the first set of videos."""
    b: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR_B")]
    """Folder of the other, in which they have the same names."""
    out: Path
    """File to write, .html."""
    question: str = "Which looks more realistic?"
    """What is asked of each pair."""
    pairs: int | None = None
    """Take so many pairs, drawn by --seed; without a number all that there are."""
    seed: int = 0
    """Of --pairs. Sides and order are drawn by the page, for each viewer."""
    width: int = 512
    """Videos are at most so wide, pixels."""
    seconds: float = 5.0
    """Videos are at most so long."""
    look: float = 2.0
    """Seconds for which a pair must have been seen before it can be judged."""
    megabytes: float = 60.0
    """The page is at most so large."""

    def __post_init__(self):
        if self.out.suffix.lower() != ".html":
            raise ValueError(f"--out is {self.out}, expected a name that ends in .html")
        if not self.question.strip():
            raise ValueError(f"--question is {self.question!r}, expected words")
        if self.pairs is not None and self.pairs < 1:
            raise ValueError(f"--pairs is {self.pairs}, expected at least 1")
        for name, least, most in (
            ("width", 64, 1920),
            ("seconds", _MIN_SECONDS, 60),
            ("look", 0, 60),
            ("megabytes", 0.1, 1000),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(
                    f"--{name} is {getattr(self, name):g}, expected {least:g} to {most:g}"
                )


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(UserStudy, "quiver user-study", args)
        check_output_file("--out", job.out)
        if job.out.exists():
            raise ValueError(
                f"--out is {job.out}, which is there: answers to a page belong to it alone, expected another name"
            )
        a, b = _find_videos(job.a, "DIR_A"), _find_videos(job.b, "DIR_B")
        names = _choose_pairs(job, a, b)
        made = [_encode_pair(job, name, (a[name], b[name]), len(names)) for name in names]
        page = build_study_page(made, job.question.strip(), job.look).encode()
        replace_file(job.out, page)
        crf, alone = sorted({pair.crf for pair in made}), len(a.keys() ^ b.keys())
        quality = f"CRF {crf[0]}" + (f" to {crf[-1]}" if len(crf) > 1 else "")
        print_output(
            f"{job.out}: {human_size(len(page))}, {len(made)} pairs, H.264 at {quality}; study {study_id(made)}: A is {job.a}, B is {job.b}"
        )
        if alone:
            print_message(
                f"{alone} {'videos have' if alone > 1 else 'video has'} no partner of that name and {'are' if alone > 1 else 'is'} left out"
            )


def _choose_pairs(job: UserStudy, a: dict[str, Path], b: dict[str, Path]) -> list[str]:
    """Names of the pairs. Raises ValueError where there is none, or fewer than asked for."""
    names = sorted(a.keys() & b.keys())
    if not names:
        raise ValueError(
            f"no names agree: {job.a} has {_format_examples(a)}, and {job.b} has {_format_examples(b)}"
        )
    count = job.pairs or len(names)
    if count > len(names):
        raise ValueError(
            f"--pairs is {count}, expected at most {len(names)}, for which names agree"
        )
    return sorted(Random(job.seed).sample(names, count))  # noqa: S311 - nothing secret


def _format_examples(found: dict[str, Path]) -> str:
    names = [path.name for path in found.values()]
    return ", ".join(names[:_MAX_EXAMPLE_NAMES]) + (
        f" and {len(names) - _MAX_EXAMPLE_NAMES} more" if len(names) > _MAX_EXAMPLE_NAMES else ""
    )


def _find_videos(folder: Path, option: str) -> dict[str, Path]:
    """Those of a folder, by name without suffix. Raises ValueError as videos_in does, and for a
    name that does not go into a table.
    """
    found = collect_videos(folder, option)
    for name in found:
        if not name.isprintable() or len(name) > MAX_FIELD_CHARS:
            raise ValueError(
                f"{option} has a video named {name[:60]!r}, expected up to {MAX_FIELD_CHARS} printable characters"
            )
    return found


def _encode_pair(job: UserStudy, name: str, paths: tuple[Path, Path], count: int) -> Pair:
    """Both videos at one size and length, encoded alike; one of `count` pairs."""
    pool = shared_pool(DecodeConfig())
    probed = [_probe_video(pool, path) for path in paths]
    seconds = min(job.seconds, *(_video_seconds(video) for video in probed))
    try:
        size = common_size(display_size(probed[0]), display_size(probed[1]), job.width)
        shown = [
            list(_read_beginning(pool, path, video, size, seconds))
            for path, video in zip(paths, probed, strict=True)
        ]
        rates = [round(len(one) / seconds) or 1 for one in shown]

        def make(crf: int) -> Films:
            films = [
                encode_h264(one, rate=rate, options=dict(crf=str(crf), preset="medium"))
                for one, rate in zip(shown, rates, strict=True)
            ]
            return films[0], films[1]

        films, crf = encode_to_fit(
            make, 1e6 * job.megabytes * 3 / 4 / count
        )  # as text, three bytes are four letters
    except ValueError as error:
        raise ValueError(f"the pair {name} {error}") from error
    return Pair(name, size, films, crf)


def _probe_video(pool: DecoderPool, path: Path) -> VideoInfo:
    """Raises ValueError where the file is no video, or too short to be judged."""
    video = open_clip(path, pool).video
    if len(video.times) < 2 or _video_seconds(video) < _MIN_SECONDS:
        count = len(video.times)
        raise ValueError(
            f"{path} has {count} frame{'s' if count > 1 else ''} in {_video_seconds(video):.2f} s, expected at least 2 in {_MIN_SECONDS:g} s"
        )
    return video


def _video_seconds(video: VideoInfo) -> float:
    return float(video.end_s - video.times[0])


def _read_beginning(
    pool: DecoderPool, path: Path, video: VideoInfo, size: tuple[int, int], seconds: float
) -> Iterator[TimedFrame]:
    """The frames of the first `seconds`, each at its time; the middle of the picture, at
    `size`.
    """
    times = video.times - video.times[0]
    shown = np.flatnonzero(times < seconds - 1e-6)
    ticks = np.rint(np.append(times[shown], seconds) * TICKS_PER_SECOND).astype(int)
    try:
        for image, begin, end in zip(
            pool.frames(str(path), video, shown.tolist(), size),
            ticks[:-1].tolist(),
            ticks[1:].tolist(),
            strict=True,
        ):
            yield TimedFrame(image, begin, end - begin)
    except Quarantined as error:
        raise ValueError(f"cannot be used: {path}: {error.detail} ({error.reason})") from error


if __name__ == "__main__":
    main()
