"""Checks the disk, and whether the output folder has what a dataset needs of its file system."""

import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from jobs.doctor.finding import Finding, State

_MIN_DISK_GIB, _FEW_DISK_GIB = 1, 10
"""Less free space is wrong, or a warning."""
_LOCAL_LOCK_OPTIONS = dict.fromkeys(
    ("nfs", "nfs4"), ("local_lock=flock", "local_lock=all", "nolock")
) | {
    "lustre": ("localflock",),
    "gfs2": ("localflocks",),
    "ocfs2": ("localflocks",),
}
"""For each kind of file system, the mount options with which flock holds on one machine alone."""


def check_disk(folder: Path) -> Finding:
    """Checks the free space of a folder that may be missing."""
    folder = _nearest_existing(folder)
    gib = shutil.disk_usage(folder).free / (1 << 30)
    words = f"{gib:.1f} GiB are free at {folder}"
    if gib >= _FEW_DISK_GIB:
        return Finding(State.OK, words)
    return Finding(
        State.WRONG if gib < _MIN_DISK_GIB else State.WARNING,
        words,
        "quiver extract-flow --dry-run says how much a dataset takes; a full disk stops a run, "
        "and the same command resumes it",
    )


def _nearest_existing(folder: Path) -> Path:
    """Returns the folder, or the nearest of its parents that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def check_output_folder(out: Path) -> Finding:
    """Checks all that a dataset asks of its folder's file system, in a folder beside its files."""
    within = _nearest_existing(out)
    if not within.is_dir():
        return Finding(
            State.WRONG, f"{within} is a file", "name a folder, or one that is not there yet"
        )
    if (failure := _try_output_folder(within)) is not None:
        return failure
    mounts = Path("/proc/self/mounts")
    table = mounts.read_text(errors="surrogateescape") if mounts.exists() else ""
    if options := find_local_lock_options(table, within.resolve()):
        return Finding(
            State.WARNING,
            f"{within} is mounted with {options}: a lock keeps out other runs on this machine, "
            "and not those of other machines",
            "mount it without that, or let one machine at a time start runs into a folder there",
        )
    return Finding(
        State.OK, f"{within} takes files whole or not at all, once, one writer at a time"
    )


def _try_output_folder(within: Path) -> Finding | None:
    """Replaces, creates and locks files in a temporary folder; returns a finding if one fails."""
    from pipeline.atomic_files import create_file, replace_file
    from pipeline.dataset.folder import Dataset
    from pipeline.dataset.run_lock import FolderInUse

    try:
        with tempfile.TemporaryDirectory(prefix=".quiver-doctor-", dir=within) as folder:
            path, dataset = Path(folder) / "file", Dataset(folder)
            replace_file(path, b"1")
            replace_file(path, b"2")
            faults = [] if path.read_bytes() == b"2" else ["a renamed file is not the new one"]
            with suppress(FileExistsError):
                create_file(path, b"3")
                faults.append("a file that exists can be created again")
            with dataset.lock():
                faults += [] if dataset.is_locked() else ["a lock does not keep others out"]
    except (OSError, FolderInUse) as error:
        reason = getattr(error, "strerror", None) or error
        return Finding(
            State.WRONG,
            f"{within} cannot be written as a dataset needs it: {reason}",
            "it must be writable, with hard links, flock and fsync: use a local disk or NFS 4",
        )
    if not faults:
        return None
    return Finding(
        State.WRONG,
        f"{within}: {'; '.join(faults)}",
        "use another file system: two runs could spoil each other's data here",
    )


def find_local_lock_options(mounts: str, path: Path) -> str:
    """Returns the options, in a text like /proc/mounts, because of which flock on this path does
    not reach other machines; empty if there are none.
    """
    deepest, local_options = 0, ""
    for line in mounts.splitlines():
        _, escaped, kind, options, *_ = [*line.split(" "), "", "", ""]
        mount = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), escaped))
        # Of two mounts at one place, the later one counts.
        if path.is_relative_to(mount) and len(mount.parts) >= deepest:
            deepest = len(mount.parts)
            local = _LOCAL_LOCK_OPTIONS.get(kind, ())
            local_options = ", ".join(option for option in options.split(",") if option in local)
    return local_options
