"""Writes a small set of videos of swaying things, with their true motion: the demo's input and the
tests' ground truth.

    quiver make-clips --out data/clips
    quiver make-clips --out data/scenes --scenes 1000

The set has good clips at 24, 25, 30 and 50 frames a second and at a varying rate, and four that an
extraction has to reject: a panning camera, a hard cut, a still scene and a damaged file.
`clips.csv` beside them lists all.

With --scenes it paints scenes of the outdoors and writes a dataset of spectral volumes at once: of
each scene a photograph and its known motion, without a video and without optical flow. The same
command again finishes what is missing.
"""

import csv
from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

from jobs.cli.args import parse_args
from jobs.cli.console import print_output
from jobs.cli.errors import error_boundary
from jobs.cli.progress import RunProgress, format_summary
from jobs.cli.run_options import check_positive
from jobs.cli.workers import warn_of_other_versions
from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import Dataset
from pipeline.extract.config import BuildConfig, PlanConfig
from pipeline.extract.versions import library_versions
from pipeline.filters import PRESETS
from pipeline.synthetic.clips import RECIPES, WINDOW_S, WORLD_RECIPES, clip_name_at, make_clip
from pipeline.synthetic.world.dataset import (
    build_scene_shard,
    check_size,
    plan_scenes,
    scene_contract,
)
from pipeline.synthetic.world.scenes import WORLD

_SCENE_OPTIONS = ("kinds", "size", "pairs", "test_fraction")


@dataclass(frozen=True, kw_only=True)
class MakeClips:
    """Writes synthetic videos of swaying things with known motion, their truth, and clips.csv; or,
    with --scenes, a dataset of spectral volumes.
    """

    out: Path
    """Folder to write to; it is created if it is missing. The same dataset is resumed."""
    seconds: float = 8.0
    """Length of the good clips; their truth covers the first 5 s."""
    only: tuple[str, ...] | None = None
    """Names of the clips to write; without any, all but those of painted scenes (meadow-30fps and
    others).
    """
    fps: float | None = None
    """Frame rate of all clips, which changes their names; without a number, each has its own."""
    seed: int = 0
    """Seed of all random choices; the same seed gives the same bytes, another one other scenes."""
    processes: int = 2
    """Number of clips, or of shards, made at the same time."""
    scenes: int | None = None
    """Write a dataset of so many painted scenes, with their known motion, in place of videos."""
    kinds: tuple[str, ...] | None = None
    """--scenes: kinds of scenes to paint; without any, all of them."""
    size: tuple[int, int] = (256, 160)
    """--scenes: width and height of the samples, pixels."""
    pairs: int = 4
    """--scenes: true later frames per sample, for the renderer."""
    test_fraction: float = 0.1
    """--scenes: share of the scenes that are held out from training."""


def main(args: list[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(MakeClips, "quiver make-clips", args)
        _check_job(job)
        (_write_clips if job.scenes is None else _write_dataset)(job)


def _check_job(job: MakeClips) -> None:
    """Raises ValueError, naming the option, if a value is out of range."""
    if not WINDOW_S <= job.seconds <= 600:
        raise ValueError(f"--seconds is {job.seconds:g}, expected 5 (one window) to 600")
    if job.fps is not None and not 1 <= job.fps <= 1000:
        raise ValueError(f"--fps is {job.fps:g}, expected 1 to 1000")
    if job.seed < 0:
        raise ValueError(f"--seed is {job.seed}, expected 0 or more")
    if job.processes < 1:
        raise ValueError(f"--processes is {job.processes}, expected 1 or more")
    check_positive(job, "scenes", "pairs")
    check_size(job.size)
    if not 0 <= job.test_fraction < 1:
        raise ValueError(f"--test-fraction is {job.test_fraction:g}, expected 0 to under 1")
    ignored = ("only", "fps", "seconds") if job.scenes else _SCENE_OPTIONS
    defaults = MakeClips(out=job.out)
    for name in ignored:
        if getattr(job, name) != getattr(defaults, name):
            option = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"{option} is for videos, expected none with --scenes"
                if job.scenes
                else f"{option} is for --scenes, which is missing"
            )
    _check_names("--kinds", job.kinds, WORLD)
    _check_names("--only", job.only, RECIPES | WORLD_RECIPES)


def _check_names(option: str, names: Sequence[str] | None, known: Collection[str]) -> None:
    """Raises ValueError unless `names` is None or some of `known`."""
    unknown = [name for name in names or () if name not in known]
    if unknown or names == ():
        words = ", ".join(map(repr, unknown)) or "nothing"
        raise ValueError(f"{option} names {words}, expected some of {', '.join(known)}")


def _write_clips(job: MakeClips) -> None:
    """Writes the list of the clips, and then the clips, a few at a time."""
    names = tuple(RECIPES) if job.only is None else job.only
    table = job.out / "clips.csv"
    try:
        job.out.mkdir(parents=True, exist_ok=True)
        _write_clip_list(table, [clip_name_at(name, job.fps) for name in names])
    except OSError as error:
        raise ValueError(
            f"--out is {job.out}, expected a folder that can be written to ({error.strerror})"
        ) from None
    make = partial(make_clip, folder=job.out, seconds=job.seconds, fps=job.fps, seed=job.seed)
    workers = min(job.processes, len(names))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for line in pool.map(make, names):
            print_output(line)
    print_output(f"{len(names)} clips are in {job.out}, listed in {table}")


def _write_dataset(job: MakeClips) -> None:
    """Paints the scenes of the shards that are not committed yet, then writes the derived files."""
    plan = PlanConfig(test_fraction=job.test_fraction)
    config = BuildConfig(
        size=job.size, pairs=job.pairs, damp=False, thresholds=PRESETS["none"], plan=plan
    )
    rows = plan_scenes(job.kinds or tuple(WORLD), job.scenes or 0, job.seed, config)
    shards = {shard: list(group) for shard, group in groupby(rows, lambda row: str(row.shard))}
    dataset = Dataset(job.out.absolute())
    with dataset.lock():
        warn_of_other_versions(
            dataset.create_or_resume(rows, scene_contract(config), library_versions(config))
        )
        left = {name: rows for name, rows in shards.items() if not dataset.is_committed(name)}
        build = partial(build_scene_shard, dataset.absolute(), config=config)
        with (
            ProcessPoolExecutor(job.processes, mp_context=get_context("spawn")) as pool,
            RunProgress(sum(map(len, left.values())), dataset.progress, dataset.token) as progress,
        ):
            for shard, (outcomes, timing) in zip(
                left, pool.map(build, left.keys(), left.values()), strict=True
            ):
                for outcome in outcomes:
                    progress.record_window(shard, outcome)
                progress.record_shard(shard, timing)
        dataset.remove_temporary_files()
        summary = finalize(dataset)
    print_output("\n".join([*format_summary(summary), f"manifest: {dataset.manifest}"]))


def _write_clip_list(path: Path, names: Sequence[str]) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["uri", "clip_id", "source", "licence"])
        rows.writerows(
            [f"{name}.mp4", name, f"quiver-synthetic/{name}", "CC0-1.0"] for name in names
        )


if __name__ == "__main__":
    main()
