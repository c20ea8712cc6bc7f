#!/usr/bin/env python
"""Whether this machine can do what the other commands need, and what to do where it cannot.

    python -m jobs.doctor --out DATASET

Each check does the thing rather than asking for it: a small video is encoded and decoded, the
kernel is built, a file is written, renamed and created once. A package that is missing is what it
is to find, so none is needed to begin with. Exit codes: 0 nothing is wrong; 5 the folder or its
disk, and nothing else; 7 Ray's authentication, and nothing else; 1 otherwise.
"""

import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from math import inf
from pathlib import Path
from typing import NamedTuple

from jobs.cli.console import print_output, print_raw
from jobs.cli.errors import ExitCode, exit_with, interrupt_boundary

_MIN_MEMORY_GIB, _MIN_DISK_GIB = 4, (1, 10)
"""Less is a warning; of a disk, less than the first is wrong."""
MIN_SHARED_MIB = 2048
"""Less shared memory is a warning: the largest presets have eight processes read two batches ahead,
each of 96 samples with 1.1 MiB at 256 x 160."""
_CGROUP_LIMIT_FILES = {
    "memory.max": "memory.current",
    "memory.limit_in_bytes": "memory.usage_in_bytes",
}
"""Files of a control group, of version 2 and 1: what it may take, and what it does."""
_REQUIREMENT_PATTERN = re.compile(r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)(?:.*extra == .(\w+))?")
_EXTRAS = {
    "": ("packages", "every command"),
    "extract": (
        "packages of extract",
        "quiver extract-flow, repair, make-clips, and videos from animate",
    ),
    "train": ("packages of train", "quiver train-..., sample and animate --checkpoint"),
    "report": ("packages of report", "quiver report-statistics and flow-card"),
}
"""Of each extra of the package: the name of its check, and what cannot be done without it."""
_LOCAL_LOCK_OPTIONS = dict.fromkeys(
    ("nfs", "nfs4"), ("local_lock=flock", "local_lock=all", "nolock")
) | {
    "lustre": ("localflock",),
    "gfs2": ("localflocks",),
    "ocfs2": ("localflocks",),
}
"""By kind of file system: options of a mount by which flock is had on one machine alone."""
_PACKAGE_ALTERNATIVES = {"decord": "--decoder pyav"}
"""What is not made for every machine, and what does without it."""


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


class Finding(NamedTuple):
    """What one check has found."""

    state: State
    says: str
    remedy: str = ""
    """What to do, where it is not well."""


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Whether this machine can do what the other commands need, and what to do where it cannot;
    leaves nothing behind.
    """

    out: Path | None = None
    """Folder of a data set or of a training: whether it can be written as they need it."""
    json: bool = False
    """Print one JSON object instead of lines."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with interrupt_boundary("interrupted; nothing is left behind"):
        job = _parse_options(args)
        found = {name: run_check(check) for name, check in list_checks(job.out).items()}
        print_raw(_format_json(found)) if job.json else print_output(
            "\n".join(_format_findings(found))
        )
    raise SystemExit(exit_code(found))


def _parse_options(args: Sequence[str] | None) -> Doctor:
    """The command line; without what reads it, one of no options."""
    try:
        from jobs.cli.args import parse_args
    except ImportError as error:
        if words := sys.argv[1:] if args is None else args:
            exit_with(
                ExitCode.USAGE,
                f"{' '.join(words)} cannot be read without tyro ({error}); quiver doctor alone says what else is missing",
                "quiver doctor",
            )
        return Doctor()
    return parse_args(Doctor, "quiver doctor", args)


def list_checks(out: Path | None) -> dict[str, Callable[[], Finding]]:
    """Each check by its name, in the order in which a person reads them."""
    return {
        "Python": _check_python,
        **{
            name: lambda extra=extra: _check_packages(extra) for extra, (name, _) in _EXTRAS.items()
        },
        "GPU": check_gpu,
        "torchvision": _check_torchvision,
        "decoders": _check_decoders,
        "decoder's sandbox": check_sandbox,
        "encoders": _check_encoders,
        "splatting": _check_splatting,
        "RAFT weights": check_raft_weights,
        "Ray": check_ray,
        "memory": _check_memory,
        "shared memory": check_shared_memory,
        "disk": lambda: _check_disk(_nearest_existing(out or Path.cwd())),
        **({"output folder": lambda: _check_output_folder(out)} if out else {}),
    }


