"""Whether this machine can do what the other commands need, and what to do if it cannot.

    python -m jobs.doctor --out DATASET

Each check does the thing rather than asking for it: a small video is encoded and decoded, the
kernel is built, a file is written, renamed and created once. Exit codes: 0 nothing is wrong; 5 the
folder or its disk, and nothing else; 7 Ray's authentication, and nothing else; 1 otherwise.
"""

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jobs.cli.console import print_output, print_raw
from jobs.cli.errors import ExitCode, exit_with, interrupt_boundary
from jobs.doctor.cluster_check import check_ray
from jobs.doctor.components import (
    check_decoders,
    check_encoders,
    check_raft_weights,
    check_sandbox,
    check_splatting,
    check_torchvision,
)
from jobs.doctor.finding import Finding, State
from jobs.doctor.machine import check_gpu, check_memory, check_shared_memory
from jobs.doctor.packages import EXTRAS, check_packages, check_python
from jobs.doctor.storage import check_disk, check_output_folder

_EXIT_CODES = {
    "disk": ExitCode.STORAGE,
    "output folder": ExitCode.STORAGE,
    "Ray": ExitCode.INSECURE_CLUSTER,
}


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Checks whether this machine can do what the other commands need, and says what to do if it
    cannot; leaves nothing behind.
    """

    out: Path | None = None
    """Folder of a dataset or of a training: checks whether it can be written as they need it."""
    json: bool = False
    """Print one JSON object instead of lines."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with interrupt_boundary("interrupted; nothing is left behind"):
        job = _parse_options(args)
        findings = {name: run_check(check) for name, check in list_checks(job.out).items()}
        if job.json:
            print_raw(_format_json(findings))
        else:
            print_output("\n".join(_format_findings(findings)))
    raise SystemExit(exit_code(findings))


def _parse_options(args: Sequence[str] | None) -> Doctor:
    """Reads the command line. Without tyro no option can be read, and the defaults are used."""
    try:
        from jobs.cli.args import parse_args
    except ImportError as error:
        if words := sys.argv[1:] if args is None else args:
            exit_with(
                ExitCode.USAGE,
                f"{' '.join(words)} cannot be read without tyro ({error}); "
                "quiver doctor alone says what else is missing",
                "quiver doctor",
            )
        return Doctor()
    return parse_args(Doctor, "quiver doctor", args)


def list_checks(out: Path | None) -> dict[str, Callable[[], Finding]]:
    """Returns each check by its name, in the order in which a person reads them."""
    checks = {
        "Python": check_python,
        **{name: partial(check_packages, extra) for extra, (name, _) in EXTRAS.items()},
        "GPU": check_gpu,
        "torchvision": check_torchvision,
        "decoders": check_decoders,
        "decoder's sandbox": check_sandbox,
        "encoders": check_encoders,
        "splatting": check_splatting,
        "RAFT weights": check_raft_weights,
        "Ray": check_ray,
        "memory": check_memory,
        "shared memory": check_shared_memory,
        "disk": partial(check_disk, out or Path.cwd()),
    }
    return checks | ({"output folder": partial(check_output_folder, out)} if out else {})


def run_check(check: Callable[[], Finding]) -> Finding:
    """Returns what a check finds; an exception is a finding, too."""
    try:
        return check()
    except ModuleNotFoundError as error:
        return Finding(
            State.WARNING,
            f"could not be checked without the package {error.name}",
            "install the packages above first",
        )
    except Exception as error:  # noqa: BLE001 - a broken package breaks in its own way
        return Finding(
            State.WRONG,
            f"failed: {' '.join(str(error).split())[:300] or type(error).__name__}",
            "install the packages of constraints.txt again",
        )


def exit_code(findings: dict[str, Finding]) -> ExitCode:
    """Returns the code for what is wrong, if all of it has the same, else FAILURE."""
    codes = {
        _EXIT_CODES.get(name, ExitCode.FAILURE)
        for name, finding in findings.items()
        if finding.state == State.WRONG
    }
    if not codes:
        return ExitCode.SUCCESS
    return codes.pop() if len(codes) == 1 else ExitCode.FAILURE


def _format_json(findings: dict[str, Finding]) -> str:
    checks = [dict(what=name, **finding._asdict()) for name, finding in findings.items()]
    return json.dumps(dict(exit=exit_code(findings), checks=checks), indent=1)


def _format_findings(findings: dict[str, Finding]) -> list[str]:
    """Returns a line for each check, with the remedy below it, and the counts last. On a terminal,
    long lines are wrapped to its width.
    """
    indent, lines = " " * 29, []
    width = max(shutil.get_terminal_size().columns, 60) if sys.stdout.isatty() else sys.maxsize
    for name, finding in findings.items():
        lines.append(f"{finding.state:8} {name:19} {finding.says}")
        if finding.remedy:
            lines.append(f"{indent}-> {finding.remedy}")
    lines = [
        textwrap.fill(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        for line in lines
    ]
    states = [finding.state for finding in findings.values()]
    ok, warnings, wrong = map(states.count, State)
    return [*lines, "", f"{ok} ok, {warnings} warnings, {wrong} wrong"]
