"""Turns errors into sentences and exit codes, for all jobs."""

import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from jobs.cli.console import STDOUT_LABEL, label_stdout_errors, print_message
from jobs.cli.extras import explain_missing_package
from pipeline.sizes import human_size

_OUT_OF_MEMORY_PATTERN = re.compile(
    "not enough memory|out of memory|insufficient memory|cannot allocate memory|bad alloc",
    re.IGNORECASE,
)
"""What libraries say that do not raise MemoryError."""


class ExitCode(IntEnum):
    SUCCESS = 0
    FAILURE = 1
    """An internal error: the shards that are done stay done, the same command resumes."""
    USAGE = 2
    CONTRACT = 3
    """The folder was created with another configuration or other videos."""
    IN_USE = 4
    """Another run holds the folder."""
    STORAGE = 5
    """A file cannot be read or written; verify found faults; repair left some."""
    QUARANTINE = 6
    """More windows, or clips, could not be read than --quarantine-limit allows: the machine may be
    faulty.
    """
    INSECURE_CLUSTER = 7
    """Ray would accept work from whoever reaches it, or requires a token that is missing."""
    INTERRUPTED = 130
    BROKEN_PIPE = 141


def prepare_process() -> None:
    """Prepares the process of a verb before it imports anything else; jobs/__init__.py calls it.

    Standard streams that are closed are opened on /dev/null, so that no file takes their numbers.
    Common errors that are raised outside a verb's error boundary become sentences.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # this is how Python says that it was closed
            _open_dev_null(number, name)
    try:
        os.getcwd()
    except OSError:  # otherwise torch would end the process when it is loaded
        exit_with(
            ExitCode.STORAGE,
            "the working folder was removed, or cannot be reached: change to another one",
        )
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _handle_uncaught


def _open_dev_null(number: int, name: str) -> None:
    """Opens /dev/null as the standard stream of that number, unless a file has taken the number."""
    try:
        os.fstat(number)
        stream = open(os.devnull, "r+")  # noqa: SIM115 - for as long as the process lasts
    except OSError:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor != number:
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.set_inheritable(number, True)
        stream = open(number, "r" if number == 0 else "w", closefd=False)  # noqa: SIM115
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def _handle_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Ends the process of a verb with a sentence, if an error that nobody caught has one."""
    program = Path(sys.argv[0]).absolute()
    is_quiver = Path(__file__).parents[1] in program.parents or program.stem == "quiver"
    if is_quiver and isinstance(error, Exception) and (ending := _explain_common_error(error)):
        exit_with(*ending)
    sys.__excepthook__(kind, error, trace)


@contextmanager
def error_boundary() -> Iterator[None]:
    """Turns a mistake of the user or a fault of the machine into one sentence on standard error and
    an exit code, without a traceback.
    """
    try:
        with interrupt_boundary("interrupted; what is committed stays, the same command resumes"):
            yield
    except Exception as error:
        if (ending := _explain_common_error(error) or _explain_job_error(error)) is None:
            raise
        exit_with(*ending)


def _explain_common_error(error: Exception) -> tuple[ExitCode, str] | None:
    """Returns the exit code and the sentence for an error of any program, also during its imports;
    None for anything else.
    """
    if isinstance(error, ImportError) and (sentence := explain_missing_package(error)):
        return ExitCode.USAGE, sentence
    if isinstance(error, OSError) and error.filename == STDOUT_LABEL:
        _silence_stdout()
        return ExitCode.STORAGE, f"{STDOUT_LABEL}: {error.strerror}"
    if not _is_out_of_memory(error):
        return None
    words = " ".join(str(error).split()) or type(error).__name__
    words = re.sub(r"\b(\d{4,}) bytes", lambda match: human_size(int(match[1])), words)
    return ExitCode.FAILURE, f"there is not enough memory for this ({words[:300]})"


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, numpy, torch, OpenCV or the loader of libraries ran out of memory."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    package = type(error).__module__.partition(".")[0]
    if package in ("jobs", "model", "pipeline", "schemas") or isinstance(error, ValueError):
        return False
    return _OUT_OF_MEMORY_PATTERN.search(str(error)) is not None


def _explain_job_error(error: Exception) -> tuple[ExitCode, str] | None:
    """Returns the exit code and the sentence for an error that verbs raise; None for another."""
    # Not above: doctor runs without any package.
    from jobs.cluster import InsecureCluster, RayNotStarted, TaskDied
    from pipeline.dataset.folder import ContractMismatch
    from pipeline.dataset.open import DamagedDerived
    from pipeline.dataset.run_lock import FolderInUse

    codes = {
        DamagedDerived: ExitCode.STORAGE,
        ValueError: ExitCode.USAGE,
        FolderInUse: ExitCode.IN_USE,
        InsecureCluster: ExitCode.INSECURE_CLUSTER,
        RayNotStarted: ExitCode.FAILURE,
        TaskDied: ExitCode.FAILURE,
    }
    if isinstance(error, ContractMismatch):
        head = f"the folder holds {error.subject} made differently (there -> asked for)"
        return ExitCode.CONTRACT, "\n  ".join([f"{head}; use another --out:", *error.differences])
    for kind, code in codes.items():
        if isinstance(error, kind):
            return code, str(error)
    if isinstance(error, OSError):
        return ExitCode.STORAGE, _describe_storage_error(error)
    return None


@contextmanager
def interrupt_boundary(interrupted: str) -> Iterator[None]:
    """Ends the process without a traceback if it is interrupted, or if its output is a broken pipe.
    No package is needed.
    """
    try:
        yield
        with label_stdout_errors():
            sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        raise SystemExit(ExitCode.BROKEN_PIPE) from None
    except KeyboardInterrupt:
        exit_with(ExitCode.INTERRUPTED, interrupted)


def _silence_stdout() -> None:
    """Discards what is still to be printed: otherwise Python would fail over it when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _describe_storage_error(error: OSError) -> str:
    """Returns which file could not be read or written, why, and how much space is left."""
    if not error.strerror:
        return str(error)
    name = "a file" if error.filename is None else error.filename
    name = os.fsdecode(name) if isinstance(name, bytes) else name
    return f"{name}: {error.strerror}{_describe_free_space(error)}"


def _describe_free_space(error: OSError) -> str:
    """Returns how much would have fitted, if the error is that something did not fit."""
    if error.errno == errno.EFBIG:
        import resource  # missing on Windows

        if (limit := resource.getrlimit(resource.RLIMIT_FSIZE)[0]) >= 0:
            return f", a file may have {human_size(limit)} (ulimit -f)"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not isinstance(error.filename, str):
        return ""
    folder = next(folder for folder in Path(error.filename).absolute().parents if folder.is_dir())
    if hasattr(os, "statvfs") and (system := os.statvfs(folder)).f_files and not system.f_favail:
        return ", no more files can be created there (every inode is taken)"
    return f", {human_size(shutil.disk_usage(folder).free)} are free there"


def exit_with(code: ExitCode, sentence: str, program: str = "quiver") -> NoReturn:
    """Prints the sentence and ends the process with that code."""
    print_message(sentence, program)
    raise SystemExit(code)
