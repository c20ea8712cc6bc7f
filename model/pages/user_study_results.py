"""Reads the answers that people saved on the page of model/pages/user_study.py, and estimates the
preference with its interval.

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
"""Hexadecimal digits of ids. A letter precedes them, because a spreadsheet would convert an id that
looks like a number.
"""
MAX_FILE_BYTES, MAX_FIELD_CHARS = 1_000_000, 300
"""Limits of a file of answers, and of each of its fields."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The judgment of one pair by one viewer."""

    study: str
    viewer: str
    pair: str
    is_for_a: bool
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Preference:
    """How often A was chosen: `chosen` times of `of`.

    `low` and `high` are the 95 % confidence interval of the share (Wilson); `p` is the exact
    two-sided probability of a result at least as uneven if nobody had a preference.
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
    """The preference, if all choices are independent. Raises ValueError unless 0 <= chosen <= of
    and 1 <= of.
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
    """The preference over all choices, of which there must be at least one."""
    return estimate_preference(sum(choice.is_for_a for choice in choices), len(choices))


def preference_per_pair(choices: Iterable[Choice]) -> dict[str, Preference]:
    """The preference for each pair by its name, in the order of names."""
    of, chosen = Counter[str](), Counter[str]()
    for choice in choices:
        of[choice.pair] += 1
        chosen[choice.pair] += choice.is_for_a
    return {name: estimate_preference(chosen[name], of[name]) for name in sorted(of)}


def count_viewer_leanings(choices: Iterable[Choice]) -> tuple[int, int, int]:
    """How many viewers chose A more often, how many B, and how many both equally often."""
    leads = Counter[str]()
    for choice in choices:
        leads[choice.viewer] += 1 if choice.is_for_a else -1
    return (
        sum(lead > 0 for lead in leads.values()),
        sum(lead < 0 for lead in leads.values()),
        sum(lead == 0 for lead in leads.values()),
    )


def read_choices(data: bytes) -> list[Choice]:
    """The choices in one file. Raises ValueError for anything that the page does not write; its
    message is the predicate of a sentence that begins with the file's name.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"is too large, expected at most {human_size(MAX_FILE_BYTES)}")
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"is not a CSV file in UTF-8 ({to_printable(str(error), 100)})") from error
    if not rows or tuple(rows[0]) != CSV_COLUMNS:
        head = to_printable(",".join(rows[0]) if rows else "", 100)
        raise ValueError(f"begins with {head!r}, expected the columns {','.join(CSV_COLUMNS)}")
    if len(rows) == 1:
        raise ValueError("has no choice, expected at least one")
    return [_parse_row(row, number) for number, row in enumerate(rows[1:], 2)]


def _parse_row(row: Sequence[str], number: int) -> Choice:
    """The choice in row `number` of a file."""
    if len(row) != len(CSV_COLUMNS):
        raise ValueError(f"has {len(row)} fields in row {number}, expected {len(CSV_COLUMNS)}")
    fields: dict[str, str] = dict(zip(CSV_COLUMNS, row, strict=True))
    for name, text in fields.items():
        if not _FIELD_PATTERNS[name].fullmatch(text):
            raise ValueError(
                f"has {name} {to_printable(text, 60)!r} in row {number},"
                f" expected {_FIELD_DESCRIPTIONS[name]}"
            )
    if fields["left"] == fields["right"]:
        raise ValueError(f"has {fields['left']} on both sides in row {number}, expected A and B")
    return Choice(
        study=fields["study"],
        viewer=fields["viewer"],
        pair=fields["pair"],
        is_for_a=fields[fields["choice"]] == "A",
        seconds=float(fields["seconds"]),
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
    """The choices of several files, each given with its name. Raises ValueError if the files are of
    different studies, or if a viewer judged a pair twice.
    """
    merged: list[Choice] = []
    file_of: dict[tuple[str, str], str] = {}
    for name, choices in files:
        for choice in choices:
            if merged and choice.study != merged[0].study:
                raise ValueError(
                    f"{name} is of study {choice.study} and the files before of {merged[0].study},"
                    " expected one study"
                )
            judgment = choice.viewer, choice.pair
            if judgment in file_of:
                raise ValueError(
                    f"viewer {choice.viewer} judged {to_printable(choice.pair, 60)!r} twice,"
                    f" in {file_of[judgment]} and {name}, expected once"
                )
            file_of[judgment] = name
            merged.append(choice)
    return merged
