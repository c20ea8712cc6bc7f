#!/usr/bin/env python
"""Runs the ablations of the paper's table 2: trains the networks of every variant, makes a film of
every held-out clip with each, measures the films, and shows the paper's numbers beside ours.

    quiver ablate smoke --out ablation

All steps are commands of quiver. Each is shown before it runs, so that it can be run alone; what
two variants have in common is trained once. The same command resumes an ablation. Without --clips
or --data it trains on generated clips (quiver make-clips): that shows that everything works, but
nothing about real motion.
"""

from collections.abc import Sequence

import tyro

from jobs.ablation.settings import Ablate, write_or_check_contract
from jobs.ablation.steps import run_ablation, select_held_out
from jobs.ablation.variants import DATASET_FREQUENCIES
from jobs.cli.errors import error_boundary
from jobs.cli.training import parse_preset_args
from model.device import check_device
from model.evaluate.extractors import NETWORK_SPECS
from model.evaluate.feature_networks import load_network
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import open_dataset

PRESETS = {
    "smoke": (
        "Two cores, under half an hour: tiny networks that have hardly learned. Shows that "
        "everything works, not which variant is better.",
        Ablate(
            out=tyro.MISSING,
            photographs=5,
            steps=20,
            device="cpu",
            preset="smoke",
            more={"extract-flow": ("--size", "128x80")},
        ),
    ),
    "small": (
        "One GPU of 24 GB or more, about a week (estimated, not measured): quiver's small "
        "networks. Needs --clips or --data with some hundred clips, and --imagenet.",
        Ablate(
            out=tyro.MISSING,
            photographs=64,
            steps=100,
            device="cuda",
            preset="small",
            generated=(40, 8.0),
        ),
    ),
}


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_preset_args("quiver ablate", PRESETS, args, __doc__)
        _check_job(job)
        with Dataset(job.out).lock():
            write_or_check_contract(job)
            run_ablation(job)


def _check_job(job: Ablate) -> None:
    """Raises ValueError, before any work, if something is missing."""
    check_device(job.device)
    if job.imagenet is not None and not job.imagenet.is_file():
        raise ValueError(
            f"--imagenet is {job.imagenet}, which is no file, expected torchvision's weights of "
            "ResNet-34"
        )
    for name in NETWORK_SPECS:
        if path := getattr(job, name.replace("-", "_")):
            load_network(path, NETWORK_SPECS[name], job.device)
    if job.data is not None:
        view = open_dataset(job.data)
        frequencies = view.dataset.contract().config["frequencies"]
        if frequencies < DATASET_FREQUENCIES:
            raise ValueError(
                f"--data is {job.data} of {frequencies} frequencies, expected at least "
                f"{DATASET_FREQUENCIES}: extract with --frequencies {DATASET_FREQUENCIES}"
            )
        select_held_out(view, job.photographs)


if __name__ == "__main__":
    main()
