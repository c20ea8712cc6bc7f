"""A page of one file on which people choose between two sets of videos without knowing which is
which: model/pages/user_study.html, filled.

A two-alternative forced choice: of each pair one video is of set A, the other of B. Which stands
left, and the order of the pairs, the page draws from a seed that it records; A stands left in half
of the pairs. It reaches for nothing outside itself. `model/pages/user_study_results.py` reads what
it saves.
"""

from base64 import b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from model.pages.interactive import fill_template
from model.pages.user_study_results import CSV_COLUMNS, STUDY_DIGITS
from pipeline.sizes import human_size

_TEMPLATE = Path(__file__).with_name("user_study.html")
_CRF_LADDER = (16, 20, 24, 28, 32)
"""x264's CRF, of both videos of a pair alike: the first of which they are small enough."""
_MIN_ASPECT_RATIO = 0.5
"""Aspect of one video by that of the other under which there is too little that both show."""

Films = tuple[bytes, bytes]
"""mp4, of A and of B."""


class Pair(NamedTuple):
    """Two videos of one size and length."""

    name: str
    size: tuple[int, int]
    films: Films
    crf: int


def common_size(one: tuple[int, int], other: tuple[int, int], widest: int) -> tuple[int, int]:
    """Width and height, even, at which both are shown: of the lower one, in the narrower one's
    aspect, at most `widest` pixels wide.

    So neither is enlarged, or shown more of. Raises ValueError where the aspects differ by more
    than LEAST_ALIKE.
    """
    narrow, wide = sorted(width / height for width, height in (one, other))
    if narrow < _MIN_ASPECT_RATIO * wide:
        raise ValueError(
            f"has videos of {one[0]}x{one[1]} and {other[0]}x{other[1]} pixels, expected nearly the same aspect"
        )
    height = min(one[1], other[1], widest / narrow)
    return max(2, 2 * int(narrow * height / 2)), max(2, 2 * int(height / 2))


def encode_to_fit(make: Callable[[int], Films], most: float) -> tuple[Films, int]:
    """The films that `make` makes by the first of QUALITIES with which they have at most `most`
    bytes together, and that quality.

    Raises ValueError where they have more by any.
    """
    films: Films = (b"", b"")
    for crf in _CRF_LADDER:
        films = make(crf)
        if sum(map(len, films)) <= most:
            return films, crf
    raise ValueError(
        f"has {human_size(sum(map(len, films)))} at the lowest quality, expected at most {human_size(most)}, its share of the page"
    )


def study_id(pairs: Sequence[Pair]) -> str:
    """What tells this study from others, and from itself with A and B changed about: of names and
    videos.
    """
    digest = sha256()
    for pair in pairs:
        for part in (pair.name.encode(), *pair.films):
            digest.update(sha256(part).digest())
    return "s" + digest.hexdigest()[:STUDY_DIGITS]


def build_study_page(pairs: Sequence[Pair], question: str, look_s: float) -> str:
    """The whole page. A pair must have been seen for `look_s` seconds before it can be judged."""
    shown = [
        dict(
            name=pair.name,
            width=pair.size[0],
            height=pair.size[1],
            films=[b64encode(film).decode() for film in pair.films],
        )
        for pair in pairs
    ]
    return fill_template(
        _TEMPLATE,
        question,
        dict(study=study_id(pairs), columns=CSV_COLUMNS, look=look_s, pairs=shown),
    )
