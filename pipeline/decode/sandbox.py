"""Takes rights away from a decoder process before it reads the first byte of an untrusted file.

    isolate     takes away the network: at the very start, while the process has one thread
    confine     takes away everything else, after the process has loaded its libraries
    conceal     for the parent: others cannot read the memory of a process that holds secrets

Each step is tried and may fail: an old kernel, a container or another operating system may lack it,
and the decoder works without it. Each function returns the names of the defenses that hold, keys of
DEFENSES. All of them need Linux; the filter of system calls needs x86-64 or aarch64.
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
    "system calls": "it cannot open connections, start programs, write files or signal others",
    "descriptors": "it has few files open at once, and none grows",
    "parent": "it cannot read the memory and the environment of the process that started it",
}
"""The defenses, each with what it means for a decoder process."""
_MAX_DESCRIPTORS = 64
"""Files that a decoder may have open: a video, and files that its libraries read."""
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_CLONE_THREAD, _CLONE_NEWUSER, _CLONE_NEWNET = 0x00010000, 0x10000000, 0x40000000
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1 << 1, 1 << 2
"""The rights to use any file and to read any file. A decoder that an administrator starts keeps the
lesser one that it has, since the videos may belong to other users.
"""
_CAPABILITY_VERSION_3 = 0x20080522
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF, _LANDLOCK_VERSION = 444, 446, 1
_LANDLOCK_RIGHTS = {1: 0x1FF3, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
"""Rights by Landlock version: executing, writing and removing of every kind; renaming across
folders; truncating; control of devices. Reading is not among them, since a decoder gets its paths
one by one.
"""
_LANDLOCK_TCP, _LANDLOCK_SCOPES = (4, 0b11), (6, 0b11)
"""Version and rights: to bind and connect TCP; to use abstract sockets of others and signal them.
"""

EPERM, ENOSYS = 1, 38
_WRITE_FLAGS = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
SECCOMP_ALLOW, SECCOMP_ERRNO, _SECCOMP_ALL_THREADS = 0x7FFF0000, 0x00050000, 1
BPF_LOAD, BPF_JUMP_EQUAL, BPF_JUMP_AT_LEAST, BPF_JUMP_ANY_BIT, BPF_RETURN = (
    0x20,
    0x15,
    0x35,
    0x45,
    0x06,
)
ARCHITECTURES = {"x86_64": (0xC000003E, 0, 317), "aarch64": (0xC00000B7, 1, 277)}
"""For each architecture: AUDIT_ARCH, the column of its numbers below, the number of seccomp."""
_X32_CALL_BIT = 0x40000000
"""Bit in the numbers of x86-64's second interface, under which calls would pass the filter."""
DENIED_CALLS = """
socket=41,198 socketpair=53,199 connect=42,203 bind=49,200 listen=50,201 accept=43,202
accept4=288,242 sendto=44,206 sendmsg=46,211 sendmmsg=307,269 execve=59,221 execveat=322,281
fork=57,- vfork=58,- ptrace=101,117 process_vm_readv=310,270 process_vm_writev=311,271
process_madvise=440,440 kcmp=312,272 pidfd_open=434,434 pidfd_getfd=438,438
pidfd_send_signal=424,424 tkill=200,130 rt_sigqueueinfo=129,138 rt_tgsigqueueinfo=297,240
mount=165,40 umount2=166,39 pivot_root=155,41 chroot=161,51 setns=308,268 unshare=272,97
move_mount=429,429 fsopen=430,430 open_tree=428,428 fsmount=432,432 fspick=433,433
fsconfig=431,431 mount_setattr=442,442 bpf=321,280 perf_event_open=298,241
io_uring_setup=425,425 io_uring_enter=426,426 io_uring_register=427,427 add_key=248,217
keyctl=250,219 request_key=249,218 userfaultfd=323,282 init_module=175,105
finit_module=313,273 delete_module=176,106 kexec_load=246,104 kexec_file_load=320,294
open_by_handle_at=304,265 personality=135,92 reboot=169,142 swapon=167,224 swapoff=168,225
acct=163,89 quotactl=179,60 quotactl_fd=443,443 sethostname=170,161 setdomainname=171,162
clock_settime=227,112 settimeofday=164,170 creat=85,- mknod=133,- mknodat=259,33 mkdir=83,-
mkdirat=258,34 rmdir=84,- unlink=87,- unlinkat=263,35 rename=82,- renameat=264,38
renameat2=316,276 link=86,- linkat=265,37 symlink=88,- symlinkat=266,36 chmod=90,-
fchmod=91,52 fchmodat=268,53 fchmodat2=452,452 chown=92,- fchown=93,55 lchown=94,-
fchownat=260,54 truncate=76,45 ftruncate=77,46 fallocate=285,47 utime=132,- utimes=235,-
futimesat=261,- utimensat=280,88 setxattr=188,5 lsetxattr=189,6 fsetxattr=190,7
setxattrat=463,463 removexattr=197,14 lremovexattr=198,15 fremovexattr=199,16
removexattrat=466,466 file_setattr=469,469 memfd_create=319,279 memfd_secret=447,447
shmget=29,194 shmat=30,196 msgget=68,186 semget=64,190 mq_open=240,180
"""
"""System calls that fail with EPERM, each with its number on x86-64 and on aarch64 (`-` if there is
none): connections, programs, other processes, mounts, the kernel, files, and memory that counts for
no process.
"""
OPEN, OPENAT, _OPENAT2 = "open=2,-", "openat=257,56", "openat2=437,437"
CLONE, CLONE3 = "clone=56,220", "clone3=435,435"
KILL, TGKILL, PRLIMIT = "kill=62,129", "tgkill=234,131", "prlimit64=302,261"
"""System calls that an argument decides."""


