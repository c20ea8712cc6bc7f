"""Small clips whose motion has a closed form, the real command on them, and the bytes at which
every run has to end.

Quick counts run with `make test`; QUIVER_FAULTS=full, which `make test-faults` sets, are those of
the promises.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from pipeline.dataset.folder import Dataset
from pipeline.dataset.run_lock import LOCK_FOLDER
from tests.support.videos import write_video

ROOT = Path(__file__).resolve().parents[2]
FULL_COUNTS = os.environ.get("QUIVER_FAULTS") == "full"
CLIP_COUNT, CLIPS_PER_SHARD = (200, 20) if FULL_COUNTS else (8, 2)
TRAIN_CLIP_COUNT = CLIP_COUNT * 4 // 5
SIZE, FRAMES, FPS, AMPLITUDE = 64, 24, 30, 1.5
SHARDS = [f"train-{i:06d}" for i in range(TRAIN_CLIP_COUNT // CLIPS_PER_SHARD)]
SHARDS += [f"test-{i:06d}" for i in range(CLIP_COUNT // CLIPS_PER_SHARD - len(SHARDS))]
PLACED_SHARDS = {"first": SHARDS[0], "middle": SHARDS[len(SHARDS) // 2], "last": SHARDS[-1]}
OPTIONS = [
    "--size",
    f"{SIZE}x{SIZE}",
    "--frames",
    str(FRAMES),
    "--stride",
    str(FRAMES),
    "--frequencies",
    "6",
    "--pairs",
    "1",
    "--checks",
    "2",
    "--dis-preset",
    "fast",
    # of what moves as one in so small a picture, only what stands still is to be rejected
    "--filters",
    "none",
    "--no-motion-px",
    "0.15",
    "--windows-per-shard",
    str(CLIPS_PER_SHARD),
]
SINGLE_THREAD_ENV = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def choose_count(full: int, quick: int) -> int:
    """How often something is done, in `make test-faults` and in `make test`."""
    return full if FULL_COUNTS else quick


def clip_phase(clip: int) -> float:
    return 0.7 * clip


def harmonic(clip: int) -> int:
    """k: the clip sways k times in its 24 frames, so that all its motion is S_k. 0: it stands
    still.
    """
    return clip % 4


def clip_displacement(clip: int, frame: np.ndarray | int) -> np.ndarray:
    """Displacement in x of the picture's middle row, from the first frame to `frame`, pixels."""
    return AMPLITUDE * np.sin(2 * np.pi * harmonic(clip) * np.asarray(frame) / FRAMES)


def envelope() -> np.ndarray:
    """How far each row sways, as a share of the middle row."""
    return np.sin(np.pi * (np.arange(SIZE) + 0.5) / SIZE) ** 2


def draw_frame(clip: int, frame: int) -> np.ndarray:
    """Waves that are looked up where each pixel was: exact, since a row moves as a whole."""
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(float)
    x, turn = columns - clip_displacement(clip, frame) * envelope()[:, None], 2 * np.pi / SIZE
    waves = [
        np.cos(turn * (a * x + b * rows) + clip_phase(clip) + a * b)
        for a, b in ((5, 1), (-3, 4), (8, -3), (2, 7), (11, 5))
    ]
    return np.repeat(
        np.rint(128 + 20 * sum(waves)).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2
    )


def write_clips(folder: Path, count: int = CLIP_COUNT) -> Path:
    """The clips, and the table that lists them, which is returned; the last fifth is for test."""
    folder.mkdir(parents=True)
    for clip in range(count):
        frames = [draw_frame(clip, t if harmonic(clip) else 0) for t in range(FRAMES)]
        write_video(folder / f"{clip:03d}.mp4", frames, np.arange(FRAMES) / FPS, preset="ultrafast")
    return write_table(folder / "clips.csv", range(count))


def write_table(path: Path, clips: Sequence[int]) -> Path:
    """Lists these clips, in this order."""
    rows = [
        f"{i:03d}.mp4,clip-{i:03d},{'train' if i < TRAIN_CLIP_COUNT else 'test'}" for i in clips
    ]
    path.write_text("\n".join(["uri,clip_id,split", *rows]) + "\n")
    return path


def extract_command(clips: Path, out: Path, *options: str, workers: int = 2) -> list[str]:
    return [
        sys.executable,
        "-m",
        "jobs.extract_flow",
        "--clips",
        str(clips),
        "--out",
        str(out),
        *OPTIONS,
        "--workers",
        str(workers),
        *options,
    ]


def extract(
    clips: Path, out: Path, *options: str, workers: int = 2, **env: str
) -> subprocess.CompletedProcess[str]:
    """The real command, to its end."""
    return subprocess.run(
        extract_command(clips, out, *options, workers=workers),
        cwd=ROOT,
        env=os.environ | SINGLE_THREAD_ENV | env,
        capture_output=True,
        text=True,
        timeout=280,
    )


class Reference(NamedTuple):
    clips: Path
    """The table that lists them."""
    root: Path
    """Of the undisturbed run's data set."""
    digests: dict[str, str]
    """sha256 of every file but the runs' tokens and the progress, by its path."""


def promised_digests(root: Path) -> dict[str, str]:
    """What has to be equal: each shard, histogram and record, contract and plan, and all that is
    derived.
    """
    paths = sorted(
        path
        for path in root.rglob("*")
        if path.is_file() and path.name != "progress.jsonl" and LOCK_FOLDER not in path.parts
    )
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
    }


class WindowCount(NamedTuple):
    """Windows of a data set that is finished, by what its manifest and its tars say."""

    losses: int
    duplicates: int


def count_windows(reference: Reference, root: Path) -> WindowCount:
    """Windows that were planned and became nothing, and those that stand in the manifest or in tars
    more than once.
    """
    rows = pq.read_table(root / "manifest.parquet").to_pylist()
    planned = [
        row["key"]
        for row in pq.read_table(reference.root / "plan.parquet").to_pylist()
        if row["key"]
    ]
    fates = [
        row["key"]
        for row in rows
        if row["key"] and row["outcome"] in ("kept", "rejected", "quarantined")
    ]
    members = [name for path in (root / "shards").glob("*.tar") for name in tar_names(path)]
    return WindowCount(
        len(set(planned) - set(fates)),
        len(fates) - len(set(fates)) + len(members) - len(set(members)),
    )


def tar_names(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


def committed_files(root: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of the files of every committed shard."""
    dataset = Dataset(root)
    shards = [path.stem for path in (root / "records").glob("*.json")]
    paths = [
        path
        for shard in shards
        for path in (
            dataset.record_path(shard),
            dataset.tar_path(shard),
            dataset.histogram_path(shard),
        )
        if path.exists()
    ]
    return {
        str(path.relative_to(root)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths
    }
