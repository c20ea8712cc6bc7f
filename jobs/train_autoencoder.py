#!/usr/bin/env python
"""Learns the autoencoder of frequency slices from a data set's shards.

    quiver train-autoencoder smoke --data DATASET --out autoencoder

The same command again goes on from the last checkpoint. In one process, under torchrun, or with
--workers on Ray.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from jobs.cli.args import command_line_args
from jobs.cli.errors import error_boundary
from jobs.cli.presets import AUTOENCODER_CROPS, AUTOENCODERS, SLICES_PER_SAMPLE
from jobs.cli.training import (
    ShowProgress,
    TrainingOptions,
    check_batch_divisible,
    distributed_group,
    launch_training,
    load_matching_weights,
    parse_preset_args,
    progress,
    report_finished,
    report_skipped_checkpoints,
    run_task,
    seed_weights,
    training_lock,
    warn_without_test_split,
)
from model import checkpoints
from model.normalizer import normalizer_from_statistics
from model.prior.autoencoder import AutoencoderConfig
from model.prior.inference import load_autoencoder
from model.train.autoencoder_task import AutoencoderTask
from model.train.loop import TrainConfig
from pipeline.motion.normalize import Normalization


@dataclass(frozen=True, kw_only=True)
class TrainAutoencoder(TrainingOptions):
    normalisation: Normalization = "adaptive"
    """How coefficients are normalised: adaptive is the paper's, resolution its ablation."""
    crop: tuple[int, int] | None = None
    """Width and height of the part of each slice that a step learns from, multiples of 4; without
    it, the whole.
    """
    start: Path | None = None
    """A trained autoencoder to begin with."""
    network: Annotated[AutoencoderConfig, tyro.conf.arg(name="")] = field(
        default_factory=AutoencoderConfig
    )
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


_PRESETS = {
    name: (
        text,
        TrainAutoencoder(
            data=tyro.MISSING,
            out=tyro.MISSING,
            network=network,
            train=config,
            crop=AUTOENCODER_CROPS.get(name),
            slices=SLICES_PER_SAMPLE.get(name, 1),
        ),
    )
    for name, (text, network, config) in AUTOENCODERS.items()
}


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_preset_args("quiver train-autoencoder", _PRESETS, args, __doc__)
        with progress() as show:
            launch_training(_run_training, job, job.train, show)
        following = [
            "train-denoiser",
            command_line_args(args)[0],
            "--data",
            *job.data,
            "--autoencoder",
            job.out,
            "--out",
            _suggest_prior_folder(job.out),
        ]
        report_finished("autoencoder", job.out, following)


def _suggest_prior_folder(out: Path) -> Path:
    """A name for the prior that is not the autoencoder's."""
    named = out if out.name else out.absolute()
    return named.with_name(f"{named.name}-prior")


def _run_training(job: TrainAutoencoder, show: ShowProgress) -> None:
    """The training, in one of its processes."""
    selections = job.open_datasets()
    statistics = job.load_statistics(selections)
    units = normalizer_from_statistics(statistics, job.normalisation, job.frequencies)
    training, test = job.make_train_and_test(
        selections, statistics, job.normalisation, units.frequencies
    )
    whole = job.make_unaugmented(
        selections, statistics, job.normalisation, units.frequencies, "train"
    )
    seed_weights(job.train)
    task = AutoencoderTask(job.network, units, whole, test, crop=job.crop)
    _check_divisible(task.network.downsampling_factor, size=units.size, crop=job.crop or units.size)
    if job.start and not checkpoints.step_folders(job.out):
        load_matching_weights(
            task.network, report_skipped_checkpoints(load_autoencoder(job.start)).network, job.start
        )
    with distributed_group(job.train.device) as group, training_lock(job.out, group):
        check_batch_divisible(group, batch=job.train.batch)
        warn_without_test_split(selections)
        run_task(task, training, job.train, job.out, "autoencoder", show)


def _check_divisible(factor: int, **sizes: tuple[int, int]) -> None:
    """Raises ValueError unless the network can halve each size as often as it does."""
    for name, size in sizes.items():
        if any(length < 1 or length % factor for length in size):
            raise ValueError(
                f"the {name} is {size[0]}x{size[1]}, expected multiples of {factor}, by which the network makes it smaller"
            )


if __name__ == "__main__":
    main()
