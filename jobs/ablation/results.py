"""The result of an ablation: the content of ablation.json, and the X-t slices of its page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from jobs.ablation.settings import Ablate
from jobs.ablation.variants import FULL_NAME, PAPER_COLUMNS, REAL_NAME, STAGE_NAMES, film_path
from model.checkpoints import load_checkpoint
from model.evaluate.paired import compare_evaluations
from model.evaluate.pairs import CROP_SIZE
from pipeline.dataset.open import open_dataset
from pipeline.decode.config import DecodeConfig
from pipeline.decode.pool import shared_pool
from pipeline.preview.reconstruct import read_settings
from pipeline.whole_clip.frames import decode_clip, open_clip

_MAX_PAGE_PHOTOGRAPHS = 2
"""Photographs whose X-t slices are shown on the page."""
_PAPER_CAPTION = "The paper's table 2: its data, its networks, its training"
_CAUTIONS = {
    "smoke": (
        "Ours, {films}: networks that have hardly learnt, so this says whether the way works, not "
        "which variant is better, and is not to be compared with the paper in absolute numbers"
    ),
    "small": (
        "Ours, {films}: other clips and smaller networks than the paper's, so its order can be "
        "compared, and not its absolute numbers"
    ),
}
_REAL_FRAMES_NOTE = (
    "those nearest in time to the working rate, at the working size, compressed as the films are"
)


def collect_results(
    job: Ablate,
    evaluations: Mapping[str, Mapping[str, Any]],
    windows: Mapping[str, str],
    real: Mapping[str, Mapping[str, int]],
    commands: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Returns the content of ablation.json.

    evaluations: the evaluation.json of each variant, by name. windows: the clip of each held-out
    window, by key. real: the counts of frames of the real films. commands: those that were run.
    """
    full = evaluations.get(FULL_NAME)
    fps = read_settings(open_dataset(job.dataset).dataset).plan.fps
    efforts = _training_efforts(job)
    variants = [
        asdict(variant)
        | dict(
            metrics=evaluations[variant.name]["metrics"],
            differences=_differences_from_full(evaluations[variant.name], full),
            trained=efforts[variant.name],
        )
        for variant in job.variants
    ]
    films = (
        f"{len(windows)} films of {len(set(windows.values()))} held-out clips, {job.preset} preset"
    )
    return dict(
        variants=variants,
        compared_with=FULL_NAME if full else None,
        remarks=[
            *dict.fromkeys(
                remark for evaluation in evaluations.values() for remark in evaluation["remarks"]
            ),
            *remark_repeated_frames(real, fps),
        ],
        stages=list(STAGE_NAMES),
        trainings=len(job.training_commands.list_commands(job.variants)),
        ours=f"Ours: {films}",
        caution=_CAUTIONS[job.preset].format(films=films),
        paper=dict(columns=list(PAPER_COLUMNS), words=_PAPER_CAPTION),
        commands=commands,
        protocol=dict(
            photographs=list(windows),
            seeds=f"{job.seed} for the first, and the next for each other",
            real=_REAL_FRAMES_NOTE,
            steps=job.steps,
            repeated_frames={
                key: f"{film['repeated']} of {film['frames']}" for key, film in real.items()
            },
        )
        | next(iter(evaluations.values()))["protocol"],
    )


def _training_efforts(job: Ablate) -> dict[str, dict[str, dict[str, int]]]:
    """The effort of each stage of each variant, from the newest checkpoints. Variants share
    checkpoints, and each is read once.
    """
    stages = {
        variant.name: job.training_commands.checkpoint_folders(variant) for variant in job.variants
    }
    efforts = {
        folder: checkpoint_effort(load_checkpoint(folder, warn=lambda _: None).config)
        for folder in {path for folders in stages.values() for path in folders.values()}
    }
    return {
        name: {stage: efforts[folder] for stage, folder in folders.items()}
        for name, folders in stages.items()
    }


def checkpoint_effort(config: Mapping[str, Any]) -> dict[str, int]:
    """The steps, the samples per step, and the samples of a training, by a checkpoint's config."""
    steps, batch = config["step"], config["training"]["batch"]
    return dict(steps=steps, batch=batch, samples=steps * batch)


def _differences_from_full(
    variant: Mapping[str, Any], full: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """The difference of a variant's films from those of the full method in each metric that is a
    mean over films; empty for the full method, and if it was not made.
    """
    if full is None or variant is full:
        return {}
    keys = [metric["key"] for metric in variant["metrics"]]
    differences = compare_evaluations(variant["pairs"], full["pairs"], keys)
    return {key: difference._asdict() for key, difference in differences.items()}


def remark_repeated_frames(real: Mapping[str, Mapping[str, int]], fps: float) -> list[str]:
    """A remark about real films that repeat frames, since their videos have fewer than `fps` a
    second; empty if there are none.
    """
    films = [film for film in real.values() if film["repeated"]]
    if not films:
        return []
    frames, repeated = (sum(film[name] for film in films) for name in ("frames", "repeated"))
    return [
        f"{repeated} of {frames} frames of {len(films)} of {len(real)} real films are the one "
        f"before again, as their clips have fewer than {fps:g} a second there: that favours "
        "variants that stand still in flicker, warping error, changes and FVD; clips of "
        f"{fps:g} frames a second or a multiple avoid it"
    ]


def read_xt_slices(
    job: Ablate, evaluation: Mapping[str, Any], keys: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """X-t slices of some photographs, by the title of the film: the real film's and each variant's,
    at the row in which the real film moves most, by any variant's `evaluation`.
    """
    pool = shared_pool(DecodeConfig(), 1)
    rows = {pair["name"]: pair["row"] for pair in evaluation["pairs"]}
    titles = {REAL_NAME: "real frames"}
    titles |= {variant.name: variant.title for variant in job.variants}

    def read_slice(name: str, key: str) -> Any:
        film = decode_clip(open_clip(film_path(job.out, name, key), pool), CROP_SIZE, pool)
        return film.frames[:, rows[key]].copy()

    return {
        key: {title: read_slice(name, key) for name, title in titles.items()}
        for key in keys[:_MAX_PAGE_PHOTOGRAPHS]
    }
