"""Builds a page of one file on which people choose between two sets of videos without knowing which
is which: model/pages/user_study.html, filled.

It is a two-alternative forced choice: one video of each pair is from set A, the other from set B.
The page draws the order of the pairs and their sides from a seed that it records; A is on the left
in half of the pairs. The page is self-contained. `model/pages/user_study_results.py` reads what it
saves.
"""

from base64 import b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.pages.interactive import fill_template
from model.pages.user_study_results import CSV_COLUMNS, STUDY_DIGITS
from pipeline.decode.pool import DecoderPool
from pipeline.images.film import TICKS_PER_SECOND, TimedFrame, encode_h264
from pipeline.sizes import human_size
from pipeline.whole_clip.first_window import display_size
from pipeline.whole_clip.frames import open_clip
from schemas.clip import VideoInfo
from schemas.outcome import Quarantined

MIN_SECONDS = 0.5
"""A shorter video shows no motion to judge."""
_TEMPLATE = Path(__file__).with_name("user_study.html")
_CRF_LADDER = (16, 20, 24, 28, 32)
"""Values of x264's CRF that are tried for both videos of a pair, until they are small enough."""
_MIN_ASPECT_RATIO = 0.5
"""If one aspect is less than this share of the other, the videos have too little in common."""

Films = tuple[bytes, bytes]
"""The mp4 of A and of B."""


class Pair(NamedTuple):
    """Two videos of one size and length."""

    name: str
    size: tuple[int, int]
    films: Films
    crf: int


def encode_pair(
    name: str,
    paths: tuple[Path, Path],
    pool: DecoderPool,
    *,
    max_seconds: float,
    max_width: int,
    max_bytes: float,
) -> Pair:
    """Cuts both videos to the same length and size, and encodes them alike.

    Raises ValueError, naming the pair or the file, if a video cannot be read or is too short, if
    their aspects differ too much, or if they need more than `max_bytes`.
    """
    videos = [_probe_video(path, pool) for path in paths]
    seconds = min(max_seconds, *(_video_seconds(video) for video in videos))
    try:
        size = common_size(display_size(videos[0]), display_size(videos[1]), max_width)
        frames = [
            _read_beginning(path, video, pool, size, seconds)
            for path, video in zip(paths, videos, strict=True)
        ]

        def encode(crf: int) -> Films:
            a, b = (
                encode_h264(
                    film,
                    rate=round(len(film) / seconds) or 1,
                    options=dict(crf=str(crf), preset="medium"),
                )
                for film in frames
            )
            return a, b

        films, crf = encode_to_fit(encode, max_bytes)
    except ValueError as error:
        raise ValueError(f"the pair {name} {error}") from error
    return Pair(name, size, films, crf)


def _probe_video(path: Path, pool: DecoderPool) -> VideoInfo:
    """Raises ValueError if the file cannot be read as a video, or is too short to be judged."""
    video = open_clip(path, pool).video
    count, seconds = len(video.times), _video_seconds(video)
    if count < 2 or seconds < MIN_SECONDS:
        raise ValueError(
            f"{path} has {count} frame{'s' if count > 1 else ''} in {seconds:.2f} s,"
            f" expected at least 2 in {MIN_SECONDS:g} s"
        )
    return video


def _video_seconds(video: VideoInfo) -> float:
    return float(video.end_s - video.times[0])


def _read_beginning(
    path: Path, video: VideoInfo, pool: DecoderPool, size: tuple[int, int], seconds: float
) -> list[TimedFrame]:
    """The frames of the first `seconds`, each at its time; the middle of the picture at `size`."""
    times = video.times - video.times[0]
    indices = np.flatnonzero(times < seconds - 1e-6)
    ticks = np.rint(np.append(times[indices], seconds) * TICKS_PER_SECOND).astype(int).tolist()
    try:
        images = pool.frames(str(path), video, indices.tolist(), size)
        return [
            TimedFrame(image, begin, end - begin)
            for image, begin, end in zip(images, ticks[:-1], ticks[1:], strict=True)
        ]
    except Quarantined as error:
        raise ValueError(f"cannot be used: {path}: {error.detail} ({error.reason})") from error


def common_size(first: tuple[int, int], second: tuple[int, int], max_width: int) -> tuple[int, int]:
    """The even width and height at which both videos are shown: the height of the lower one and the
    aspect of the narrower one, at most `max_width` pixels wide.

    So neither is enlarged, and neither shows more than the other. Raises ValueError if the aspects
    differ by more than _MIN_ASPECT_RATIO.
    """
    narrow, wide = sorted(width / height for width, height in (first, second))
    if narrow < _MIN_ASPECT_RATIO * wide:
        raise ValueError(
            f"has videos of {first[0]}x{first[1]} and {second[0]}x{second[1]} pixels,"
            " expected nearly the same aspect"
        )
    height = min(first[1], second[1], max_width / narrow)
    return max(2, 2 * int(narrow * height / 2)), max(2, 2 * int(height / 2))


def encode_to_fit(encode: Callable[[int], Films], max_bytes: float) -> tuple[Films, int]:
    """The films that `encode` makes with the first CRF of the ladder that gives at most `max_bytes`
    for both, and that CRF. Raises ValueError if no CRF does.
    """
    films: Films = (b"", b"")
    for crf in _CRF_LADDER:
        films = encode(crf)
        if sum(map(len, films)) <= max_bytes:
            return films, crf
    raise ValueError(
        f"has {human_size(sum(map(len, films)))} at the lowest quality,"
        f" expected at most {human_size(max_bytes)}, its share of the page"
    )


def study_id(pairs: Sequence[Pair]) -> str:
    """A digest of names and videos, which tells this study from others, and from itself with A and
    B swapped.
    """
    digest = sha256()
    for pair in pairs:
        for part in (pair.name.encode(), *pair.films):
            digest.update(sha256(part).digest())
    return "s" + digest.hexdigest()[:STUDY_DIGITS]


def build_study_page(pairs: Sequence[Pair], question: str, look_s: float) -> str:
    """The whole page. A viewer can judge a pair only after watching it for `look_s` seconds."""
    page_pairs = [
        dict(
            name=pair.name,
            width=pair.size[0],
            height=pair.size[1],
            films=[b64encode(film).decode() for film in pair.films],
        )
        for pair in pairs
    ]
    values = dict(study=study_id(pairs), columns=CSV_COLUMNS, look=look_s, pairs=page_pairs)
    return fill_template(_TEMPLATE, question, values)