_EXIT_CODES = {
    "disk": ExitCode.STORAGE,
    "output folder": ExitCode.STORAGE,
    "Ray": ExitCode.INSECURE_CLUSTER,
}


def exit_code(found: dict[str, Finding]) -> ExitCode:
    wrong = {
        _EXIT_CODES.get(name, ExitCode.FAILURE)
        for name, finding in found.items()
        if finding.state == State.WRONG
    }
    return ExitCode.SUCCESS if not wrong else wrong.pop() if len(wrong) == 1 else ExitCode.FAILURE


def _format_json(found: dict[str, Finding]) -> str:
    return json.dumps(
        dict(
            exit=exit_code(found),
            checks=[dict(what=name, **finding._asdict()) for name, finding in found.items()],
        ),
        indent=1,
    )


def _format_findings(found: dict[str, Finding]) -> list[str]:
    """One for each check, what to do under it, and how it stands with all."""
    told = [
        f"{finding.state:8} {name:19} {finding.says}"
        + f"\n{'':29}-> {finding.remedy}" * bool(finding.remedy)
        for name, finding in found.items()
    ]
    counts = {state: sum(finding.state == state for finding in found.values()) for state in State}
    return [
        *told,
        "",
        f"{counts[State.OK]} ok, {counts[State.WARNING]} to know of, {counts[State.WRONG]} wrong",
    ]


def run_check(check: Callable[[], Finding]) -> Finding:
    """What a check finds; what it stumbles over is wrong."""
    try:
        return check()
    except ModuleNotFoundError as error:
        return Finding(
            State.WARNING,
            f"could not be looked at without the package {error.name}",
            "install the packages above first",
        )
    except Exception as error:  # noqa: BLE001 - a package that is broken breaks in its own way
        return Finding(
            State.WRONG,
            f"failed: {' '.join(str(error).split())[:300] or type(error).__name__}",
            "install the packages of constraints.txt again",
        )


def _check_python() -> Finding:
    """Not an older one: that would have come no further than `import jobs`."""
    return Finding(
        State.OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    )


def _check_packages(extra: str) -> Finding:
    """Those of an extra, against the oldest versions that will do."""
    try:
        needed = [
            found.groups()
            for found in map(_REQUIREMENT_PATTERN.match, requires("quiver-motion") or [])
            if found
        ]
    except PackageNotFoundError:
        return Finding(
            State.WARNING,
            "quiver itself is not installed, so that what it needs is not known",
            "pip install -e . in its checkout",
        )
    have = {name: _installed_version(name) for name, _, of in needed if (of or "") == extra}
    missing = [name for name, found in have.items() if found is None]
    old = [
        f"{name} {have[name]} (needs {least})"
        for name, least, of in needed
        if (of or "") == extra
        and have[name]
        and _version_numbers(have[name]) < _version_numbers(least)
    ]
    install = f"pip install -c constraints.txt 'quiver-motion{f'[{extra}]' * bool(extra)}'"
    if old:
        return Finding(State.WRONG, f"too old: {', '.join(old)}", install)
    if not missing:
        return Finding(State.OK, ", ".join(f"{name} {found}" for name, found in have.items()))
    if set(missing) <= _PACKAGE_ALTERNATIVES.keys():
        return Finding(
            State.WARNING,
            f"{', '.join(missing)} missing",
            f"{install}, or do without: {', '.join(map(_PACKAGE_ALTERNATIVES.__getitem__, missing))}",
        )
    return Finding(
        State.WARNING if extra else State.WRONG,
        f"{', '.join(missing)} missing, for {_EXTRAS[extra][1]}",
        install,
    )


def _installed_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _version_numbers(text: str | None) -> tuple[int, ...]:
    """The leading numbers of a version."""
    return tuple(int(part) for part in re.findall(r"\d+", (text or "").partition("+")[0])[:3])


def check_gpu() -> Finding:
    from pipeline.motion.gpu import list_gpus

    if found := list_gpus():
        return Finding(State.OK, f"{', '.join(found)}, torch {version('torch')}")
    without = "--flow dis needs none; RAFT and training want --device cpu and are slow"
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) in ("", "-1"):
        return Finding(
            State.WARNING,
            f"none is to be used: CUDA_VISIBLE_DEVICES is {chosen!r}",
            f"unset it; {without}",
        )
    if Path("/proc/driver/nvidia/version").exists():
        words = f"there is an NVIDIA driver, and torch {version('torch')} finds no GPU"
        return Finding(
            State.WRONG,
            words,
            "install a build of torch for CUDA that the driver is new enough for",
        )
    return Finding(State.WARNING, f"none; torch {version('torch')} computes on the CPU", without)


