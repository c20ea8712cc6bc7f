#!/usr/bin/env python
"""Learns the autoencoder of frequency slices from a data set's shards.

    quiver train-autoencoder smoke --data DATASET --out autoencoder

The same command again goes on from the last checkpoint. In one process, under torchrun, or with --workers on Ray.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from jobs.cli.args import words
from jobs.cli.errors import sentences
from jobs.cli.presets import AUTOENCODERS, CROPS, SLICES
from jobs.cli.training import (
    Data,
    Show,
    begin_with,
    check_shares,
    finished,
    held,
    parse,
    run,
    seeded,
    shown,
    start,
    tell_what_is_not_held_out,
    together,
    told,
)
from model import checkpoints
from model.normalizer import units_of
from model.prior.autoencoder import AutoencoderConfig
from model.prior.inference import load_autoencoder
from model.train.denoiser_task import AutoencoderTask
from model.train.loop import TrainConfig
from pipeline.motion.normalize import Normalisation


@dataclass(frozen=True, kw_only=True)
class TrainAutoencoder(Data):
    normalisation: Normalisation = "adaptive"
    """How coefficients are normalised: adaptive is the paper's, resolution its ablation."""
    crop: tuple[int, int] | None = None
    """Width and height of the part of each slice that a step learns from, multiples of 4; without it, the whole."""
    start: Path | None = None
    """A trained autoencoder to begin with."""
    network: Annotated[AutoencoderConfig, tyro.conf.arg(name="")] = field(default_factory=AutoencoderConfig)
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


PRESETS = {
    name: (text, TrainAutoencoder(data=tyro.MISSING, out=tyro.MISSING, network=network, train=config, crop=CROPS.get(name), slices=SLICES.get(name, 1)))
    for name, (text, network, config) in AUTOENCODERS.items()
}


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with sentences():
        job = parse("quiver train-autoencoder", PRESETS, args, __doc__)
        with shown() as show:
            start(learn, job, job.train, show)
        following = ["train-denoiser", words(args)[0], "--data", *job.data, "--autoencoder", job.out, "--out", beside(job.out)]
        finished("autoencoder", job.out, following)


def beside(out: Path) -> Path:
    """A name for the prior that is not the autoencoder's."""
    named = out if out.name else out.absolute()
    return named.with_name(f"{named.name}-prior")


def learn(job: TrainAutoencoder, show: Show) -> None:
    """The training, in one of its processes."""
    selections = job.selections()
    statistics = job.scales(selections)
    units = units_of(statistics, job.normalisation, job.frequencies)
    training, test = job.examples(selections, statistics, job.normalisation, units.frequencies)
    whole = job.untouched(selections, statistics, job.normalisation, units.frequencies, "train")
    seeded(job.train)
    task = AutoencoderTask(job.network, units, whole, test, crop=job.crop)
    check_multiples(task.network.factor, size=units.size, crop=job.crop or units.size)
    if job.start and not checkpoints.steps(job.out):
        begin_with(task.network, told(load_autoencoder(job.start)).network, job.start)
    with together(job.train.device) as group, held(job.out, group):
        check_shares(group, batch=job.train.batch)
        tell_what_is_not_held_out(selections)
        run(task, training, job.train, job.out, "autoencoder", show)


def check_multiples(factor: int, **sizes: tuple[int, int]) -> None:
    """Raises ValueError unless the network can halve each size as often as it does."""
    for name, size in sizes.items():
        if any(length < 1 or length % factor for length in size):
            raise ValueError(f"the {name} is {size[0]}x{size[1]}, expected multiples of {factor}, by which the network makes it smaller")


if __name__ == "__main__":
    main()
