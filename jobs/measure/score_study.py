#!/usr/bin/env python
"""Evaluates the answers to a page of `quiver user-study`: which set people prefer, and how surely.

quiver score-study answers-*.csv
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import tyro

from jobs.cli.args import parse_args
from jobs.cli.console import print_output, print_raw
from jobs.cli.errors import error_boundary
from model.pages.user_study_results import (
    MAX_FILE_BYTES,
    Choice,
    Preference,
    count_viewer_leanings,
    merge_choices,
    overall_preference,
    preference_per_pair,
    read_choices,
)
from schemas.outcome import to_printable

_MAX_NAME_CHARACTERS = 40
"""A table cuts the names of pairs to so many characters."""


@dataclass(frozen=True, kw_only=True)
class ScoreStudy:
    """Prints the preference in the answers of one or several viewers, with its interval; writes
    nothing.
    """

    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="CSV")]
    """Files of answers to one study, which the page saved."""
    json: bool = False
    """Print one JSON object instead of lines."""

    def __post_init__(self):
        if not self.files:
            raise ValueError(
                "CSV is missing, expected at least one file that a page of quiver user-study saved"
            )


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(ScoreStudy, "quiver score-study", args)
        choices = merge_choices([(str(path), _read_answers(path)) for path in job.files])
        if job.json:
            print_raw(json.dumps(_result_record(choices)))
        else:
            print_output("\n".join(_format_result(choices)))


def _read_answers(path: Path) -> list[Choice]:
    """The choices in a file. Raises ValueError, naming the file, if the page did not save it."""
    if not path.is_file():
        raise ValueError(
            f"{path} is missing, expected a file that the page of quiver user-study saved"
        )
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    try:
        return read_choices(data)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def _result_record(choices: Sequence[Choice]) -> dict[str, Any]:
    """The result as a JSON object."""
    total = overall_preference(choices)
    return dict(
        study=choices[0].study,
        viewers=len({choice.viewer for choice in choices}),
        preferred_a=asdict(total) | dict(share=total.share),
        pairs={
            name: asdict(preference) | dict(share=preference.share)
            for name, preference in preference_per_pair(choices).items()
        },
        leanings=dict(zip(("a", "b", "neither"), count_viewer_leanings(choices), strict=True)),
        median_seconds=median(choice.seconds for choice in choices),
    )


def _format_result(choices: Sequence[Choice]) -> list[str]:
    """The result as lines for a terminal."""
    total, pairs = overall_preference(choices), preference_per_pair(choices)
    more_a, more_b, even = count_viewer_leanings(choices)
    viewers = len({choice.viewer for choice in choices})
    names = {name: to_printable(name, _MAX_NAME_CHARACTERS) for name in pairs}
    width = max(map(len, (*names.values(), "pair")))
    lines = [
        f"study {choices[0].study}:"
        f" {total.of} choices of {viewers} viewer{'s' if viewers > 1 else ''}"
        f" on {len(pairs)} pair{'s' if len(pairs) > 1 else ''},"
        f" {median(choice.seconds for choice in choices):.1f} s each (median)",
        f"A was preferred {total.chosen} times of {total.of}: {100 * total.share:.1f} %"
        f" (95 % interval {_format_interval(total)}); without a preference, a result at least as"
        f" uneven would have a probability of {total.p:.2g}",
        f"of the viewers {more_a} chose A more often, {more_b} B, and {even} both equally often",
        "",
        f"{'pair':{width}}     A of   share  95 % interval",
    ]
    for name, preference in pairs.items():
        lines.append(
            f"{names[name]:{width}}  {preference.chosen:4}{preference.of:5}"
            f"  {100 * preference.share:5.1f} %  {_format_interval(preference)}"
        )
    return [
        *lines,
        "",
        "Intervals are Wilson's, for independent choices; choices of one viewer or on one pair are"
        " less independent the more viewers or pairs differ.",
    ]


def _format_interval(preference: Preference) -> str:
    return f"{100 * preference.low:.1f} to {100 * preference.high:.1f} %"


if __name__ == "__main__":
    main()
