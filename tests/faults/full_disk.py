"""Runs whose disk is full from a certain call on: python -m tests.faults.full_disk CLIPS FOLDER
OPTION ..., with full_disk.c preloaded.

For each N that is read a run without Ray into FOLDER/N, forked from here; prints its exit code and
the calls that were left.
"""

import ctypes
import json
import multiprocessing
import sys
from pathlib import Path

from tests.faults.reference import extract_command
from tests.faults.runs import build_in_process, enter_process


def main(clips: str, folder: str, *options: str) -> None:
    context = multiprocessing.get_context("fork")
    for number in map(int, sys.stdin):
        out, left = Path(folder) / f"{number}", context.Value("l", -1)
        process = context.Process(
            target=build_on_full_disk,
            args=(extract_command(Path(clips), out, *options), out, number, left),
        )
        process.start()
        process.join()
        print(json.dumps([process.exitcode, left.value]), flush=True)


def build_on_full_disk(arguments: list[str], out: Path, number: int, left: ctypes.c_long) -> None:
    """In a process of its own: the calls before the one of this number find room."""
    shim = ctypes.CDLL(None)
    shim.fill_disk(f"{out}/".encode(), ctypes.c_long(number - 1))
    try:
        enter_process(build_in_process, (arguments[3:],), f"{out}.log", {})
    finally:
        left.value = shim.calls_left()


if __name__ == "__main__":
    main(*sys.argv[1:])
