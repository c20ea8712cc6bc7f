"""Exit codes of all jobs, and the one place where an error becomes a sentence."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import NoReturn

from pipeline.dataset import ContractMismatch, FolderInUse
from pipeline.derived import FILES

OWN = (*FILES, "run.json", "plan.parquet", "progress.jsonl", "report.html")


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
    INTERRUPTED = 130
    BROKEN_PIPE = 141


@contextmanager
def sentences() -> Iterator[None]:
    """Turns a user's mistake into one sentence on standard error and its exit code, without a traceback."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has heard enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(Exit.BROKEN_PIPE) from None
    except ValueError as error:
        stop(Exit.USAGE, str(error))
    except ContractMismatch as error:
        stop(Exit.CONTRACT, "the folder holds a data set made otherwise (there -> asked for); use another --out:\n  " + "\n  ".join(error.lines))
    except FolderInUse as error:
        stop(Exit.IN_USE, str(error))
    except KeyboardInterrupt:
        stop(Exit.INTERRUPTED, "interrupted; what is committed stays, the same command goes on")
    except OSError as error:
        stop(Exit.STORAGE, f"{error.filename}: {error.strerror}" if error.strerror else str(error))


def check_output(option: str, path: Path) -> None:
    """Raises ValueError unless a file can be put there without overwriting one of a data set's own."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(f"{option} is {str(path)!r}, expected a file in a folder that is there")
    if path.name in OWN and (path.parent / "run.json").exists():
        raise ValueError(f"{option} is {str(path)!r}, which is a data set's own file, expected another name")


def tell(sentence: str, who: str = "quiver") -> None:
    """Writes a sentence to standard error."""
    sys.stderr.write(f"{who}: {sentence}\n")  # what is printed Ray logs in its processes, and so it would be said twice
    sys.stderr.flush()


def stop(code: Exit, sentence: str, who: str = "quiver") -> NoReturn:
    """Prints the sentence and ends the process with that code."""
    tell(sentence, who)
    raise SystemExit(code)