def isolate() -> list[str]:
    """Leaves the network. Only one thread may run.

    An ordinary user needs a user namespace for that; an administrator would lose the right to read
    other users' files in one.
    """
    flags = _CLONE_NEWNET | (_CLONE_NEWUSER if os.geteuid() else 0)
    return _run_steps({"network": lambda: ctypes.CDLL(None).unshare(flags) == 0})


def confine() -> list[str]:
    """Gives up all rights that decoding does not need. Afterwards nothing can be written.

    Landlock confines the calling thread and the threads that it starts, the rest all threads.
    """
    return _run_steps(
        {
            "capabilities": _drop_capabilities,
            "privileges": lambda: _prctl(_PR_SET_NO_NEW_PRIVS, 1),
            "landlock": _apply_landlock,
            "system calls": _filter_system_calls,
            "descriptors": _limit_descriptors,
        }
    )


def conceal() -> list[str]:
    """Keeps other processes of this user from reading this one's memory and environment in `/proc`.
    A debugger then needs an administrator, and this process leaves no core dump.
    """
    return _run_steps({"parent": lambda: _prctl(_PR_SET_DUMPABLE, 0)})


def _run_steps(steps: dict[str, Callable[[], bool]]) -> list[str]:
    """Names of the steps that worked; the C library may lack the functions of the others."""
    successes = []
    for name, step in steps.items():
        with suppress(OSError, AttributeError, ValueError):
            if step():
                successes.append(name)
    return successes


def _prctl(option: int, value: int) -> bool:
    return ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0