def _check_torchvision() -> Finding:
    from pipeline import torchvision_import

    return Finding(
        State.OK,
        f"{version('torchvision')} brings {torchvision_import.raft_small.__name__} and {torchvision_import.raft_large.__name__}",
    )


def _check_decoders() -> Finding:
    """A video of ours comes back from a decoder process, and none of the listed codecs is missing."""
    from pipeline.decode.config import DecodeConfig
    from pipeline.decode.container import ALLOWED_CODECS, missing_codecs
    from pipeline.decode.pool import DecoderPool
    from schemas.outcome import Quarantined

    with tempfile.TemporaryDirectory(prefix="quiver-") as folder:
        (path := Path(folder) / "a.mp4").write_bytes(_encode_test_film(".mp4"))
        pool = DecoderPool(DecodeConfig())
        try:
            video = pool.probe(str(path))
            count = sum(1 for _ in pool.frames(str(path), video, range(len(video.times)), (64, 64)))
        except Quarantined as error:
            return Finding(
                State.WRONG,
                f"a decoder process could not read a video of ours: {error.reason}, {error.detail}",
                "install av again",
            )
        finally:
            pool.close()
    if missing := missing_codecs():
        return Finding(
            State.WARNING,
            f"PyAV {version('av')} lacks {', '.join(missing)}",
            "such videos are quarantined: install PyAV from its wheel",
        )
    return Finding(
        State.OK,
        f"{video.decoder} read {count} frames of H.264 in a process of its own; PyAV {version('av')} has all {len(ALLOWED_CODECS)} codecs",
    )


def check_sandbox() -> Finding:
    """What a decoder process that a stranger's file has taken over cannot do here."""
    from pipeline.decode.client import DecoderProcess
    from pipeline.decode.config import DecodeConfig
    from pipeline.decode.sandbox import DEFENSES

    process = DecoderProcess(DecodeConfig())
    process.close()
    if not process.has_started:
        return Finding(State.WRONG, "a decoder process does not start", "install av again")
    missing = [words for name, words in DEFENSES.items() if name not in process.defenses]
    if not missing:
        return Finding(State.OK, f"all of it holds: {'; '.join(DEFENSES.values())}")
    words = f"holds, but for {len(missing)} of {len(DEFENSES)}: it is not certain that"
    remedy = (
        "docs/security.md says what each needs; a container without a network makes up for most"
    )
    return Finding(State.WARNING, f"{words} {'; '.join(missing)}", remedy)


def _check_encoders() -> Finding:
    """Each kind of animation is written, without an ffmpeg of the system."""
    from pipeline.images.encode import ENCODERS

    sizes = {suffix: len(_encode_test_film(suffix)) for suffix in ENCODERS if suffix != ".png"}
    return Finding(
        State.OK, f"{', '.join(sizes)} by PyAV {version('av')} and Pillow {version('pillow')}"
    )


def _encode_test_film(suffix: str) -> bytes:
    """Grey that becomes lighter."""
    import numpy as np

    from pipeline.images.encode import encode_animation

    return encode_animation(
        (np.full((64, 64, 3), 20 * i, np.uint8) for i in range(8)), 25.0, suffix
    )


def _check_splatting() -> Finding:
    """The kernel is built, or was."""
    from model.render.splatting_cpu import kernel_path, load_kernel

    if load_kernel() is None:
        return Finding(
            State.WARNING,
            "its kernel cannot be built: animations come out alike, several times slower",
            "install a C++ compiler (g++) and ninja",
        )
    return Finding(State.OK, f"its kernel is {kernel_path()}")


