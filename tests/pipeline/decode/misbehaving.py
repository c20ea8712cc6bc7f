"""A decoder process that misbehaves when it is asked for a file whose name says how; otherwise it is the real one."""

import ctypes
import os
import signal
import sys
import time
from multiprocessing.connection import Connection

from pipeline.decode import child

HOARD = []


def take(megabytes: int) -> None:
    HOARD.append(bytearray(os.urandom(1 << 20)) * megabytes)


def misbehave(how: str, connection: Connection) -> None:
    if how == "sleeps":
        time.sleep(1000)
    elif how == "ignores_sigterm":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
    elif how == "spins":
        while True:
            pass
    elif how == "segfaults":
        ctypes.string_at(0)
    elif how == "aborts":
        os.abort()
    elif how == "exits":
        os._exit(0)
    elif how == "leaks":
        while True:
            take(40)
            time.sleep(0.02)
    elif how == "speaks_nonsense":
        connection.send_bytes(b'{"pictures": -5, "frames": "\\xff"}')
    elif how == "sends_too_much":
        os.write(connection.fileno(), b"\xff" * 4096)
        time.sleep(1000)


real_answer = child.answer


def answer(request, connection, descriptor):
    how = os.path.basename(request["path"]).split(".")[0]
    if how == "once" and not os.path.exists(request["path"] + ".tried"):
        open(request["path"] + ".tried", "w").close()
        os.abort()
    elif how == "halfway" and "indices" in request:
        answers = real_answer(request, connection, descriptor)
        yield next(answers)
        os.abort()
    misbehave(how, connection)
    yield from real_answer(request, connection, descriptor)


child.answer = answer
child.main(sys.argv[1:])
