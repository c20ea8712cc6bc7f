"""A decoder process that tries to break out, in the way that the name of the requested file says.

Its answer is a refusal whose detail is the outcome: the system's error, or "done".
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
    """Writes a file beside the requested one."""
    Path(path).with_suffix(".written").write_text("")
    return "done"


def overwrite(path: str) -> str:
    """Writes into an existing file, without creating or truncating it."""
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
    """Changes who may read the file."""
    os.chmod(path, 0o777)
    return "done"


def connect(path: str) -> str:
    """Connects to the port whose number is in the file."""
    socket.create_connection(("127.0.0.1", int(Path(path).read_text())), timeout=5).close()
    return "done"


def environment(path: str) -> str:
    return "done" if Path(f"/proc/{PARENT}/environ").read_bytes() else "empty"


def memory(path: str) -> str:
    """Reads a byte of the parent's memory, at an address that is mapped here too."""
    with open(f"/proc/{PARENT}/mem", "rb", buffering=0) as file:
        file.seek(0x1000)
        file.read(1)
    return "done"


class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def peek(path: str) -> str:
    """Reads the parent's memory with a system call."""
    here = ctypes.create_string_buffer(8)
    ours, theirs = Piece(ctypes.addressof(here), 8), Piece(ctypes.addressof(here), 8)
    return checked(LIBC.process_vm_readv(PARENT, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0))


def trace(path: str) -> str:
    PTRACE_SEIZE = 0x4206
    return checked(LIBC.ptrace(PTRACE_SEIZE, PARENT, None, None))


def execute(path: str) -> str:
    """Replaces this program by another, which would close the connection."""
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
    """Allocates memory in a file without a name, which counts for no process."""
    descriptor = os.memfd_create("hoard")
    return f"done {os.write(descriptor, bytes(1 << 20))}"


def unconfine(path: str) -> str:
    """Gains rights in a user namespace of its own."""
    return checked(LIBC.unshare(0x10000000))


def in_a_thread(path: str) -> str:
    """Writes a file from a thread that is started after the sandbox."""
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
    """Requests for any other file are answered as usual."""
    name = Path(request["path"]).stem
    if name not in WAYS:
        yield from real_answer(request, connection, descriptor)
        return
    raise Quarantined(Stage.PROBE, Reason.NOT_MEDIA, outcome(WAYS[name], request["path"]))


if __name__ == "__main__":
    if len(sys.argv) == 2:  # without a sandbox, to show that the way itself works
        print(outcome(WAYS[Path(sys.argv[1]).stem], sys.argv[1]), flush=True)
    else:
        real_answer, worker.answer_request = worker.answer_request, answer
        worker.main(sys.argv[1:])
