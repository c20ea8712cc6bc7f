"""Exit codes of all jobs, and the one place where an error becomes a sentence."""

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

from jobs.cli.console import STDOUT_LABEL, _label_stdout_errors, print_message
from jobs.cli.extras import explain_missing_package
from pipeline.sizes import human_size

_OUT_OF_MEMORY_PATTERN = re.compile(
    "not enough memory|out of memory|insufficient memory|cannot allocate memory|bad alloc",
    re.IGNORECASE,
)
"""How libraries say that there is none, if they do not raise MemoryError."""


class ExitCode(IntEnum):
    SUCCESS = 0
    FAILURE = 1
    """A failure of ours: the shards that are done stay done, the same command goes on."""
    USAGE = 2
    CONTRACT = 3
    """The folder was made with another configuration or other videos."""
    IN_USE = 4
    """Another run holds the folder."""
    STORAGE = 5
    """A file cannot be read or written; of verify, faults were found; of repair, some are left."""
    QUARANTINE = 6
    """More windows, or clips, could not be read than --quarantine-limit allows: it may be the
    machine.
    """
    INSECURE_CLUSTER = 7
    """Ray would take work from whoever reaches it, or wants a token that is not there."""
    INTERRUPTED = 130
    BROKEN_PIPE = 141


def prepare_process() -> None:
    """Readies the process of a verb, before it imports anything else: jobs/__init__.py calls this.

    Standard streams that are closed are opened on /dev/null, so that no file takes their numbers.
    What is raised before a verb's `main` becomes a sentence if `explained` has one for it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # which is how Python says that it was closed
            _open_dev_null(number, name)
    try:
        os.getcwd()
    except OSError:  # or torch ends the process when it is loaded, with words of its own
        exit_with(
            ExitCode.STORAGE,
            "the working folder was removed, or cannot be reached: go to another one",
        )
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _handle_uncaught


def _open_dev_null(number: int, name: str) -> None:
    """Opens /dev/null as the standard stream of that number, unless a file has taken its number."""
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
    """Ends a verb's process by what nobody has caught."""
    program = Path(sys.argv[0]).absolute()
    ours = Path(__file__).parents[1] in program.parents or program.stem == "quiver"
    if ours and isinstance(error, Exception) and (ending := _explain_common_error(error)):
        exit_with(*ending)
    sys.__excepthook__(kind, error, trace)


@contextmanager
def error_boundary() -> Iterator[None]:
    """Turns a mistake of the user or a fault of the machine into one sentence on standard error and
    its exit code, without a traceback.
    """
    try:
        with interrupt_boundary("interrupted; what is committed stays, the same command goes on"):
            yield
    except Exception as error:
        if (ending := _explain_common_error(error) or _explain_job_error(error)) is None:
            raise
        exit_with(*ending)


def _explain_common_error(error: Exception) -> tuple[ExitCode, str] | None:
    """The exit code and the sentence for what may happen to any program, and during its imports
    too; None for anything else.
    """
    if isinstance(error, ImportError) and (sentence := explain_missing_package(error)):
        return ExitCode.USAGE, sentence
    if isinstance(error, OSError) and error.filename == STDOUT_LABEL:
        _silence_stdout()
        return ExitCode.STORAGE, f"{STDOUT_LABEL}: {error.strerror}"
    if not _is_out_of_memory(error):
        return None
    words = " ".join(str(error).split()) or type(error).__name__
    words = re.sub(r"\b(\d{4,}) bytes", lambda found: human_size(int(found[1])), words)
    return ExitCode.FAILURE, f"there is not enough memory for this ({words[:300]})"


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory could not be had: by Python, numpy, torch, OpenCV, or what loads libraries."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    theirs = type(error).__module__.partition(".")[0] not in (
        "jobs",
        "model",
        "pipeline",
        "schemas",
    )
    return (
        theirs
        and not isinstance(error, ValueError)
        and _OUT_OF_MEMORY_PATTERN.search(str(error)) is not None
    )


def _explain_job_error(error: Exception) -> tuple[ExitCode, str] | None:
    """The same for what the verbs raise."""
    from jobs.cluster import (  # not above: doctor runs without any package
        InsecureCluster,
        RayNotStarted,
        TaskDied,
    )
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
        head = f"the folder holds {error.subject} made otherwise (there -> asked for)"
        return ExitCode.CONTRACT, "\n  ".join([f"{head}; use another --out:", *error.differences])
    for kind, code in codes.items():
        if isinstance(error, kind):
            return code, str(error)
    return (
        (ExitCode.STORAGE, _describe_storage_error(error)) if isinstance(error, OSError) else None
    )


@contextmanager
def interrupt_boundary(interrupted: str) -> Iterator[None]:
    """Ends the process without a traceback if it is interrupted, or if nobody reads on. No package
    is needed.
    """
    try:
        yield
        with _label_stdout_errors():
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has heard enough
        _silence_stdout()
        raise SystemExit(ExitCode.BROKEN_PIPE) from None
    except KeyboardInterrupt:
        exit_with(ExitCode.INTERRUPTED, interrupted)


def _silence_stdout() -> None:
    """What is still to be printed goes nowhere: or Python would fail over it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _describe_storage_error(error: OSError) -> str:
    """What could not be read or written, why, and how much room there is for it."""
    if not error.strerror:
        return str(error)
    where = "a file" if error.filename is None else error.filename
    where = os.fsdecode(where) if isinstance(where, bytes) else where
    return f"{where}: {error.strerror}{_describe_free_space(error)}"


def _describe_free_space(error: OSError) -> str:
    """How much would have fitted, if something did not."""
    if error.errno == errno.EFBIG:
        import resource  # which Windows lacks

        if (most := resource.getrlimit(resource.RLIMIT_FSIZE)[0]) >= 0:
            return f", a file may have {human_size(most)} (ulimit -f)"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not isinstance(error.filename, str):
        return ""
    folder = next(folder for folder in Path(error.filename).absolute().parents if folder.is_dir())
    if hasattr(os, "statvfs") and (system := os.statvfs(folder)).f_files and not system.f_favail:
        return ", no more files can be made there (every inode is taken)"
    return f", {human_size(shutil.disk_usage(folder).free)} are free there"


def exit_with(code: ExitCode, sentence: str, who: str = "quiver") -> NoReturn:
    """Prints the sentence and ends the process with that code."""
    print_message(sentence, who)
    raise SystemExit(code)
