#!/usr/bin/env python
"""A page of one file on which people choose between two folders of videos, without knowing which is which.

    python -m jobs.study DIR_A DIR_B --out page.html

Videos are paired by name, whatever their suffix. Each pair is cut to the shorter one's length and brought to the lower one's size, and both are
encoded alike, so that nothing but what they show tells one from the other. `quiver study-result` reads what the page saves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import tyro

from jobs.cli.args import parsed
from jobs.cli.errors import check_output, say, sentences, tell
from model.pages.user_study import Films, Pair, common_size, page_of, small_enough, study_of
from model.pages.user_study_results import MOST_FIELD
from pipeline.dataset.shards import replace_file
from pipeline.decode import DecodeConfig
from pipeline.decode.pool import DecoderPool, shared_pool
from pipeline.images.encode import CLOCK, Shown, h264
from pipeline.sizes import human_size
from pipeline.whole_clip.first_window import own_size
from pipeline.whole_clip.frames import take_of, videos_in
from schemas.clip import Video
from schemas.outcome import Quarantined

LEAST_S = 0.5
"""A shorter video shows no motion to judge."""
SOME = 3
"""Names that are given for an example."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Writes a page on which people choose between the videos of two folders, without knowing which is which."""

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
        for name, least, most in (("width", 64, 1920), ("seconds", LEAST_S, 60), ("look", 0, 60), ("megabytes", 0.1, 1000)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"--{name} is {getattr(self, name):g}, expected {least:g} to {most:g}")


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with sentences():
        job = parsed(Study, "quiver study", args)
        check_output("--out", job.out)
        if job.out.exists():
            raise ValueError(f"--out is {job.out}, which is there: answers to a page belong to it alone, expected another name")
        a, b = videos(job.a, "DIR_A"), videos(job.b, "DIR_B")
        names = chosen(job, a, b)
        made = [made_pair(job, name, (a[name], b[name]), len(names)) for name in names]
        page = page_of(made, job.question.strip(), job.look).encode()
        replace_file(job.out, page)
        crf, alone = sorted({pair.crf for pair in made}), len(a.keys() ^ b.keys())
        quality = f"CRF {crf[0]}" + (f" to {crf[-1]}" if len(crf) > 1 else "")
        say(f"{job.out}: {human_size(len(page))}, {len(made)} pairs, H.264 at {quality}; study {study_of(made)}: A is {job.a}, B is {job.b}")
        if alone:
            tell(f"{alone} {'videos have' if alone > 1 else 'video has'} no partner of that name and {'are' if alone > 1 else 'is'} left out")


def chosen(job: Study, a: dict[str, Path], b: dict[str, Path]) -> list[str]:
    """Names of the pairs. Raises ValueError where there is none, or fewer than asked for."""
    names = sorted(a.keys() & b.keys())
    if not names:
        raise ValueError(f"no names agree: {job.a} has {examples(a)}, and {job.b} has {examples(b)}")
    count = job.pairs or len(names)
    if count > len(names):
        raise ValueError(f"--pairs is {count}, expected at most {len(names)}, for which names agree")
    return sorted(Random(job.seed).sample(names, count))  # noqa: S311 - nothing secret


def examples(found: dict[str, Path]) -> str:
    names = [path.name for path in found.values()]
    return ", ".join(names[:SOME]) + (f" and {len(names) - SOME} more" if len(names) > SOME else "")


def videos(folder: Path, option: str) -> dict[str, Path]:
    """Those of a folder, by name without suffix. Raises ValueError as videos_in does, and for a name that does not go into a table."""
    found = videos_in(folder, option)
    for name in found:
        if not name.isprintable() or len(name) > MOST_FIELD:
            raise ValueError(f"{option} has a video named {name[:60]!r}, expected up to {MOST_FIELD} printable characters")
    return found


def made_pair(job: Study, name: str, paths: tuple[Path, Path], count: int) -> Pair:
    """Both videos at one size and length, encoded alike; one of `count` pairs."""
    pool = shared_pool(DecodeConfig())
    probed = [probe(pool, path) for path in paths]
    seconds = min(job.seconds, *(length(video) for video in probed))
    try:
        size = common_size(own_size(probed[0]), own_size(probed[1]), job.width)
        shown = [list(cut(pool, path, video, size, seconds)) for path, video in zip(paths, probed, strict=True)]
        rates = [round(len(one) / seconds) or 1 for one in shown]

        def make(crf: int) -> Films:
            films = [h264(one, rate=rate, options=dict(crf=str(crf), preset="medium")) for one, rate in zip(shown, rates, strict=True)]
            return films[0], films[1]

        films, crf = small_enough(make, 1e6 * job.megabytes * 3 / 4 / count)  # as text, three bytes are four letters
    except ValueError as error:
        raise ValueError(f"the pair {name} {error}") from error
    return Pair(name, size, films, crf)


def probe(pool: DecoderPool, path: Path) -> Video:
    """Raises ValueError where the file is no video, or too short to be judged."""
    video = take_of(path, pool).video
    if len(video.times) < 2 or length(video) < LEAST_S:
        count = len(video.times)
        raise ValueError(f"{path} has {count} frame{'s' if count > 1 else ''} in {length(video):.2f} s, expected at least 2 in {LEAST_S:g} s")
    return video


def length(video: Video) -> float:
    return float(video.end_s - video.times[0])


def cut(pool: DecoderPool, path: Path, video: Video, size: tuple[int, int], seconds: float) -> Iterator[Shown]:
    """The frames of the first `seconds`, each at its time; the middle of the picture, at `size`."""
    times = video.times - video.times[0]
    shown = np.flatnonzero(times < seconds - 1e-6)
    ticks = np.rint(np.append(times[shown], seconds) * CLOCK).astype(int)
    try:
        for image, begin, end in zip(pool.frames(str(path), video, shown.tolist(), size), ticks[:-1].tolist(), ticks[1:].tolist(), strict=True):
            yield Shown(image, begin, end - begin)
    except Quarantined as error:
        raise ValueError(f"cannot be used: {path}: {error.detail} ({error.reason})") from error


if __name__ == "__main__":
    main()
