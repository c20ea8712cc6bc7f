"""What people have chosen on the page of model/pages/user_study.py: a preference with an interval,
from the files that they saved.

The files come from strangers: they are read as text, with limits, and each field is checked.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from pipeline.sizes import human_size
from schemas.outcome import to_printable

CSV_COLUMNS = ("study", "viewer", "seed", "pair", "left", "right", "choice", "seconds")
STUDY_DIGITS, _VIEWER_DIGITS = 12, 8
"""Hexadecimal, after a letter: a spreadsheet would take some of them for numbers, and write them
otherwise.
"""
MAX_FILE_BYTES, MAX_FIELD_CHARS = 1_000_000, 300
"""Of a file, and characters of a field."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One pair, judged by one viewer."""

    study: str
    viewer: str
    pair: str
    is_for_a: bool
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Preference:
    """How often A was chosen: `chosen` times of `of`, a share within `low` to `high` with 95 %
    confidence (Wilson), and the exact two-sided probability of what is at least as far from even,
    were both alike.
    """

    chosen: int
    of: int
    low: float
    high: float
    p: float

    @property
    def share(self) -> float:
        return self.chosen / self.of


def estimate_preference(chosen: int, of: int) -> Preference:
    """Choices count as independent of each other. Raises ValueError unless 0 <= chosen <= of and 1
    <= of.
    """
    test = binomtest(chosen, of, 0.5)
    interval = test.proportion_ci(0.95, method="wilson")
    return Preference(
        chosen=chosen,
        of=of,
        low=float(interval.low),
        high=float(interval.high),
        p=float(test.pvalue),
    )


def overall_preference(choices: Sequence[Choice]) -> Preference:
    return estimate_preference(sum(one.is_for_a for one in choices), len(choices))


def preference_per_pair(choices: Iterable[Choice]) -> dict[str, Preference]:
    """By the pair's name, in the order of names."""
    of, chosen = Counter[str](), Counter[str]()
    for one in choices:
        of[one.pair] += 1
        chosen[one.pair] += one.is_for_a
    return {name: estimate_preference(chosen[name], of[name]) for name in sorted(of)}


def count_viewer_leanings(choices: Iterable[Choice]) -> tuple[int, int, int]:
    """How many viewers chose A more often, B more often, and both alike."""
    lead = Counter[str]()
    for one in choices:
        lead[one.viewer] += 1 if one.is_for_a else -1
    return (
        sum(n > 0 for n in lead.values()),
        sum(n < 0 for n in lead.values()),
        sum(n == 0 for n in lead.values()),
    )


def read_choices(data: bytes) -> list[Choice]:
    """The rows of one file. Raises ValueError, in words that go on after the file's name, for
    anything that the page does not write.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"is too large, expected at most {human_size(MAX_FILE_BYTES)}")
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"is no CSV file in UTF-8 ({to_printable(str(error), 100)})") from error
    if not rows or tuple(rows[0]) != CSV_COLUMNS:
        raise ValueError(
            f"begins with {to_printable(','.join(rows[0]) if rows else '', 100)!r}, expected the columns {','.join(CSV_COLUMNS)}"
        )
    if len(rows) == 1:
        raise ValueError("holds no choice, expected at least one")
    return [_parse_row(row, number) for number, row in enumerate(rows[1:], 2)]


def _parse_row(row: Sequence[str], number: int) -> Choice:
    """Row `number` of a file."""
    if len(row) != len(CSV_COLUMNS):
        raise ValueError(f"has {len(row)} fields in row {number}, expected {len(CSV_COLUMNS)}")
    fields: dict[str, str] = dict(zip(CSV_COLUMNS, row, strict=True))
    for name, text in fields.items():
        if not _FIELD_PATTERNS[name].fullmatch(text):
            raise ValueError(
                f"has {name} {to_printable(text, 60)!r} in row {number}, expected {_FIELD_DESCRIPTIONS[name]}"
            )
    if fields["left"] == fields["right"]:
        raise ValueError(f"has {fields['left']} on both sides in row {number}, expected A and B")
    seconds = float(fields["seconds"])
    return Choice(
        study=fields["study"],
        viewer=fields["viewer"],
        pair=fields["pair"],
        is_for_a=fields[fields["choice"]] == "A",
        seconds=seconds,
    )


_FIELD_PATTERNS: dict[str, re.Pattern[str]] = {
    name: re.compile(pattern)
    for name, pattern in dict(
        study=rf"s[0-9a-f]{{{STUDY_DIGITS}}}",
        viewer=rf"v[0-9a-f]{{{_VIEWER_DIGITS}}}",
        seed=r"[0-9]{1,10}",
        pair=rf".{{1,{MAX_FIELD_CHARS}}}",
        left="[AB]",
        right="[AB]",
        choice="left|right",
        seconds=r"[0-9]{1,7}(\.[0-9]{1,3})?",
    ).items()
}
_FIELD_DESCRIPTIONS: dict[str, str] = dict(
    study=f"s and {STUDY_DIGITS} hexadecimal digits",
    viewer=f"v and {_VIEWER_DIGITS} hexadecimal digits",
    seed="a whole number",
    left="A or B",
    right="A or B",
    pair=f"a name of 1 to {MAX_FIELD_CHARS} characters",
    choice="left or right",
    seconds="a number of seconds",
)


def merge_choices(files: Iterable[tuple[str, Sequence[Choice]]]) -> list[Choice]:
    """The choices of several files, named. Raises ValueError where they are of different studies,
    or a viewer judged a pair twice.
    """
    found: list[Choice] = []
    seen: dict[tuple[str, str], str] = {}
    for name, choices in files:
        for one in choices:
            if found and one.study != found[0].study:
                raise ValueError(
                    f"{name} is of study {one.study} and the files before of {found[0].study}, expected one study"
                )
            if (one.viewer, one.pair) in seen:
                raise ValueError(
                    f"viewer {one.viewer} judged {to_printable(one.pair, 60)!r} twice, in {seen[one.viewer, one.pair]} and {name}, expected once"
                )
            seen[one.viewer, one.pair] = name
            found.append(one)
    return found
