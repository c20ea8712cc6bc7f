"""A decoder process that an attacker has taken over cannot break out, tried from inside it."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.decode import sandbox
from pipeline.decode.client import DecoderProcess
from pipeline.decode.config import DecodeConfig
from schemas.outcome import Quarantined
from tests.support.numbered import FRAME_COUNT, SIZE, encode_numbered, read_number

ROOT = Path(__file__).resolve().parents[3]
BREAKOUT = (sys.executable, str(Path(__file__).with_name("breakout.py")))
ALONE = {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""Environment of a process with a single thread, which alone may leave its user namespace."""
DENIED = "Operation not permitted"
WAYS = {
    "write": "landlock",
    "overwrite": "landlock",
    "remove": "landlock",
    "rename": "landlock",
    "change": "system calls",
    "connect": "system calls",
    "environment": "landlock",
    "memory": "landlock",
    "peek": "system calls",
    "trace": "system calls",
    "execute": "system calls",
    "spawn": "system calls",
    "signal": "system calls",
    "limit": "system calls",
    "open_many": "descriptors",
    "hoard": "system calls",
    "unconfine": "system calls",
    "in_a_thread": "system calls",
}
"""Each way of tests/pipeline/decode/breakout.py, and the defense that stops it; a way is skipped if
its defense does not hold on this machine.
"""


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecoderProcess]:
    process = DecoderProcess(DecodeConfig(), BREAKOUT)
    yield process
    process.close()


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which a server listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def outcome(process: DecoderProcess, path: Path) -> str:
    with pytest.raises(Quarantined) as caught:
        process.probe(str(path))
    return caught.value.detail


