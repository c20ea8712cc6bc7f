"""Exit codes of all jobs, and the one place where an error becomes a sentence."""

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from tempfile import TemporaryFile
from typing import NoReturn

from pipeline.credentials import hidden

LONGEST = 2000
"""Characters of a line that are shown."""


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
    """More windows could not be read than --quarantine-limit allows: it may be the machine."""
    UNSAFE = 7
    """Ray would take work from whoever reaches it, or wants a token that is not there."""
    INTERRUPTED = 130
    BROKEN_PIPE = 141


@contextmanager
def sentences() -> Iterator[None]:
    """Turns a user's mistake into one sentence on standard error and its exit code, without a traceback."""
    from jobs.cluster import Died, NotStarted, Unsafe  # only here: quiver doctor wants the codes where packages are missing
    from pipeline.dataset import ContractMismatch
    from pipeline.fence import FolderInUse
    from pipeline.selection import DamagedDerived

    try:
        with untraced("interrupted; what is committed stays, the same command goes on"):
            yield
    except DamagedDerived as error:
        stop(Exit.STORAGE, str(error))
    except ValueError as error:
        stop(Exit.USAGE, str(error))
    except ContractMismatch as error:
        stop(Exit.CONTRACT, f"the folder holds {error.what} made otherwise (there -> asked for); use another --out:\n  " + "\n  ".join(error.lines))
    except FolderInUse as error:
        stop(Exit.IN_USE, str(error))
    except (Unsafe, NotStarted, Died) as error:
        stop(Exit.UNSAFE if isinstance(error, Unsafe) else Exit.FAILURE, str(error))
    except OSError as error:
        stop(Exit.STORAGE, f"{error.filename}: {error.strerror}{room_left(error)}" if error.strerror else str(error))


@contextmanager
def untraced(interrupted: str) -> Iterator[None]:
    """Ends the process without a traceback where it is interrupted, or nobody reads on. Needs no package."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has heard enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(Exit.BROKEN_PIPE) from None
    except KeyboardInterrupt:
        stop(Exit.INTERRUPTED, interrupted)


def room_left(error: OSError) -> str:
    """Where a file did not fit, how much would."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not isinstance(error.filename, str):
        return ""
    folder = next(folder for folder in Path(error.filename).absolute().parents if folder.is_dir())
    return f", {shutil.disk_usage(folder).free} bytes are free there"


def check_output(option: str, path: Path) -> None:
    """Raises ValueError unless a file can be put there without overwriting one of a data set's own, OSError where the folder cannot be written."""
    from pipeline.derived import FILES

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
    """Writes a sentence to standard error."""
    sys.stderr.write(f"{who}: {readable(sentence)}\n")  # what is printed Ray logs in its processes, and so it would be said twice
    sys.stderr.flush()


def say(text: str) -> None:
    """Prints lines to standard output."""
    print(readable(text), flush=True)


def readable(text: str) -> str:
    """What a terminal may be shown of text that may come from a file: no control character, no endless line, no password of a URL."""
    lines = hidden(text).split("\n")  # before they are cut, or a cut password would not be known for one
    return "\n".join("".join(c if c.isprintable() else "?" for c in line[:LONGEST]) + "..." * (len(line) > LONGEST) for line in lines)


def stop(code: Exit, sentence: str, who: str = "quiver") -> NoReturn:
    """Prints the sentence and ends the process with that code."""
    tell(sentence, who)
    raise SystemExit(code)
