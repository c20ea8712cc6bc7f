"""A command line becomes a job, or one sentence that says what is wrong with it.

tyro draws a box around what it has to say, with more words than a sentence needs. It is read here
as any terminal shows it: how tyro comes to it is nobody's business but its own. What it says in
words that are not known here is shown as it is, in one line.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeVar

import tyro

from jobs.cli.errors import ExitCode, exit_with
from pipeline.redact import check_not_url


def check_output_file(option: str, path: Path) -> None:
    """Raises ValueError unless a file can be put there without overwriting one of a data set's own,
    OSError where the folder cannot be written.
    """
    from pipeline.dataset.finalize import DERIVED_FILES

    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(f"{option} is {str(path)!r}, expected a file in a folder that is there")
    try:
        with TemporaryFile(dir=path.absolute().parent):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    if (
        path.name in (*DERIVED_FILES, "run.json", "plan.parquet", "progress.jsonl", "report.html")
        and (path.parent / "run.json").exists()
    ):
        raise ValueError(
            f"{option} is {str(path)!r}, which is a data set's own file, expected another name"
        )


Job = TypeVar("Job")
HELP_FLAGS = {"-h", "--help"}
_METAVAR_MEANINGS = {"INT": "a whole number", "FLOAT": "a number"}
"""What the capitals of --help mean."""
_OUTPUT_OPTIONS = ("out", "slice", "report", "staging")
"""Options that name what is to be written."""


def parse_args(
    job: Callable[..., Job], prog: str, args: Sequence[str] | None = None, **options: Any
) -> Job:
    """The command line as tyro understands it; `options` are tyro.cli's. Whoever wants none of an
    option leaves it out: None is no word for it.
    """
    config = (tyro.conf.DisallowNone, *options.pop("config", ()))
    return run_parser(
        prog, lambda args: tyro.cli(job, prog=prog, args=args, config=config, **options), args
    )


def run_parser(prog: str, parse: Callable[[list[str]], Job], args: Sequence[str] | None) -> Job:
    """`parse(args)`, by tyro. A mistake ends the process with one sentence and the exit code of
    usage.
    """
    args, said = command_line_args(args), StringIO()
    try:
        with redirect_stderr(said), _wide_terminal(HELP_FLAGS.isdisjoint(args)):
            job = parse(args)
        _check_output_options(job, args)
        return job
    except SystemExit as stopped:
        if not stopped.code:
            raise
        mistake = _summarize_tyro_error(said.getvalue(), args)
    except ValueError as error:
        mistake = str(error)
    exit_with(ExitCode.USAGE, f"{mistake}; {prog} --help says more", prog)


def _check_output_options(job: Any, args: Sequence[str]) -> None:
    """Raises ValueError where something is to be written to a URL as if it were a path, or to a
    name that is empty.
    """
    for name in _OUTPUT_OPTIONS:
        if (
            isinstance(getattr(job, name, None), str | Path)
            and not _option_value(f"--{name}", args).strip()
        ):
            raise ValueError(f"--{name} is {_option_value(f'--{name}', args)!r}, expected a name")
        if isinstance(getattr(job, name, None), Path):
            check_not_url(f"--{name}", _option_value(f"--{name}", args), "a path of this machine")


def command_line_args(args: Sequence[str] | None) -> list[str]:
    """Those after `quiver VERB`, where a job was not given any."""
    return sys.argv[1:] if args is None else list(args)


@contextmanager
def _wide_terminal(wide: bool) -> Iterator[None]:
    """With a `wide` terminal, in which tyro breaks no line."""
    before = os.environ.get("COLUMNS")
    if wide:
        os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS", None)
        os.environ |= {"COLUMNS": before} if before else {}


def _summarize_tyro_error(box: str, args: Sequence[str]) -> str:
    """What tyro says in a box of a mistake in `args`."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", box)
    text = "\n".join(line[2:].rstrip("│| ") for line in plain.splitlines()[1:-1])
    said, *more = re.split(
        r"\n[─-]+\n", re.sub(r"^-+\n", "", text)
    )  # where there is no UTF-8, its title has a line of its own
    if said.startswith("Missing from"):
        return f"missing {', '.join(_extract_option_lines(said))}" + "".join(
            f"; {_describe_unknown_options(part)}"
            for part in more
            if part.startswith("Unrecognized")
        )
    if said.startswith("Unrecognized"):
        return _describe_unknown_options(said) + "".join(
            f", perhaps {name} was meant"
            for part in more
            if part.startswith("Perhaps")
            for name in _extract_option_lines(part)[:1]
        )
    if found := re.match(r"Error parsing (--\S+): (?s:.*)\n {4}\1 (.*)", "\n".join((said, *more))):
        return (
            f"{found[1]} is {_option_value(found[1], args)}, expected {_describe_metavar(found[2])}"
        )
    if found := re.match(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of (.*)", said):
        choices = re.findall(r"\w+", found[3])
        return f"{found[2]} is {found[1]}, expected one of {', '.join(choices)}"
    if found := re.match(r"Missing value for argument '(\S*)'", said):
        return (
            f"{found[1]} has no value"
            if found[1].startswith("-")
            else f"missing {found[1].upper()}"
        )
    return " ".join(re.sub(r"^Error parsing \w+: ", "", said).split())


def _extract_option_lines(text: str) -> list[str]:
    """Options and their kinds, each on a line above its help."""
    return re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)


def _describe_unknown_options(text: str) -> str:
    """Of words after `Unrecognized options:`."""
    return f"{' '.join(text.partition(':')[2].replace(', ', ' ').split())} is not known"


def _option_value(option: str, args: Sequence[str]) -> str:
    """What stands after the option where it was last given."""
    last = max(
        (
            place
            for place, word in enumerate(args)
            if word.partition("=")[0].replace("_", "-") == option
        ),
        default=None,
    )
    if last is None:
        return "wrong"
    return (
        args[last].partition("=")[2] if "=" in args[last] else " ".join(args[last + 1 : last + 2])
    )


def _describe_metavar(text: str) -> str:
    """What an option takes, by its help."""
    bare = re.sub(r"\{None}\||[{}]", "", text)
    return _METAVAR_MEANINGS.get(bare, bare)
