#!/usr/bin/env python
"""Measures how close the motion that a prior samples is to the real motion of scenes that it was
not trained on, beside five predictions that need no prior.

    quiver evaluate-prior prior --data DATASET --out evaluation

A checkpoint names the scenes that it was trained on; all kept windows of --data of other scenes are
held out, whatever their split. Windows of its scenes are what the baselines know. It writes
prior_evaluation.json, prior_evaluation.html and a table.
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from jobs.cli.args import command_line_args, parse_args
from jobs.cli.console import print_message, print_output
from jobs.cli.errors import error_boundary
from jobs.cli.results import align_columns, load_page_maker, results_folder, write_results
from model.checkpoints import DIGESTS_FILE, Checkpoint, load_checkpoint
from model.device import check_device
from model.evaluate.prior.baselines import read_training_motions
from model.evaluate.prior.evaluation import PRIORS, SamplingConfig, WindowResult, evaluate_windows
from model.evaluate.prior.measures import CELL_PX, MOVING_SHARE, NEIGHBOR_PX
from model.evaluate.prior.table import (
    ITSELF,
    MEASURES,
    Estimate,
    average_within_scenes,
    build_table,
    compare_rows,
    format_grid,
)
from model.evaluate.prior.windows import (
    EvaluationWindow,
    check_fits_prior,
    is_held_out,
    list_windows,
    spread_over_scenes,
)
from model.prior.inference import make_loop_hook, restore_prior
from pipeline.dataset.open import DatasetView, open_dataset
from pipeline.extract.config import BuildConfig
from pipeline.extract.versions import library_versions
from pipeline.redact import redact_secrets

_MAX_PICTURED_SCENES = 12
"""The page has pictures of at most so many scenes."""
_MIN_FREQUENCIES = 4
"""Fewer have no low, middle and high band beside the constant one."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(SamplingConfig):
    device: Literal["cuda", "cpu"] = "cpu"
    """Device on which the networks run."""


