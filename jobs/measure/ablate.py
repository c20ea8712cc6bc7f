#!/usr/bin/env python
"""The ablations of the paper's table 2: trains what they want, makes a film of every held-out clip
by each, measures them, and shows the paper's numbers beside ours.

    quiver ablate smoke --out ablation

Everything is done by quiver's own commands, each shown before it runs, so that any can be run
alone; what two variants have in common is trained once. The same command again goes on where it
was. Without --clips or --data it learns from generated clips (quiver make-clips), which says
whether the whole way works, and nothing of real motion.
"""

from collections.abc import Sequence

import tyro

from jobs.ablation.steps import Ablate, run_ablation, select_held_out, write_or_check_contract
from jobs.ablation.variants import (
    DATASET_FREQUENCIES,
)
from jobs.cli.errors import error_boundary
from jobs.cli.training import parse_preset_args
from model.device import check_device
from model.evaluate.feature_networks import load_network
from model.evaluate.pairs import NETWORK_SPECS
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import open_dataset

PRESETS = {
    "smoke": (
        "Two cores, under half an hour: tiny networks that have hardly learnt. Says whether the way works, not which variant is better.",
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
        "One GPU of 24 GB or more, about a week (reckoned, not timed): quiver's small networks. Wants --clips or --data of some hundred clips, and --imagenet.",
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
    """Raises ValueError, before any work, where something is missing."""
    check_device(job.device)
    if job.imagenet is not None and not job.imagenet.is_file():
        raise ValueError(
            f"--imagenet is {job.imagenet}, which is no file, expected torchvision's weights of ResNet-34"
        )
    for name in NETWORK_SPECS:
        if path := getattr(job, name.replace("-", "_")):
            load_network(path, NETWORK_SPECS[name], job.device)
    if job.data is not None:
        selection = open_dataset(job.data)
        found = selection.dataset.contract().config["frequencies"]
        if found < DATASET_FREQUENCIES:
            raise ValueError(
                f"--data is {job.data} of {found} frequencies, expected at least {DATASET_FREQUENCIES}: extract with --frequencies {DATASET_FREQUENCIES}"
            )
        select_held_out(selection, job.photographs)


if __name__ == "__main__":
    main()