def _drop_capabilities() -> bool:
    """Drops all capabilities but one to read files, which only an administrator's process has."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    # effective, permitted, inheritable: 32 bits each, twice
    capabilities = ctypes.create_string_buffer(24)
    if libc.capget(header, capabilities) != 0:
        return False
    effective, permitted, _, *_ = struct.unpack("=6I", capabilities.raw)
    usable = effective & permitted
    reading = usable & _CAP_DAC_READ_SEARCH or usable & _CAP_DAC_OVERRIDE
    return libc.capset(header, struct.pack("=6I", reading, reading, 0, 0, 0, 0)) == 0


def _apply_landlock() -> bool:
    """Installs a set of rules that covers every kind of writing and allows none."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    if version < 1:
        return False
    files = sum(rights for since, rights in _LANDLOCK_RIGHTS.items() if version >= since)
    tcp, scopes = (
        rights if version >= since else 0 for since, rights in (_LANDLOCK_TCP, _LANDLOCK_SCOPES)
    )
    fields = 1 + (version >= _LANDLOCK_TCP[0]) + (version >= _LANDLOCK_SCOPES[0])
    rules = struct.pack("=3Q", files, tcp, scopes)
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, rules, ctypes.c_size_t(8 * fields), 0)
    if ruleset < 0:
        return False
    try:
        return libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _limit_descriptors() -> bool:
    """Limits the number of open files, and keeps files from growing."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_DESCRIPTORS, _MAX_DESCRIPTORS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    return True


def _filter_system_calls() -> bool:
    """Installs `build_filter` in every thread."""
    if platform.system() != "Linux" or platform.machine() not in ARCHITECTURES:
        return False
    _, _, seccomp = ARCHITECTURES[platform.machine()]
    program = b"".join(build_filter(platform.machine(), os.getpid()))
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    return ctypes.CDLL(None).syscall(seccomp, 1, _SECCOMP_ALL_THREADS, header) == 0


def build_filter(machine: str, process: int) -> list[bytes]:
    """The filter of system calls in classic BPF, which allows all calls that it does not name.

    `machine` is a key of ARCHITECTURES, `process` the process id that may be signaled.
    """
    architecture, column, _ = ARCHITECTURES[machine]
    allow = [_instruction(BPF_RETURN, SECCOMP_ALLOW)]
    refuse, missing = (
        [_instruction(BPF_RETURN, SECCOMP_ERRNO | error)] for error in (EPERM, ENOSYS)
    )

    def if_call(calls: Iterable[str], body: list[bytes]) -> list[bytes]:
        numbers = [call.partition("=")[2].split(",")[column] for call in calls]
        tests = [
            _instruction(BPF_JUMP_EQUAL, int(number), 0, len(body))
            for number in numbers
            if number != "-"
        ]
        return [op for test in tests for op in (test, *body)]

    def if_bits(argument: int, bits: int, then: list[bytes], otherwise: list[bytes]) -> list[bytes]:
        return [
            _instruction(BPF_LOAD, 16 + 8 * argument),
            _instruction(BPF_JUMP_ANY_BIT, bits, 0, 1),
            *then,
            *otherwise,
        ]

    def allow_process(process: int) -> list[bytes]:
        return [
            _instruction(BPF_LOAD, 16),
            _instruction(BPF_JUMP_EQUAL, process, 0, 1),
            *allow,
            *refuse,
        ]

    return [
        _instruction(BPF_LOAD, 4),
        _instruction(BPF_JUMP_EQUAL, architecture, 1, 0),
        *refuse,
        _instruction(BPF_LOAD, 0),
        _instruction(BPF_JUMP_AT_LEAST, _X32_CALL_BIT, 0, 1),
        *refuse,
        *if_call([OPEN], if_bits(1, _WRITE_FLAGS, refuse, allow)),
        *if_call([OPENAT], if_bits(2, _WRITE_FLAGS, refuse, allow)),
        *if_call([CLONE], if_bits(0, _CLONE_THREAD, allow, refuse)),
        *if_call([KILL, TGKILL], allow_process(process)),
        *if_call([PRLIMIT], allow_process(0)),  # 0 is the calling process
        # the filter cannot see their flags; C libraries fall back to the calls above
        *if_call([CLONE3, _OPENAT2], missing),
        *if_call(DENIED_CALLS.split(), refuse),
        *allow,
    ]


def _instruction(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """One instruction; `then` and `otherwise` are the numbers of instructions that a jump skips."""
    return struct.pack("=HBBI", code, then, otherwise, value)
