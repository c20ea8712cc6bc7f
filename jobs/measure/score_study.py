#!/usr/bin/env python
"""What people have chosen on a page of `quiver user-study`: which set they preferred, and how surely.

python -m jobs.study_result answers-*.csv
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
"""Characters of a pair's name that a table shows."""


@dataclass(frozen=True, kw_only=True)
class ScoreStudy:
    """The preference that the answers of one or several viewers show, with its interval; changes
    nothing.
    """

    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="CSV")]
    """What the page saved, of one study."""
    json: bool = False
    """Print one JSON object instead of lines."""

    def __post_init__(self):
        if not self.files:
            raise ValueError(
                "no file is named, expected at least one that the page of quiver user-study saved"
            )


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(ScoreStudy, "quiver score-study", args)
        choices = merge_choices([(str(path), _read_answers(path)) for path in job.files])
        print_raw(json.dumps(_result_record(choices))) if job.json else print_output(
            "\n".join(_format_result(choices))
        )


def _read_answers(path: Path) -> list[Choice]:
    """Raises ValueError, naming the file, where it is not one that the page saved."""
    if not path.is_file():
        raise ValueError(
            f"{path} is not there, expected a file that the page of quiver user-study saved"
        )
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    try:
        return read_choices(data)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def _result_record(choices: Sequence[Choice]) -> dict[str, Any]:
    total = overall_preference(choices)
    return dict(
        study=choices[0].study,
        viewers=len({one.viewer for one in choices}),
        preferred_a=asdict(total) | dict(share=total.share),
        pairs={
            name: asdict(one) | dict(share=one.share)
            for name, one in preference_per_pair(choices).items()
        },
        leanings=dict(zip(("a", "b", "neither"), count_viewer_leanings(choices), strict=True)),
        median_seconds=median(one.seconds for one in choices),
    )


def _format_result(choices: Sequence[Choice]) -> list[str]:
    """For a terminal."""
    total, (a, b, even), pairs = (
        overall_preference(choices),
        count_viewer_leanings(choices),
        preference_per_pair(choices),
    )
    viewers, width = (
        len({one.viewer for one in choices}),
        max(len(to_printable(name, _MAX_NAME_CHARACTERS)) for name in (*pairs, "pair")),
    )
    head = f"study {choices[0].study}: {total.of} choices of {viewers} viewer{'s' if viewers > 1 else ''} on {len(pairs)} pair{'s' if len(pairs) > 1 else ''}"
    return [
        f"{head}, {median(one.seconds for one in choices):.1f} s each (median)",
        f"A was preferred {total.chosen} times of {total.of}: {_format_share(total)}; were both alike, an outcome at least so uneven had a probability of {total.p:.2g}",
        f"of the viewers {a} chose A more often, {b} chose B, {even} both alike",
        "",
        f"{'pair':{width}}     A of   share  95 % interval",
        *(
            f"{to_printable(name, _MAX_NAME_CHARACTERS):{width}}  {one.chosen:4}{one.of:5}  {100 * one.share:5.1f} %  {100 * one.low:.1f} to {100 * one.high:.1f} %"
            for name, one in pairs.items()
        ),
        "",
        "Intervals are Wilson's, and take the choices as independent; those of one viewer, or on one pair, are less so the more viewers or pairs differ.",
    ]


def _format_share(one: Preference) -> str:
    return f"{100 * one.share:.1f} % (95 % interval {100 * one.low:.1f} to {100 * one.high:.1f} %)"


if __name__ == "__main__":
    main()
