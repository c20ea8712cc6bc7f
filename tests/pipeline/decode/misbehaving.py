"""A decoder process that misbehaves in the way that the name of the requested file says; for other
files it is the real one.
"""

import ctypes
import mmap
import os
import signal
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection

from pipeline.decode import worker

HOARD = []


def spin() -> None:
    while True:
        pass


def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)


def leak() -> None:
    while True:
        HOARD.append(bytearray(os.urandom(1 << 20)) * 40)
        time.sleep(0.02)


def send_part(connection: Connection) -> None:
    os.write(connection.fileno(), b"\x00\x00\x01\x00abc")
    time.sleep(1000)


def send_too_much(connection: Connection) -> None:
    while True:
        os.write(connection.fileno(), b"\xff" * 4096)


def leak_shared() -> None:
    """Takes 600 MB that the system's limit on data does not count."""
    data = bytes(20 << 20)
    for _ in range(30):
        HOARD.append(mmap.mmap(-1, len(data)))
        HOARD[-1].write(data)
    time.sleep(1000)


def leak_a_clip() -> None:
    HOARD.append(bytes(os.urandom(1 << 20)) * 100)


def say_much(connection: Connection) -> None:
    """Writes more than the capacity of a pipe to standard error, while nobody reads it."""
    with suppress(BlockingIOError):
        os.write(2, b"words\n" * (1 << 20))


def say_and_abort(connection: Connection) -> None:
    """Crashes as a library does: with much output, the important line last, and with text that
    differs from run to run.
    """
    for line in [
        *(f"line {i}" for i in range(2000)),
        f"[h264 @ {id(connection):#x}] broken\x1b[31m",
        f"=={os.getpid()}== {time.ctime()}: the heap is corrupt",
    ]:
        os.write(2, line.encode() + b"\n")
    os.abort()


WAYS = {
    "sleeps": lambda connection: time.sleep(1000),
    "ignores_sigterm": lambda connection: ignore_sigterm(),
    "spins": lambda connection: spin(),
    "segfaults": lambda connection: ctypes.string_at(0),
    "aborts": lambda connection: os.abort(),
    "exits": lambda connection: os._exit(0),
    "leaks": lambda connection: leak(),
    "speaks_nonsense": lambda connection: connection.send_bytes(
        b'{"pictures": -5, "frames": "\xff"}'
    ),
    "sends_too_much": send_too_much,
    "sends_a_part": send_part,
    "leaks_shared": lambda connection: leak_shared(),
    "takes_much_at_once": lambda connection: HOARD.append(bytearray(800 << 20)),
    "leaks_a_clip": lambda connection: leak_a_clip(),
    "says_much": say_much,
    "says_and_aborts": say_and_abort,
    "nests_deeply": lambda connection: connection.send_bytes(b'{"stage": ' + b"[" * 100_000),
}
"""What is done before the answer, or instead of it."""
real_answer = worker.answer_request


def answer(request, connection, descriptor):
    how = os.path.basename(request["path"]).split(".")[0]
    if how == "halfway" and "indices" in request:
        answers = real_answer(request, connection, descriptor)
        yield next(answers)
        os.abort()
    WAYS.get(how, lambda connection: None)(connection)
    yield from real_answer(request, connection, descriptor)
    if how == "says_more":
        yield b"{}"


worker.answer_request = answer
worker.main(sys.argv[1:])