@pytest.mark.sample(9)
@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_decoder_cannot_break_out(decoder, tmp_path, port, way):
    """The attempts are real: the same process without a sandbox succeeds."""
    (path := tmp_path / f"{way}.mp4").write_text(str(port))
    done = subprocess.run(
        [*BREAKOUT, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | ALONE,
    )
    if way in ("memory", "peek"):  # the address may be mapped only here
        assert done.stdout.strip() in ("done", "Bad address", "Input/output error"), done.stderr
    elif way == "execute":
        assert (done.returncode, done.stdout) == (0, "")
    elif way != "open_many":
        assert done.stdout.startswith("done"), done.stdout + done.stderr
    (tmp_path / f"{way}.written").unlink(missing_ok=True)
    path.write_text(str(port))
    if WAYS[way] not in decoder.defenses:
        pytest.skip(f"{WAYS[way]} cannot be had on this machine")
    assert outcome(decoder, path) in (DENIED, "Permission denied", "Too many open files")
    assert not (tmp_path / f"{way}.written").exists() and path.read_text() == str(port)


def test_a_confined_decoder_decodes_all_the_same(decoder, tmp_path):
    path = str(encode_numbered(tmp_path / "good.mp4", options={"g": "24"}).path)
    pictures = decoder.pictures(path, decoder.probe(path), range(FRAME_COUNT), SIZE)
    assert [read_number(picture.image) for picture in pictures] == list(range(FRAME_COUNT))
    assert set(decoder.defenses) <= sandbox.DEFENSES.keys()


STEPS = {
    "network": ("sandbox.isolate()", "connect", "Network is unreachable"),
    "landlock": ("sandbox._prctl(38, 1); sandbox._apply_landlock()", "write", "Permission denied"),
    "landlock, others": (
        "sandbox._drop_capabilities(); sandbox._prctl(38, 1); sandbox._apply_landlock()",
        "environment",
        "Permission denied",
    ),
    "landlock, programs": (
        "sandbox._prctl(38, 1); sandbox._apply_landlock()",
        "execute",
        "Permission denied",
    ),
    "system calls": ("sandbox._prctl(38, 1); sandbox._filter_system_calls()", "write", DENIED),
    "system calls, threads": (
        "sandbox._prctl(38, 1); sandbox._filter_system_calls()",
        "in_a_thread",
        DENIED,
    ),
}


@pytest.mark.sample(5)
@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_each_step_holds_by_itself(tmp_path, port, step):
    """A machine may support only one of them."""
    code, way, words = STEPS[step]
    (path := tmp_path / f"{way}.mp4").write_text(str(port))
    program = (
        "from pipeline.decode import sandbox; from tests.pipeline.decode import breakout as b; "
        f"print('on' if {code.replace('; ', ' and ')} else 'off')"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; print(b.outcome(b.{way}, {str(path)!r}))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | ALONE,
    )
    if done.stdout.startswith("off"):
        pytest.skip(f"{step} cannot be had on this machine")
    assert done.stdout.split("\n")[1] == words, done.stderr


def test_a_process_that_starts_a_decoder_keeps_its_secrets_from_others_of_its_user():
    """The test runs as another user, since an administrator may read everything. The decoder's own
    defenses play no part here.
    """
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("only an administrator can be another user")
    code = (
        "import os, subprocess, sys; from pipeline.decode import sandbox\n"
        "os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "if sys.argv[1] == 'concealed': sandbox.conceal()\n"
        "if sys.argv[1] == 'open': sandbox._prctl(4, 1)\n"  # changing the user conceals, too
        "cat = ['/bin/cat', f'/proc/{os.getpid()}/environ']\n"
        "sys.exit(subprocess.run(cat, capture_output=True).returncode)"
    )
    codes = {
        how: subprocess.run([sys.executable, "-c", code, how], cwd=ROOT, timeout=60).returncode
        for how in ("open", "concealed")
    }
    assert codes == {"open": 0, "concealed": 1}


@pytest.mark.parametrize(
    "machine, calls",
    [
        (
            "x86_64",
            dict(
                socket=41,
                connect=42,
                execve=59,
                ptrace=101,
                unlink=87,
                x32_socket=41 + 0x40000000,
                read=0,
                mmap=9,
                futex=202,
                exit_group=231,
                clone3=435,
            ),
        ),
        (
            "aarch64",
            dict(
                socket=198,
                connect=203,
                execve=221,
                ptrace=117,
                unlinkat=35,
                read=63,
                mmap=222,
                futex=98,
                exit_group=94,
                clone3=435,
            ),
        ),
    ],
)
def test_the_filter_on_either_kind_of_processor(machine, calls):
    """The filter is run by an interpreter of the few instructions that it uses."""
    allowed = sandbox.SECCOMP_ALLOW
    refused = sandbox.SECCOMP_ERRNO | sandbox.EPERM
    missing = sandbox.SECCOMP_ERRNO | sandbox.ENOSYS
    expected = dict.fromkeys(calls, refused) | {"clone3": missing}
    expected |= dict.fromkeys(("read", "mmap", "futex", "exit_group"), allowed)
    assert {name: verdict(machine, call) for name, call in calls.items()} == expected
    opening, cloning, killing = (
        int(call.partition("=")[2].split(",")[machine == "aarch64"])
        for call in (sandbox.OPENAT, sandbox.CLONE, sandbox.TGKILL)
    )
    assert verdict(machine, opening, 0, 0, os.O_RDONLY | os.O_CLOEXEC) == allowed
    for flags in (os.O_RDWR, os.O_CREAT, os.O_TRUNC):
        assert verdict(machine, opening, 0, 0, flags) == refused
    assert [verdict(machine, cloning, flags) for flags in (0x3D0F00, 0x11)] == [allowed, refused]
    assert [verdict(machine, killing, process) for process in (77, 78)] == [allowed, refused]
    assert verdict(machine, calls["read"], architecture=0x40000003) == refused


def verdict(machine: str, call: int, *arguments: int, architecture: int | None = None) -> int:
    """The value that the filter of process 77 returns for a system call."""
    words = [
        call,
        architecture or sandbox.ARCHITECTURES[machine][0],
        0,
        0,
        *(half for value in (*arguments, *[0] * 6)[:6] for half in (value, 0)),
    ]
    program = [
        (int.from_bytes(op[:2], "little"), op[2], op[3], int.from_bytes(op[4:], "little"))
        for op in sandbox.build_filter(machine, 77)
    ]
    position = accumulator = 0
    while True:
        code, then, otherwise, value = program[position]
        if code == sandbox.BPF_RETURN:
            return value
        if code == sandbox.BPF_LOAD:
            accumulator, then, otherwise = words[value // 4], 0, 0
        jumps = {
            sandbox.BPF_LOAD: True,
            sandbox.BPF_JUMP_EQUAL: accumulator == value,
            sandbox.BPF_JUMP_AT_LEAST: accumulator >= value,
            sandbox.BPF_JUMP_ANY_BIT: bool(accumulator & value),
        }[code]
        position += 1 + (then if jumps else otherwise)


@pytest.mark.parametrize(
    "column, header, options",
    [
        (0, "asm/unistd_64.h", []),
        (1, "asm-generic/unistd.h", ["-D__BITS_PER_LONG=64", "-D__ARCH_WANT_RENAMEAT"]),
    ],
)
def test_the_numbers_are_those_of_the_kernels_headers(column, header, options):
    """This needs a compiler and the kernel's headers; older ones lack the newest calls."""
    calls = dict(
        call.split("=")
        for call in (
            *sandbox.DENIED_CALLS.split(),
            sandbox.OPEN,
            sandbox.OPENAT,
            sandbox.CLONE,
            sandbox.KILL,
            sandbox.TGKILL,
            sandbox.PRLIMIT,
            sandbox.CLONE3,
        )
    )
    program = f"#include <{header}>\n" + "".join(
        f"=={name} __NR_{name}\n#ifdef __NR3264_{name}\n=={name} __NR3264_{name}\n#endif\n"
        for name in calls
    )
    if not shutil.which("cc"):
        pytest.skip("there is no compiler")
    done = subprocess.run(
        ["cc", "-E", "-P", *options, "-"], input=program, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip("there are no headers of the kernel")
    numbers = dict(re.findall(r"==(\w+) (\d+)$", done.stdout, re.MULTILINE))
    assert len(numbers) > 60
    assert {name: calls[name].split(",")[column] for name in numbers} == numbers