def check_raft_weights() -> Finding:
    """A cached file is the one that was published."""
    from pipeline.flow.raft_weights import check_published_digest, locate_default_weights

    there = {
        flow: locate_default_weights(flow)[1].exists() for flow in ("raft_small", "raft_large")
    }
    try:
        for flow in filter(there.get, there):
            check_published_digest(locate_default_weights(flow)[1])
    except ValueError as error:
        return Finding(
            State.WRONG,
            str(error),
            "delete that file, which somebody or a broken download has changed",
        )
    if all(there.values()):
        return Finding(State.OK, f"both in {locate_default_weights('raft_small')[1].parent}")
    missing = " and ".join(flow for flow, found in there.items() if not found)
    words = f"of {missing} are not in {locate_default_weights('raft_small')[1].parent}"
    return Finding(
        State.WARNING,
        words,
        "--flow raft_... downloads them, or takes a file by --weights FILE; --flow dis needs none",
    )


def check_ray() -> Finding:
    """A cluster that is named takes work with a token, and none without."""
    from jobs import cluster

    if not (address := os.environ.get("RAY_ADDRESS")):
        version("ray")
        return check_local_ray()
    try:
        with cluster.ray_session(None, cluster.Resources()):
            fitting = cluster.capacity(None, cluster.Resources())
    except cluster.InsecureCluster as error:
        return Finding(
            State.WRONG,
            str(error),
            "give the nodes and this shell the same token, with RAY_AUTH_MODE=token (docs/running.md)",
        )
    except OSError as error:
        return Finding(
            State.WRONG,
            f"there is no Ray at {address}: {' '.join(str(error).split())[:200]}",
            "start it, or unset RAY_ADDRESS",
        )
    if path := cluster.find_exposed_token():
        return Finding(
            State.WARNING,
            f"others on this machine can read {path}, and so run programs on the cluster",
            f"chmod 600 {path}",
        )
    return Finding(State.OK, f"{address} wants a token and takes ours; {fitting} workers fit")


def check_local_ray() -> Finding:
    """There is a place for the files of a Ray of our own."""
    from jobs import cluster

    try:
        place = cluster.find_temp_folder()
    except cluster.RayNotStarted as error:
        return Finding(State.WRONG, str(error), "RAY_TMPDIR=/a/short/path, on a local disk")
    wanted = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or place
    words = (
        "each run starts a Ray of its own, on this machine alone, with a token made for that run"
    )
    if place == os.path.abspath(wanted):
        return Finding(State.OK, f"{words}; its files are in {place} meanwhile")
    limit = f"the {cluster.MAX_TEMP_PATH_BYTES} bytes that Ray's sockets leave"
    words += f"; its files go to {place}: {wanted} cannot be written, or is longer than {limit}"
    return Finding(State.WARNING, words, "name a shorter folder by RAY_TMPDIR, or leave it so")


def _check_memory() -> Finding:
    """What can be had, of the machine's and of the container's."""
    if (free := available_memory_bytes()) is None:
        return Finding(State.OK, "how much is free is not known on this system")
    if (gib := free / (1 << 30)) < _MIN_MEMORY_GIB:
        return Finding(
            State.WARNING,
            f"{gib:.1f} GiB are free",
            "--workers 1; a decoder takes up to 2 GiB (--decoder-memory-mb)",
        )
    return Finding(State.OK, f"{gib:.1f} GiB are free, for {os.cpu_count()} cores")


def check_shared_memory(place: Path = Path("/dev/shm")) -> Finding:  # noqa: S108 - it is looked at
    """Batches of a training pass through it, and Ray keeps there what tasks return."""
    if not place.is_dir():
        return Finding(State.OK, f"there is no {place} on this system")
    mib = shutil.disk_usage(place).free / (1 << 20)
    if mib < MIN_SHARED_MIB:
        words = f"{mib:.0f} MiB are free in {place}, and a training that reads ahead may take {MIN_SHARED_MIB}"
        remedy = f"--loader-workers 0; in a container docker run --shm-size={MIN_SHARED_MIB >> 10}g"
        return Finding(State.WARNING, words, remedy)
    return Finding(State.OK, f"{mib / 1024:.1f} GiB are free in {place}")


def available_memory_bytes(root: Path = Path("/")) -> float | None:
    """Of the machine and of the control groups in which this process is, which a container has;
    None where it is not known.
    """
    found = root / "proc/meminfo"
    kilobytes = re.search(r"MemAvailable:\s+(\d+)", found.read_text()) if found.exists() else None
    return (
        min(int(kilobytes[1]) << 10, *map(_available_cgroup_bytes, _control_groups(root)))
        if kilobytes
        else None
    )


