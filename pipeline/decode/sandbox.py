"""What a decoder process gives up before it reads the first byte of a stranger's file.

    isolate     a network and a user of its own: at the very start, while it has one thread
    confine     everything else, once its libraries are loaded
    conceal     the parent's side: others cannot look into a process that holds secrets

Each step is tried and may fail: an old kernel, a container or another system may lack it, and the
decoder works without. Each function returns the names of what holds, keys of DEFENSES.
Linux alone; x86-64 and aarch64 for the filter of system calls.
"""

import ctypes
import os
import platform
import resource
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress

DEFENSES = {
    "network": "it has no network",
    "capabilities": "it has no rights but to read",
    "privileges": "it cannot gain rights",
    "landlock": "it cannot write files or look into other processes",
    "system calls": "it cannot open connections, start programs, write files or signal other processes",
    "descriptors": "it has few files open at once, and none grows",
    "parent": "it cannot read the memory and the environment of the process that started it",
}
"""What is tried, and what holds of a decoder process if it worked."""
DESCRIPTORS = 64
"""How many files a decoder may have open: a video, and what its libraries read."""
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38
CLONE_THREAD, CLONE_NEWUSER, CLONE_NEWNET = 0x00010000, 0x10000000, 0x40000000
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1 << 1, 1 << 2
"""To use any file, and to read any: of an administrator's rights a decoder keeps the least of the
two that it has, since videos may be other users'."""
CAPABILITY_VERSION_3 = 0x20080522
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF, LANDLOCK_VERSION = 444, 446, 1
LANDLOCK_RIGHTS = {1: 0x1FF3, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
"""By version: executing, writing and removing of every kind; renaming across folders; truncating;
control of devices. Reading is not among them, since a decoder is told its paths one by one."""
LANDLOCK_TCP, LANDLOCK_SCOPES = (4, 0b11), (6, 0b11)
"""Binding and connecting TCP; abstract sockets of others and signals to them."""

EPERM, ENOSYS = 1, 38
WRITING = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
ALLOW, REFUSE, FILTER_ALL_THREADS = 0x7FFF0000, 0x00050000, 1
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ARCHITECTURES = {"x86_64": (0xC000003E, 0, 317), "aarch64": (0xC00000B7, 1, 277)}
"""AUDIT_ARCH of each, its column below, and its number of seccomp."""
X32 = 0x40000000
"""Added to the numbers of x86-64's second interface, under which they would pass the filter."""
REFUSED = {
    "connections": "41,198 53,199 42,203 49,200 50,201 43,202 288,242 44,206 46,211 307,269",
    "programs": "59,221 322,281 57,- 58,-",
    "processes": "101,117 310,270 311,271 440,440 312,272 434,434 438,438 424,424 200,130 129,138 297,240",
    "mounts": "165,40 166,39 155,41 161,51 308,268 272,97 429,429 430,430 428,428 432,432 433,433 431,431 442,442",
    "kernel": "321,280 298,241 425,425 426,426 427,427 248,217 250,219 249,218 323,282 175,105 313,273 176,106 "
    "246,104 320,294 304,265 135,92 169,142 167,224 168,225 163,89 179,60 443,443 170,161 171,162 227,112 164,170",
    "files": "85,- 133,- 259,33 83,- 258,34 84,- 87,- 263,35 82,- 264,38 316,276 86,- 265,37 88,- 266,36 "
    "90,- 91,52 268,53 452,452 92,- 93,55 94,- 260,54 76,45 77,46 285,47 132,- 235,- 261,- 280,88",
    "attributes": "188,5 189,6 190,7 463,463 197,14 198,15 199,16 466,466 469,469",
    "memory without a process": "319,279 447,447 29,194 30,196 68,186 64,190 240,180",
}  # fmt: skip
"""System calls that end with EPERM, by their numbers on x86-64 and aarch64: socket, socketpair,
connect, bind, listen, accept, accept4, sendto, sendmsg, sendmmsg; execve, execveat, fork, vfork;
ptrace, process_vm_readv, process_vm_writev, process_madvise, kcmp, pidfd_open, pidfd_getfd,
pidfd_send_signal, tkill, rt_sigqueueinfo, rt_tgsigqueueinfo; mount, umount2, pivot_root, chroot,
setns, unshare, move_mount, fsopen, open_tree, fsmount, fspick, fsconfig, mount_setattr; bpf,
perf_event_open, io_uring_setup, io_uring_enter, io_uring_register, add_key, keyctl, request_key,
userfaultfd, init_module, finit_module, delete_module, kexec_load, kexec_file_load,
open_by_handle_at, personality, reboot, swapon, swapoff, acct, quotactl, quotactl_fd, sethostname,
setdomainname, clock_settime, settimeofday; creat, mknod, mknodat, mkdir, mkdirat, rmdir, unlink,
unlinkat, rename, renameat, renameat2, link, linkat, symlink, symlinkat, chmod, fchmod, fchmodat,
fchmodat2, chown, fchown, lchown, fchownat, truncate, ftruncate, fallocate, utime, utimes,
futimesat, utimensat; setxattr, lsetxattr, fsetxattr, setxattrat, removexattr, lremovexattr,
fremovexattr, removexattrat, file_setattr; memfd_create, memfd_secret, shmget, shmat, msgget,
semget, mq_open."""
OPEN, OPENAT, CLONE, KILL, TGKILL = "2,-", "257,56", "56,220", "62,129", "234,131"
PRLIMIT, CLONE3, OPENAT2 = "302,261", "435,435", "437,437"


def isolate() -> list[str]:
    """Leaves the network. It takes a name space of users too, unless an administrator does it, who
    would lose the right to read others' files there. One thread may run.
    """
    way = CLONE_NEWNET | (CLONE_NEWUSER if os.geteuid() else 0)
    return _holding({"network": lambda: ctypes.CDLL(None).unshare(way) == 0})


def confine() -> list[str]:
    """Gives up what decoding does not need, in all threads but Landlock's, which is of this one and
    of those that it starts. Nothing can be written and no library be installed afterwards.
    """
    return _holding({
        "capabilities": _drop_capabilities,
        "privileges": lambda: _prctl(PR_SET_NO_NEW_PRIVS, 1),
        "landlock": _landlock,
        "system calls": _filter_system_calls,
        "descriptors": _limit_descriptors,
    })  # fmt: skip


def conceal() -> list[str]:
    """Keeps other processes of this user from reading this one's memory and environment, as from
    `/proc`. A debugger then wants an administrator, and this process leaves no core dump.
    """
    return _holding({"parent": lambda: _prctl(PR_SET_DUMPABLE, 0)})


def _holding(steps: dict[str, Callable[[], bool]]) -> list[str]:
    """Names of the steps that worked; a C library may lack what they call."""
    held = []
    for name, step in steps.items():
        with suppress(OSError, AttributeError, ValueError):
            if step():
                held.append(name)
    return held


def _prctl(option: int, value: int) -> bool:
    return ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0


def _drop_capabilities() -> bool:
    """All but that to read, which only an administrator's process has."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    held = ctypes.create_string_buffer(24)  # effective, permitted, inheritable; twice 32 bits each
    if libc.capget(header, held) != 0:
        return False
    effective, permitted, _, *_ = struct.unpack("=6I", held.raw)
    kept = effective & permitted & CAP_DAC_READ_SEARCH or effective & permitted & CAP_DAC_OVERRIDE
    return libc.capset(header, struct.pack("=6I", kept, kept, 0, 0, 0, 0)) == 0


def _landlock() -> bool:
    """A set of rules that handles every kind of writing and allows none."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_VERSION)
    if version < 1:
        return False
    files = sum(rights for since, rights in LANDLOCK_RIGHTS.items() if version >= since)
    tcp, scopes = (bits if version >= since else 0 for since, bits in (LANDLOCK_TCP, LANDLOCK_SCOPES))
    fields = 1 + (version >= LANDLOCK_TCP[0]) + (version >= LANDLOCK_SCOPES[0])
    rules = struct.pack("=3Q", files, tcp, scopes)
    ruleset = libc.syscall(LANDLOCK_CREATE_RULESET, rules, ctypes.c_size_t(8 * fields), 0)
    if ruleset < 0:
        return False
    try:
        return libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _limit_descriptors() -> bool:
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    return True


def _filter_system_calls() -> bool:
    """Installs the filter in every thread."""
    if platform.system() != "Linux" or platform.machine() not in ARCHITECTURES:
        return False
    _, _, seccomp = ARCHITECTURES[platform.machine()]
    program = b"".join(filter_program(platform.machine(), os.getpid()))
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    return ctypes.CDLL(None).syscall(seccomp, 1, FILTER_ALL_THREADS, header) == 0


def filter_program(machine: str, process: int) -> list[bytes]:
    """The filter, in classic BPF: allows what it does not name. `machine` is one of ARCHITECTURES,
    `process` the id of the one that may signal itself.
    """
    architecture, column, _ = ARCHITECTURES[machine]
    refuse, missing, allow = [_op(RETURN, REFUSE | EPERM)], [_op(RETURN, REFUSE | ENOSYS)], [_op(RETURN, ALLOW)]

    def on(calls: Iterable[str], body: list[bytes]) -> list[bytes]:
        numbers = [call.split(",")[column] for call in calls]
        return [op for number in numbers if number != "-" for op in (_op(EQUAL, int(number), 0, len(body)), *body)]

    def flagged(argument: int, bits: int, then: list[bytes], otherwise: list[bytes]) -> list[bytes]:
        return [_op(LOAD, 16 + 8 * argument), _op(ANY_BIT, bits, 0, 1), *then, *otherwise]

    def of(process: int) -> list[bytes]:
        return [_op(LOAD, 16), _op(EQUAL, process, 0, 1), *allow, *refuse]

    return [
        _op(LOAD, 4), _op(EQUAL, architecture, 1, 0), *refuse,
        _op(LOAD, 0), _op(AT_LEAST, X32, 0, 1), *refuse,
        *on([OPEN], flagged(1, WRITING, refuse, allow)),
        *on([OPENAT], flagged(2, WRITING, refuse, allow)),
        *on([CLONE], flagged(0, CLONE_THREAD, allow, refuse)),
        *on([KILL, TGKILL], of(process)),
        *on([PRLIMIT], of(0)),  # 0 is the one that calls
        *on([CLONE3, OPENAT2], missing),  # their flags are out of sight; C libraries know the others
        *on([call for calls in REFUSED.values() for call in calls.split()], refuse),
        *allow,
    ]  # fmt: skip


def _op(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """One instruction; `then` and `otherwise` say how many to skip."""
    return struct.pack("=HBBI", code, then, otherwise, value)
