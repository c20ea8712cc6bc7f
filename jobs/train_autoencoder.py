#!/usr/bin/env python
"""Train the autoencoder of frequency slices on the shards of a dataset.

    quiver train-autoencoder smoke --data DATASET --out autoencoder

The same command again resumes from the last checkpoint. It runs in one process, under torchrun, or
with --workers on Ray.
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
    launch_training,
    parse_preset_args,
    progress,
    report_finished,
    run_task,
    warn_on_main_process,
    warn_without_test_split,
)
from model.checkpoints import step_folders
from model.normalizer import normalizer_from_statistics
from model.prior.autoencoder import AutoencoderConfig
from model.prior.inference import load_autoencoder
from model.train.autoencoder_task import AutoencoderTask
from model.train.distributed import check_batch_divisible, distributed_group, training_lock
from model.train.training_loop import TrainConfig
from model.train.warm_start import load_matching_weights, seed_weights
from pipeline.motion.normalize import Normalization


@dataclass(frozen=True, kw_only=True)
class TrainAutoencoder(TrainingOptions):
    normalisation: Normalization = "adaptive"
    """How coefficients are normalized: adaptive is the paper's, resolution its ablation."""
    crop: tuple[int, int] | None = None
    """Width and height of the part of each slice that a step learns from, multiples of 4; without
    it, a step learns from complete slices.
    """
    start: Path | None = None
    """Folder of a trained autoencoder whose weights this one begins with."""
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
        preset = command_line_args(args)[0]
        out = job.out if job.out.name else job.out.absolute()
        inputs = ["--data", *job.data, "--autoencoder", job.out]
        prior = out.with_name(f"{out.name}-prior")
        report_finished("autoencoder", job.out, ["train-denoiser", preset, *inputs, "--out", prior])


def _run_training(job: TrainAutoencoder, show: ShowProgress) -> None:
    """Trains, in one of the processes."""
    views = job.open_datasets()
    statistics = job.load_statistics(views)
    normalizer = normalizer_from_statistics(statistics, job.normalisation, job.frequencies)
    options = views, statistics, job.normalisation, normalizer.frequencies
    training_set, test_set = job.make_train_and_test(*options)
    whitening_set = job.make_unaugmented(*options, "train")
    seed_weights(job.train)
    mixture = whitening_set.mixture(job.train.mix, job.train.windows_per_scene)
    task = AutoencoderTask(
        job.network, normalizer, whitening_set, test_set, crop=job.crop, mixture=mixture
    )
    _check_divisible(
        task.network.downsampling_factor, size=normalizer.size, crop=job.crop or normalizer.size
    )
    earlier_scenes: frozenset[str] = frozenset()
    if job.start and not step_folders(job.out):
        trained = load_autoencoder(job.start, warn_on_main_process)
        load_matching_weights(task.network, trained.network, job.start)
        earlier_scenes = trained.scenes
    with distributed_group(job.train.device) as group, training_lock(job.out, group):
        check_batch_divisible(group, job.train.accumulate, batch=job.train.batch)
        warn_without_test_split(views)
        run_task(task, training_set, job.train, job.out, "autoencoder", show, earlier_scenes)


def _check_divisible(factor: int, **sizes: tuple[int, int]) -> None:
    """Raises ValueError naming a size that the network cannot halve as often as it has to."""
    for name, size in sizes.items():
        if any(length < 1 or length % factor for length in size):
            raise ValueError(
                f"the {name} is {size[0]}x{size[1]}, expected multiples of {factor}, "
                "by which the network makes it smaller"
            )


if __name__ == "__main__":
    main()
