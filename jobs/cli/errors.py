"""Exit codes of all jobs, and the one place where an error becomes a sentence."""

import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import NoReturn

from jobs.cli.extras import missing_package
from pipeline.redact import hidden
from pipeline.sizes import human_size

LONGEST = 2000
"""Characters of a line that are shown."""
OUTPUT = "standard output"
"""What an OSError names instead of a file."""
MEMORY = re.compile(
    "not enough memory|out of memory|insufficient memory|cannot allocate memory|bad alloc",
    re.IGNORECASE,
)
"""How libraries say that there is none, if they do not raise MemoryError."""


class Exit(IntEnum):
    DONE = 0
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
    UNSAFE = 7
    """Ray would take work from whoever reaches it, or wants a token that is not there."""
    INTERRUPTED = 130
    BROKEN_PIPE = 141


def begin() -> None:
    """Readies the process of a verb, before it imports anything else: jobs/__init__.py calls this.

    Standard streams that are closed are opened on /dev/null, so that no file takes their numbers.
    What is raised before a verb's `main` becomes a sentence if `explained` has one for it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # which is how Python says that it was closed
            _open_nothing(number, name)
    try:
        os.getcwd()
    except OSError:  # or torch ends the process when it is loaded, with words of its own
        stop(Exit.STORAGE, "the working folder was removed, or cannot be reached: go to another one")
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _end


def _open_nothing(number: int, name: str) -> None:
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


def _end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ends a verb's process by what nobody has caught."""
    program = Path(sys.argv[0]).absolute()
    ours = Path(__file__).parents[1] in program.parents or program.stem == "quiver"
    if ours and isinstance(error, Exception) and (ending := explained(error)):
        stop(*ending)
    sys.__excepthook__(kind, error, trace)


@contextmanager
def sentences() -> Iterator[None]:
    """Turns a mistake of the user or a fault of the machine into one sentence on standard error and
    its exit code, without a traceback.
    """
    try:
        with untraced("interrupted; what is committed stays, the same command goes on"):
            yield
    except Exception as error:
        if (ending := explained(error) or _of_a_run(error)) is None:
            raise
        stop(*ending)


def explained(error: Exception) -> tuple[Exit, str] | None:
    """The exit code and the sentence for what may happen to any program, and during its imports too;
    None for anything else.
    """
    if isinstance(error, ImportError) and (sentence := missing_package(error)):
        return Exit.USAGE, sentence
    if isinstance(error, OSError) and error.filename == OUTPUT:
        _print_no_more()
        return Exit.STORAGE, f"{OUTPUT}: {error.strerror}"
    if not _is_of_memory(error):
        return None
    words = " ".join(str(error).split()) or type(error).__name__
    words = re.sub(r"\b(\d{4,}) bytes", lambda found: human_size(int(found[1])), words)
    return Exit.FAILURE, f"there is not enough memory for this ({words[:300]})"


def _is_of_memory(error: Exception) -> bool:
    """Whether memory could not be had: by Python, numpy, torch, OpenCV, or what loads libraries."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    theirs = type(error).__module__.partition(".")[0] not in ("jobs", "model", "pipeline", "schemas")
    return theirs and not isinstance(error, ValueError) and MEMORY.search(str(error)) is not None


def _of_a_run(error: Exception) -> tuple[Exit, str] | None:
    """The same for what the verbs raise."""
    from jobs.cluster import Died, NotStarted, Unsafe  # not above: doctor runs without any package
    from pipeline.dataset.folder import ContractMismatch
    from pipeline.dataset.open import DamagedDerived
    from pipeline.dataset.run_lock import FolderInUse

    codes = {
        DamagedDerived: Exit.STORAGE,
        ValueError: Exit.USAGE,
        FolderInUse: Exit.IN_USE,
        Unsafe: Exit.UNSAFE,
        NotStarted: Exit.FAILURE,
        Died: Exit.FAILURE,
    }
    if isinstance(error, ContractMismatch):
        head = f"the folder holds {error.what} made otherwise (there -> asked for)"
        return Exit.CONTRACT, "\n  ".join([f"{head}; use another --out:", *error.lines])
    for kind, code in codes.items():
        if isinstance(error, kind):
            return code, str(error)
    return (Exit.STORAGE, _of_storage(error)) if isinstance(error, OSError) else None


@contextmanager
def untraced(interrupted: str) -> Iterator[None]:
    """Ends the process without a traceback if it is interrupted, or if nobody reads on. No package
    is needed.
    """
    try:
        yield
        with _output():
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has heard enough
        _print_no_more()
        raise SystemExit(Exit.BROKEN_PIPE) from None
    except KeyboardInterrupt:
        stop(Exit.INTERRUPTED, interrupted)


def _print_no_more() -> None:
    """What is still to be printed goes nowhere: or Python would fail over it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_storage(error: OSError) -> str:
    """What could not be read or written, why, and how much room there is for it."""
    if not error.strerror:
        return str(error)
    where = "a file" if error.filename is None else error.filename
    where = os.fsdecode(where) if isinstance(where, bytes) else where
    return f"{where}: {error.strerror}{_room(error)}"


def _room(error: OSError) -> str:
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


def check_output(option: str, path: Path) -> None:
    """Raises ValueError unless a file can be put there without overwriting one of a data set's own, OSError where the folder cannot be written."""
    from pipeline.dataset.finalize import FILES

    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(f"{option} is {str(path)!r}, expected a file in a folder that is there")
    try:
        with TemporaryFile(dir=path.absolute().parent):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    if path.name in (*FILES, "run.json", "plan.parquet", "progress.jsonl", "report.html") and (path.parent / "run.json").exists():
        raise ValueError(f"{option} is {str(path)!r}, which is a data set's own file, expected another name")


def tell(sentence: str, who: str = "quiver") -> None:
    """Writes a sentence to standard error, if that can be written."""
    with suppress(OSError):
        # not printed: Ray logs in its processes what is printed, and so it would be said twice
        sys.stderr.write(f"{who}: {readable(sentence)}\n")
        sys.stderr.flush()


def say(text: str) -> None:
    """Prints lines to standard output, as a terminal may be shown them."""
    put(readable(text))


def put(text: str) -> None:
    """Prints text to standard output as it is. Raises OSError, naming that, if it cannot be written."""
    with _output():
        print(text, flush=True)


@contextmanager
def _output() -> Iterator[None]:
    """An error of writing to standard output, within, names that."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, OUTPUT) from error


def readable(text: str) -> str:
    """What a terminal may be shown of text that may come from a file: no control character, no endless line, no password of a URL."""
    lines = hidden(text).split("\n")  # before they are cut, or a cut password would not be known for one
    return "\n".join("".join(c if c.isprintable() else "?" for c in line[:LONGEST]) + "..." * (len(line) > LONGEST) for line in lines)


def stop(code: Exit, sentence: str, who: str = "quiver") -> NoReturn:
    """Prints the sentence and ends the process with that code."""
    tell(sentence, who)
    raise SystemExit(code)