def _control_groups(root: Path) -> Iterator[Path]:
    """Folders of those that limit memory, by either version of them, and all above each; a
    container may see none but the last.
    """
    named, top = root / "proc/self/cgroup", root / "sys/fs/cgroup"
    for line in named.read_text().splitlines() if named.exists() else ():
        number, kinds, path = line.split(":", 2)
        if number == "0" or "memory" in kinds.split(","):
            place = top if number == "0" else top / "memory"
            yield from (
                place / part for part in (Path(path.strip("/")), *Path(path.strip("/")).parents)
            )


def _available_cgroup_bytes(group: Path) -> float:
    """What a control group may still take: what it keeps of files that were read it would give
    back.
    """
    for most, used in _CGROUP_LIMIT_FILES.items():
        if (group / most).exists() and (limit := (group / most).read_text().strip()).isdecimal():
            kept = re.search(
                r"^(?:total_)?inactive_file (\d+)",
                (group / "memory.stat").read_text(),
                re.MULTILINE,
            )
            return int(limit) - int((group / used).read_text()) + int(kept[1] if kept else 0)
    return inf


def _nearest_existing(folder: Path) -> Path:
    """The folder, or the nearest thing above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _check_disk(folder: Path) -> Finding:
    gib = shutil.disk_usage(folder).free / (1 << 30)
    state = (
        State.WRONG
        if gib < _MIN_DISK_GIB[0]
        else State.WARNING
        if gib < _MIN_DISK_GIB[1]
        else State.OK
    )
    remedy = (
        ""
        if state == State.OK
        else "quiver extract-flow --dry-run says how much a data set takes; a full disk stops a run, which can be gone on with"
    )
    return Finding(state, f"{gib:.1f} GiB are free at {folder}", remedy)


def _check_output_folder(out: Path) -> Finding:
    """All that a data set asks of its folder's file system, done in a folder beside its files."""
    from pipeline.atomic_files import create_file, replace_file
    from pipeline.dataset.folder import Dataset
    from pipeline.dataset.run_lock import FolderInUse

    within = _nearest_existing(out)
    if not within.is_dir():
        return Finding(
            State.WRONG, f"{within} is a file", "name a folder, or one that is not there yet"
        )
    try:
        with tempfile.TemporaryDirectory(prefix=".quiver-doctor-", dir=within) as folder:
            path, dataset = Path(folder) / "file", Dataset(folder)
            replace_file(path, b"1")
            replace_file(path, b"2")
            faults = [] if path.read_bytes() == b"2" else ["a renamed file is not the new one"]
            with suppress(FileExistsError):
                create_file(path, b"3")
                faults.append("a file that is there can be created again")
            with dataset.lock():
                faults += [] if dataset.is_locked() else ["a lock does not keep others out"]
    except (OSError, FolderInUse) as error:
        words = f"{within} cannot be written as a data set needs it: {getattr(error, 'strerror', None) or error}"
        return Finding(
            State.WRONG,
            words,
            "it must be writable, with hard links, flock and fsync: use a local disk or NFS 4",
        )
    if faults:
        return Finding(
            State.WRONG,
            f"{within}: {'; '.join(faults)}",
            "use another file system: two runs could spoil each other's data here",
        )
    mounts = Path("/proc/self/mounts")
    if options := find_local_lock_options(
        mounts.read_text(errors="surrogateescape") if mounts.exists() else "", within.resolve()
    ):
        words = f"{within} is mounted with {options}: a lock keeps out other runs on this machine, and not those of other machines"
        return Finding(
            State.WARNING,
            words,
            "mount it without that, or let one machine at a time start runs into a folder there",
        )
    return Finding(
        State.OK, f"{within} takes files whole or not at all, once, one writer at a time"
    )


def find_local_lock_options(mounts: str, path: Path) -> str:
    """The options, in a text as /proc/mounts, by which flock does not reach other machines from
    this path; empty where there are none.
    """
    deepest, found = 0, ""
    for line in mounts.splitlines():
        _, escaped, kind, options, *_ = [*line.split(" "), "", "", ""]
        place = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), escaped))
        if (
            path.is_relative_to(place) and len(place.parts) >= deepest
        ):  # of two at one place the later one counts
            deepest, found = (
                len(place.parts),
                ", ".join(
                    option
                    for option in options.split(",")
                    if option in _LOCAL_LOCK_OPTIONS.get(kind, ())
                ),
            )
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
