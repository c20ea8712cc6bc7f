"""Turns a command line into a job, or into one sentence that says what is wrong with it.

tyro reports a mistake in a box, with more words than a sentence needs. That box is read here as a
terminal shows it, since tyro's hooks for parse errors are private and may change in any release.
Text in the box that is not recognized is shown unchanged, in one line.
"""

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeVar, get_args

import tyro
from tyro import _strings as tyro_strings

from jobs.cli.errors import ExitCode, exit_with
from pipeline.redact import check_not_url

Job = TypeVar("Job")
HELP_FLAGS = {"-h", "--help"}
_METAVAR_MEANINGS = {"INT": "a whole number", "FLOAT": "a number"}
"""What the words in capitals of --help mean."""
_OUTPUT_OPTIONS = ("out", "slice", "report", "staging")
"""Options that name what is written."""

_join_lines = tyro_strings.remove_single_line_breaks
# tyro joins the lines of an option's docstring only if they are not indented, and removes the
# indentation afterwards: without this, --help breaks every long text where its source does.
tyro_strings.remove_single_line_breaks = lambda text: _join_lines(inspect.cleandoc(text))


def parse_args(
    job: Callable[..., Job], prog: str, args: Sequence[str] | None = None, **options: Any
) -> Job:
    """Parses the command line into a `job`; `options` are those of tyro.cli. The word None is not
    accepted as a value: an option that is not wanted is left out.
    """
    config = (tyro.conf.DisallowNone, *options.pop("config", ()))
    return run_parser(
        prog, lambda args: tyro.cli(job, prog=prog, args=args, config=config, **options), args
    )


def run_parser(prog: str, parse: Callable[[list[str]], Job], args: Sequence[str] | None) -> Job:
    """Returns `parse(args)`, which calls tyro. A mistake ends the process with one sentence and the
    exit code of usage.
    """
    args, box = command_line_args(args), StringIO()
    try:
        with redirect_stderr(box), _wide_terminal(HELP_FLAGS.isdisjoint(args)):
            job = parse(args)
        _check_output_options(job, args)
        return job
    except SystemExit as stopped:
        if not stopped.code:
            raise
        mistake = _summarize_tyro_error(box.getvalue(), args)
    except ValueError as error:
        mistake = str(error)
    exit_with(ExitCode.USAGE, f"{mistake}; {prog} --help says more", prog)


def _check_output_options(job: Any, args: Sequence[str]) -> None:
    """Raises ValueError if something is to be written to a URL as if it were a path, or to an empty
    name.
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
    """Returns these arguments, or those after `quiver VERB` if there are none."""
    return sys.argv[1:] if args is None else list(args)


@contextmanager
def _wide_terminal(wide: bool) -> Iterator[None]:
    """Pretends, if `wide`, that the terminal is so wide that tyro breaks no line."""
    before = os.environ.get("COLUMNS")
    if wide:
        os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS", None)
        os.environ |= {"COLUMNS": before} if before else {}


def _summarize_tyro_error(box: str, args: Sequence[str]) -> str:
    """Returns one sentence for the box in which tyro reports a mistake in `args`."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", box)
    text = "\n".join(line[2:].rstrip("│| ") for line in plain.splitlines()[1:-1])
    # Without UTF-8, the title of the box has a line of its own.
    message, *more = re.split(r"\n[─-]+\n", re.sub(r"^-+\n", "", text))
    if message.startswith("Missing from"):
        return f"missing {', '.join(_extract_option_lines(message))}" + "".join(
            f"; {_describe_unknown_options(part)}"
            for part in more
            if part.startswith("Unrecognized")
        )
    if message.startswith("Unrecognized"):
        return _describe_unknown_options(message) + "".join(
            f", perhaps {name} was meant"
            for part in more
            if part.startswith("Perhaps")
            for name in _extract_option_lines(part)[:1]
        )
    if match := re.match(
        r"Error parsing (--\S+): (?s:.*)\n {4}\1 (.*)", "\n".join((message, *more))
    ):
        option, metavar = match.groups()
        return f"{option} is {_option_value(option, args)}, expected {_describe_metavar(metavar)}"
    if match := re.match(
        r"invalid choice '(.*)' for argument '(.*)'\. Expected one of (.*)", message
    ):
        value, option, choices = match.groups()
        words = ", ".join(re.findall(r"\w+", choices))
        return f"{option} is {value}, expected one of {words}"
    if match := re.match(r"Missing value for argument '(\S*)'", message):
        name = match[1]
        return f"{name} has no value" if name.startswith("-") else f"missing {name.upper()}"
    return " ".join(re.sub(r"^Error parsing \w+: ", "", message).split())


def _extract_option_lines(text: str) -> list[str]:
    """Returns the options and their metavars, each of which stands on a line above its help."""
    return re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)


def _describe_unknown_options(text: str) -> str:
    """Returns what is unknown, from a text that begins with `Unrecognized options:`."""
    return f"{' '.join(text.partition(':')[2].replace(', ', ' ').split())} is not known"


def _option_value(option: str, args: Sequence[str]) -> str:
    """Returns the value of an option, from where it was given last."""
    for i in reversed(range(len(args))):
        name, equals, value = args[i].partition("=")
        if name.replace("_", "-") == option:
            return value if equals else " ".join(args[i + 1 : i + 2])
    return "wrong"


def _describe_metavar(text: str) -> str:
    """Returns what an option takes, from its metavar in the help."""
    bare = re.sub(r"\{None}\||[{}]", "", text)
    return _METAVAR_MEANINGS.get(bare, bare)


def check_output_file(option: str, path: Path) -> None:
    """Raises ValueError unless a file can be written there without overwriting one of a dataset's
    own, OSError if the folder cannot be written.
    """
    from pipeline.dataset.finalize import DERIVED_FILES

    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(f"{option} is {str(path)!r}, expected a file in a folder that exists")
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
            f"{option} is {str(path)!r}, which is a dataset's own file, expected another name"
        )


size_registry = tyro.constructors.ConstructorRegistry()
"""Lets tyro read a size as `256x160` instead of two numbers."""


@size_registry.primitive_rule
def _size_option(
    type_info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec | None:
    if get_args(type_info.type) != (int, int):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="WIDTHxHEIGHT",
        instance_from_str=lambda args: _parse_size(args[0]),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda size: [f"{size[0]}x{size[1]}"],
    )


def _parse_size(text: str) -> tuple[int, int]:
    """Returns `256x160` as (256, 160). Raises ValueError if it is no size."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ValueError(f"{text!r} is no size, expected WIDTHxHEIGHT, as 256x160")
    return int(width), int(height)
