#!/usr/bin/env python
"""Learns the denoiser of latent spectral volumes from a data set's shards, with a trained autoencoder.

    python -m jobs.train_denoiser PRESET --data DATASET --autoencoder DIR --out DIR

Two stages, one after the other: one frequency at a time, in OUT/slice; then, with that frozen, attention across frequencies,
in OUT. The same command again goes on from the last checkpoint. OUT is then enough to sample from.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jobs import cluster
from jobs.exits import sentences
from jobs.presets import COORDINATION, DENOISERS
from jobs.trainer import Data, begin_with, parse, run, seeded, speaks, together, told
from model import checkpoints
from model.coordination import coordinate
from model.denoiser import DenoiserConfig, SliceDenoiser, VolumeDenoiser
from model.prior import load_autoencoder, load_prior
from model.tasks import Denoiser, DenoiserTask, Frozen
from model.training import TrainConfig, device_of
from pipeline.normalize import Normalisation
from pipeline.selection import Selection
from schemas.statistics import SpectrumStatistics


@dataclass(frozen=True, kw_only=True)
class Network(DenoiserConfig):
    frequencies: tyro.conf.Suppress[int] = 16
    """Those of --frequencies."""


@dataclass(frozen=True, kw_only=True)
class TrainDenoiser(Data):
    autoencoder: Path
    """Folder of a trained autoencoder, of the same training shards."""
    out: Path
    """Folder of the training: checkpoints and log; created, or gone on from."""
    normalisation: Normalisation | None = None
    """How coefficients are normalised; it is the autoencoder's, and another one is refused."""
    stage: Literal["both", "slice", "coordinate"] = "both"
    """slice: one frequency at a time; coordinate: then attention across them. Of --mode coordinated alone."""
    coordinate_steps: int = 1000
    """Optimiser steps of the second stage."""
    coordinate_batch: int = 4
    """Samples a step of the second stage, each with all K frequencies."""
    start: Path | None = None
    """A trained denoiser to begin the first stage with."""
    workers: int | None = None
    """Processes that train together, on Ray; each has a GPU where --device is cuda. Without it, this process alone, or those of torchrun."""
    network: Annotated[Network, tyro.conf.arg(name="")] = field(default_factory=Network)
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)

    def __post_init__(self):
        super().__post_init__()
        if self.coordinate_steps < 1 or self.coordinate_batch < 1:
            raise ValueError("coordinate_steps and coordinate_batch are expected to be at least 1")

    @property
    def slices(self) -> Path:
        """Folder of the first stage."""
        return self.out / "slice" if self.network.mode == "coordinated" else self.out


MISSING = dict(data=tyro.MISSING, autoencoder=tyro.MISSING, out=tyro.MISSING)
PRESETS = {
    name: (
        text,
        TrainDenoiser(
            **MISSING, network=Network(**asdict(network)), train=config, coordinate_steps=COORDINATION[name][0], coordinate_batch=COORDINATION[name][1]
        ),
    )
    for name, (text, network, config) in DENOISERS.items()
}


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/exits.py."""
    with sentences():
        job = parse("quiver train-denoiser", PRESETS, args)
        if job.workers is None:
            device_of(job.train)
        cluster.train(learn, job, job.workers, gpu=job.train.device == "cuda")
        if speaks():
            print(f"denoiser: {job.slices if job.stage == 'slice' else job.out}")


def learn(job: TrainDenoiser) -> None:
    """The training, in one of its processes."""
    selections = job.selections()
    statistics = job.scales(selections)
    autoencoder = fitting_autoencoder(job, statistics)
    settings: dict[str, Any] = asdict(job.network) | {"frequencies": autoencoder.units.frequencies}
    config = DenoiserConfig(**settings)
    with together(job.train.device):
        if job.stage != "coordinate" or config.mode != "coordinated":
            seeded(job.train)
            denoiser = VolumeDenoiser(config) if config.mode == "volume" else SliceDenoiser(config)
            if job.start:
                begin_with(denoiser, told(load_prior(job.start)).denoiser, job.start)
            train_one(job, selections, statistics, autoencoder, denoiser, job.train, job.slices)
        if job.stage != "slice" and config.mode == "coordinated":
            second, first = replace(job.train, steps=job.coordinate_steps, batch=job.coordinate_batch), first_stage(job, config, autoencoder)
            seeded(job.train)
            train_one(job, selections, statistics, autoencoder, coordinate(first), second, job.out)


def fitting_autoencoder(job: TrainDenoiser, statistics: SpectrumStatistics) -> Frozen:
    """The trained autoencoder, of the frequencies asked for. Raises ValueError where it is of other shards or another normalisation."""
    found = told(load_autoencoder(job.autoencoder))
    if found.units.shards != statistics.shards:
        raise ValueError(f"the autoencoder in {job.autoencoder} was trained with the statistics of another set of training shards than {', '.join(job.data)}")
    if job.normalisation not in (None, found.units.normalisation):
        raise ValueError(f"--normalisation is {job.normalisation}, and the autoencoder in {job.autoencoder} was trained with {found.units.normalisation}")
    return found._replace(units=found.units.first(job.frequencies or found.units.frequencies))


def train_one(
    job: TrainDenoiser, selections: Sequence[Selection], statistics: SpectrumStatistics, autoencoder: Frozen, denoiser: Denoiser, config: TrainConfig, out: Path
) -> None:
    """One stage."""
    one, units = isinstance(denoiser, SliceDenoiser), autoencoder.units
    training, test = job.examples(selections, statistics, units.normalisation, units.frequencies, one=one)
    run(DenoiserTask(denoiser, autoencoder, test), training, config, out, "slices" if one else "all frequencies")


def first_stage(job: TrainDenoiser, config: DenoiserConfig, autoencoder: Frozen) -> SliceDenoiser:
    """Of which the second begins. Raises ValueError where it is not there, not finished, of another network, or was trained with
    another autoencoder or on other shards.
    """
    if not checkpoints.steps(job.slices):
        raise ValueError(f"{job.slices} holds no first stage, expected --stage slice or both first")
    prior = told(load_prior(job.slices))
    denoiser = prior.denoiser
    step = checkpoints.newest(job.slices)[0].config["step"]
    if step < job.train.steps:
        raise ValueError(f"the first stage in {job.slices} has come to step {step} of {job.train.steps}: finish it, or give --steps {step}")
    if not isinstance(denoiser, SliceDenoiser) or denoiser.config.frequencies != config.frequencies:
        raise ValueError(f"{job.slices} holds a denoiser of {denoiser.config.frequencies} frequencies, expected one of {config.frequencies}, slice by slice")
    if prior.units != autoencoder.units or not checkpoints.same(prior.autoencoder.state_dict(), autoencoder.network.state_dict()):
        raise ValueError(f"the first stage in {job.slices} was trained with another autoencoder, or on other shards, than {job.autoencoder}")
    return denoiser


if __name__ == "__main__":
    main()
