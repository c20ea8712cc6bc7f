"""A decoder process that tries to break out, in the way that the name of the file says that it is
asked for.

Its answer is a refusal with the way's outcome: what the system said, or "done".
"""

import ctypes
import os
import resource
import socket
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from pipeline.decode import worker
from schemas.outcome import Quarantined, Reason, Stage

PARENT = os.getppid()
LIBC = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> str:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return "done"


def write(path: str) -> str:
    """A file beside the one that is asked for."""
    Path(path).with_suffix(".written").write_text("")
    return "done"


def overwrite(path: str) -> str:
    """One that is there, without creating or truncating it."""
    descriptor = os.open(path, os.O_WRONLY)
    os.write(descriptor, b"x")
    return "done"


def remove(path: str) -> str:
    os.unlink(path)
    return "done"


def rename(path: str) -> str:
    os.rename(path, f"{path}.moved")
    return "done"


def change(path: str) -> str:
    """Who may read it."""
    os.chmod(path, 0o777)
    return "done"


def connect(path: str) -> str:
    """To the port that the file names."""
    socket.create_connection(("127.0.0.1", int(Path(path).read_text())), timeout=5).close()
    return "done"


def environment(path: str) -> str:
    return "done" if Path(f"/proc/{PARENT}/environ").read_bytes() else "empty"


def memory(path: str) -> str:
    """A byte of the parent's, at an address that is ours as well."""
    with open(f"/proc/{PARENT}/mem", "rb", buffering=0) as file:
        file.seek(0x1000)
        file.read(1)
    return "done"


class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def peek(path: str) -> str:
    """The same by a system call."""
    here = ctypes.create_string_buffer(8)
    ours, theirs = Piece(ctypes.addressof(here), 8), Piece(ctypes.addressof(here), 8)
    return checked(LIBC.process_vm_readv(PARENT, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0))


def trace(path: str) -> str:
    PTRACE_SEIZE = 0x4206
    return checked(LIBC.ptrace(PTRACE_SEIZE, PARENT, None, None))


def execute(path: str) -> str:
    """A program in place of this one, which would close the connection."""
    os.execv("/bin/true", ["true"])


def spawn(path: str) -> str:
    if not (process := os.fork()):
        os._exit(0)
    os.waitpid(process, 0)
    return "done"


def signal(path: str) -> str:
    os.kill(PARENT, 0)
    return "done"


def limit(path: str) -> str:
    resource.prlimit(
        PARENT, resource.RLIMIT_NOFILE, resource.prlimit(PARENT, resource.RLIMIT_NOFILE)
    )
    return "done"


def open_many(path: str) -> str:
    with ExitStack() as files:
        for _ in range(10_000):
            files.enter_context(open(path))
    return "done"


def hoard(path: str) -> str:
    """Memory in a file without a name, which counts as no process's."""
    descriptor = os.memfd_create("hoard")
    return f"done {os.write(descriptor, bytes(1 << 20))}"


def unconfine(path: str) -> str:
    """Rights in a name space of users of its own."""
    return checked(LIBC.unshare(0x10000000))


def in_a_thread(path: str) -> str:
    """What a thread that is started later may do."""
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(outcome(write, path)))
    thread.start()
    thread.join()
    return outcomes[0]


WAYS = {
    way.__name__: way
    for way in (
        write,
        overwrite,
        remove,
        rename,
        change,
        connect,
        environment,
        memory,
        peek,
        trace,
        execute,
        spawn,
        signal,
        limit,
        open_many,
        hoard,
        unconfine,
        in_a_thread,
    )
}


def outcome(way, path: str) -> str:
    try:
        return way(path)
    except OSError as error:
        return os.strerror(error.errno)


def answer(request, connection, descriptor):
    """Any other file is answered about as ever."""
    name = Path(request["path"]).stem
    if name not in WAYS:
        yield from real_answer(request, connection, descriptor)
        return
    raise Quarantined(Stage.PROBE, Reason.NOT_MEDIA, outcome(WAYS[name], request["path"]))


if __name__ == "__main__":
    if len(sys.argv) == 2:  # outside of any sandbox, to see that the way itself works
        print(outcome(WAYS[Path(sys.argv[1]).stem], sys.argv[1]), flush=True)
    else:
        real_answer, worker.answer_request = worker.answer_request, answer
        worker.main(sys.argv[1:])