@dataclass(frozen=True, kw_only=True)
class EvaluatePrior:
    checkpoints: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="CHECKPOINT...")
    ]
    """Folder of a trained denoiser, or several, as those of folds: each is measured on the scenes
    that it has not seen, and the tables are over all of these scenes.
    """
    data: tuple[str, ...]
    """DATASET or DATASET:VIEW, one or several: those of the trainings, and others."""
    out: Path
    """Folder for prior_evaluation.json and prior_evaluation.html."""
    windows_per_scene: int = 2
    """Most windows of a scene that are measured, or that the baselines know, evenly spread."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)

    def __post_init__(self):
        if not self.checkpoints or not self.data or self.windows_per_scene < 1:
            raise ValueError(
                f"there are {len(self.checkpoints)} checkpoints and {len(self.data)} datasets, and "
                f"--windows-per-scene is {self.windows_per_scene}, expected at least 1 of each"
            )


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(
            EvaluatePrior,
            "quiver evaluate-prior",
            args,
            description=__doc__,
            config=(tyro.conf.OmitArgPrefixes,),
        )
        command = redact_secrets(shlex.join(["quiver", "evaluate-prior", *command_line_args(args)]))
        with results_folder(job.out):
            _run_job(job, command)


def _run_job(job: EvaluatePrior, command: str) -> None:
    """Measures the held-out windows of every checkpoint, and writes both files."""
    check_device(job.sampling.device)
    make_page = load_page_maker("model.evaluate.prior.report", "render_prior_page")
    views = [open_dataset(path) for path in job.data]
    all_windows = list_windows(views)
    plans = [_plan_evaluation(job, path, views, all_windows) for path in job.checkpoints]
    window_count = sum(len(plan.held_out) for plan in plans)
    results, remarks = [], list(dict.fromkeys(remark for plan in plans for remark in plan.remarks))
    for plan in plans:
        prior = restore_prior(plan.checkpoint)
        training = read_training_motions(plan.trained, prior, job.sampling.device)
        pictured = _MAX_PICTURED_SCENES - len({result.window.scene for result in results})
        for result in evaluate_windows(
            prior, plan.held_out, all_windows, training, job.sampling, max(0, pictured)
        ):
            results.append(result)
            print_message(f"{len(results)} of {window_count} windows")
    if len(results) < window_count:
        remarks.append(
            f"{window_count - len(results)} windows are left out, of which no pixel's flow is "
            "believed"
        )
    if not results:
        raise ValueError("no window is left to measure: the flow of none is believed anywhere")
    scenes = average_within_scenes(results)
    table, differences = build_table(scenes), compare_rows(scenes)
    record = dict(
        command=command,
        checkpoints=[_checkpoint_record(plan) for plan in plans],
        remarks=remarks,
        table=[asdict(estimate) for estimate in table],
        differences=[asdict(estimate) for estimate in differences],
        scenes=scenes,
        windows=[_window_record(result) for result in results],
        protocol=_describe_protocol(job),
    )
    files = write_results(
        job.out, "prior_evaluation", record, make_page(record, table, differences, results)
    )
    print_output("\n".join([*_format_tables(table, differences), *remarks, *map(str, files)]))


class _Plan(NamedTuple):
    """What one checkpoint is measured on."""

    checkpoint: Checkpoint
    held_out: list[EvaluationWindow]
    trained: list[EvaluationWindow]
    """The windows that the baselines know."""
    remarks: list[str]


def _plan_evaluation(
    job: EvaluatePrior,
    path: Path,
    views: Sequence[DatasetView],
    windows: Sequence[EvaluationWindow],
) -> _Plan:
    """Raises ValueError if the prior cannot be measured on these windows; everything that can be
    refused is refused before anything is measured.
    """
    checkpoint = load_checkpoint(path, "denoiser", print_message)
    prior = restore_prior(checkpoint)
    if prior.normalizer.frequencies < _MIN_FREQUENCIES:
        raise ValueError(
            f"{path} has {prior.normalizer.frequencies} frequencies, expected at least "
            f"{_MIN_FREQUENCIES}"
        )
    for view in views:
        check_fits_prior(view, prior.normalizer)
    if job.sampling.loop_seconds is not None:
        make_loop_hook(prior, job.sampling.loop_seconds)
    return _Plan(checkpoint, *_split_windows(job, checkpoint, windows))


def _checkpoint_record(plan: _Plan) -> dict[str, Any]:
    """What prior_evaluation.json says about a checkpoint."""
    return dict(
        folder=str(plan.checkpoint.folder),
        step=plan.checkpoint.step,
        sha256=sha256((plan.checkpoint.folder / DIGESTS_FILE).read_bytes()).hexdigest(),
        held_out_windows=len(plan.held_out),
        training_windows=len(plan.trained),
    )


def _split_windows(
    job: EvaluatePrior, checkpoint: Checkpoint, windows: Sequence[EvaluationWindow]
) -> tuple[list[EvaluationWindow], list[EvaluationWindow], list[str]]:
    """The windows to measure, those that the baselines know, and remarks. Raises ValueError if
    there is none of either.
    """
    scenes, remarks = checkpoint.scenes or None, []
    if scenes is None:
        remarks.append(
            "The checkpoint does not name the scenes that it was trained on: only windows of the "
            "split test are measured"
        )
    unseen = [window for window in windows if is_held_out(window, scenes)]
    seen = [window for window in windows if not is_held_out(window, scenes)]
    names = ", ".join(job.data)
    if not unseen:
        raise ValueError(
            f"{names} has no held-out window: "
            + (
                f"none of its {len(windows)} kept windows is of the split test"
                if scenes is None
                else f"the prior was trained on every scene of its {len(windows)} kept windows"
            )
        )
    if not seen:
        raise ValueError(
            f"{names} has no window that the prior was trained on, from which the baselines are "
            "made: name its training datasets in --data too"
        )
    held_out, trained = (spread_over_scenes(part, job.windows_per_scene) for part in (unseen, seen))
    return held_out, trained, remarks


def _window_record(result: WindowResult) -> dict[str, Any]:
    """All numbers of a window, as prior_evaluation.json has them."""
    window = result.window
    return dict(
        dataset=str(window.view),
        key=window.key,
        scene=window.scene,
        split=window.split,
        nearest=result.nearest_key,
        other=result.other_key,
        real=result.real,
        rows=result.rows,
    )


def _describe_protocol(job: EvaluatePrior) -> dict[str, Any]:
    """What decides the numbers besides the checkpoint and the datasets."""
    return dict(
        data=list(job.data),
        sampling=asdict(job.sampling) | dict(seeds=list(range(job.sampling.samples))),
        windows_per_scene=job.windows_per_scene,
        where=f"cells of {CELL_PX} px, the {MOVING_SHARE:.0%} that move most",
        together_in_space=f"pixels {NEIGHBOR_PX} px apart",
        intervals="95 %, Student's t over scenes, which have equal weights",
        versions=library_versions(BuildConfig()) | dict(torch=version("torch")),
    )


def _format_tables(table: Sequence[Estimate], differences: Sequence[Estimate]) -> Iterator[str]:
    """The tables for a terminal, each under its heading."""
    yield "\nBeside the real motion: mean over scenes, and half its 95 % interval"
    yield align_columns(format_grid(table, MEASURES))
    yield "\nThe motions themselves"
    yield align_columns(format_grid(table, ITSELF))
    for row in PRIORS:
        if own := [found for found in differences if found.row == row]:
            yield f"\n{row}, less each prediction, scene by scene: * better, ! worse"
            yield align_columns(format_grid(own, MEASURES))
    yield ""


if __name__ == "__main__":
    main()
