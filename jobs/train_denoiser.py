#!/usr/bin/env python
"""Learns the denoiser of latent spectral volumes from a data set's shards, with a trained autoencoder.

    quiver train-denoiser smoke --data DATASET --autoencoder autoencoder --out prior

Two stages, one after the other: one frequency at a time, in OUT/slice; then, with that frozen, attention across frequencies,
in OUT. The same command again goes on from the last checkpoint. OUT is then enough to sample from. --start or --pretrained DIR
says with which weights the first stage begins, other than random ones.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jobs.cli.errors import sentences
from jobs.cli.presets import COORDINATION, DENOISERS, SLICES
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
from model.prior.denoiser import DenoiserConfig, SliceDenoiser, VolumeDenoiser
from model.prior.frequency_attention import coordinate
from model.prior.inference import checkpoint_of, load_autoencoder, load_prior
from model.prior.inference import settings as settings_of
from model.prior.pretrained import TAKEN, begin_with_inpainting, inpainting_config
from model.train.denoiser_task import Denoiser, DenoiserTask, Frozen
from model.train.loop import TrainConfig
from pipeline.dataset.open import Selection
from pipeline.motion.normalize import Normalisation
from schemas.statistics import SpectrumStatistics


@dataclass(frozen=True, kw_only=True)
class Network(DenoiserConfig):
    frequencies: tyro.conf.Suppress[int] = 16
    """Those of --frequencies."""
    text_channels: tyro.conf.Suppress[int] = 0
    """Those of --pretrained."""
    heads: tyro.conf.Suppress[tuple[int, ...]] = ()
    """Those of --pretrained."""


@dataclass(frozen=True, kw_only=True)
class TrainDenoiser(Data):
    autoencoder: Path
    """Folder of a trained autoencoder, of the same training shards."""
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
    pretrained: Path | None = None
    """A pretrained inpainting latent diffusion model (a folder of diffusers) to begin it with; its U-Net's widths and levels are taken."""
    network: Annotated[Network, tyro.conf.arg(name="")] = field(default_factory=Network)
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)

    def __post_init__(self):
        super().__post_init__()
        if self.coordinate_steps < 1 or self.coordinate_batch < 1:
            raise ValueError("coordinate_steps and coordinate_batch are expected to be at least 1")
        if self.pretrained and self.start:
            raise ValueError(f"--start is {self.start} and --pretrained is {self.pretrained}, expected one of them")
        if self.pretrained and self.network.mode == "volume":
            raise ValueError("--pretrained is of one image at a time, and --mode volume of all frequencies at once, expected another mode")

    @property
    def first(self) -> Path:
        """Folder of the first stage."""
        return self.out / SLICE if self.network.mode == "coordinated" else self.out

    @property
    def folders(self) -> tuple[Path, ...]:
        return self.out, self.first


SLICE = "slice"
"""Name of the folder of the first stage, in that of a coordinated training."""
MISSING = dict(data=tyro.MISSING, autoencoder=tyro.MISSING, out=tyro.MISSING)
PRESETS = {
    name: (
        text,
        TrainDenoiser(
            **MISSING,
            network=Network(**asdict(network)),
            train=config,
            slices=SLICES.get(name, 1),
            coordinate_steps=COORDINATION[name][0],
            coordinate_batch=COORDINATION[name][1],
        ),
    )
    for name, (text, network, config) in DENOISERS.items()
}


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with sentences():
        job = parse("quiver train-denoiser", PRESETS, args, __doc__)
        check_folders(job)
        with shown() as show:
            start(learn, job, job.train, show)
        out = job.first if job.stage == "slice" else job.out
        finished("denoiser", out, ["animate", "PHOTO", "--checkpoint", out, "--out", "film.mp4"])


def check_folders(job: TrainDenoiser) -> None:
    """Raises ValueError where the checkpoints of the denoiser would come among the autoencoder's."""
    if job.autoencoder.resolve() in (folder.resolve() for folder in job.folders):
        raise ValueError(f"--autoencoder is {job.autoencoder}, where the denoiser would be kept, expected another --out than {job.out}")


def learn(job: TrainDenoiser, show: Show) -> None:
    """The training, in one of its processes."""
    selections = job.selections()
    statistics = job.scales(selections)
    autoencoder = fitting_autoencoder(job, statistics)
    config = network_of(job, autoencoder.units.frequencies)
    with together(job.train.device) as group, held(job.out, group):
        check_shares(group, batch=job.train.batch, **({"coordinate_batch": job.coordinate_batch} if config.mode == "coordinated" else {}))
        tell_what_is_not_held_out(selections)
        if job.stage != "coordinate" or config.mode != "coordinated":
            seeded(job.train)
            denoiser = VolumeDenoiser(config) if config.mode == "volume" else SliceDenoiser(config)
            begin(job, denoiser)
            train_one(job, selections, statistics, autoencoder, denoiser, job.train, job.first, show)
        if job.stage != "slice" and config.mode == "coordinated":
            second, first = replace(job.train, steps=job.coordinate_steps, batch=job.coordinate_batch), first_stage(job, config, autoencoder)
            seeded(job.train)
            train_one(job, selections, statistics, autoencoder, coordinate(first), second, job.out, show)


def network_of(job: TrainDenoiser, frequencies: int) -> DenoiserConfig:
    """The network that is trained: with --pretrained its U-Net is that one or, in going on, which does without, the checkpoint's."""
    settings: dict[str, Any] = asdict(job.network) | {"frequencies": frequencies}
    config = DenoiserConfig(**settings)
    if job.pretrained is None:
        return config
    if not checkpoints.steps(job.first):
        return inpainting_config(job.pretrained, config)
    saved = settings_of(checkpoint_of(job.first, "denoiser")[0], "denoiser", DenoiserConfig)
    return replace(config, **{name: getattr(saved, name) for name in TAKEN})


def begin(job: TrainDenoiser, denoiser: SliceDenoiser | VolumeDenoiser) -> None:
    """With what the first stage begins, unless it goes on."""
    if checkpoints.steps(job.first):
        return
    if job.start:
        folder = job.start / SLICE if checkpoints.steps(job.start / SLICE) else job.start
        begin_with(denoiser, told(load_prior(folder)).denoiser, job.start)
    if job.pretrained and isinstance(denoiser, SliceDenoiser):
        begin_with_inpainting(denoiser, job.pretrained)


def fitting_autoencoder(job: TrainDenoiser, statistics: SpectrumStatistics) -> Frozen:
    """The trained autoencoder, of the frequencies asked for. Raises ValueError where it is of other shards or another normalisation."""
    found = told(load_autoencoder(job.autoencoder))
    saved = checkpoints.newest(job.autoencoder)[0].config
    if saved["step"] < saved["training"]["steps"]:
        raise ValueError(f"the autoencoder in {job.autoencoder} has come to step {saved['step']} of {saved['training']['steps']}: finish it first")
    if found.units.shards != statistics.shards:
        raise ValueError(f"the autoencoder in {job.autoencoder} was trained with the statistics of another set of training shards than {', '.join(job.data)}")
    if job.normalisation not in (None, found.units.normalisation):
        raise ValueError(f"--normalisation is {job.normalisation}, and the autoencoder in {job.autoencoder} was trained with {found.units.normalisation}")
    if units_of(statistics, found.units.normalisation, found.units.frequencies) != found.units:
        raise ValueError(f"the autoencoder in {job.autoencoder} was trained with other scales of these shards: give its file of them as --statistics")
    latents, levels = found.network.config.latent_channels, len(found.network.config.channels)
    if (latents, levels) != (job.network.latent_channels, len(job.network.image_channels)):
        raise ValueError(
            f"the autoencoder in {job.autoencoder} has {latents} latent channels and {levels} levels, expected "
            f"{job.network.latent_channels} and the {len(job.network.image_channels)} of --image-channels"
        )
    return found._replace(units=found.units.first(job.frequencies or found.units.frequencies))


def train_one(
    job: TrainDenoiser,
    selections: Sequence[Selection],
    statistics: SpectrumStatistics,
    autoencoder: Frozen,
    denoiser: Denoiser,
    config: TrainConfig,
    out: Path,
    show: Show,
) -> None:
    """One stage."""
    one, units = isinstance(denoiser, SliceDenoiser), autoencoder.units
    training, test = job.examples(selections, statistics, units.normalisation, units.frequencies, all_of_them=not one)
    run(DenoiserTask(denoiser, autoencoder, test), training, config, out, "slices" if one else "all frequencies", show)


def first_stage(job: TrainDenoiser, config: DenoiserConfig, autoencoder: Frozen) -> SliceDenoiser:
    """Of which the second begins. Raises ValueError where it is not there, not finished, of another network, or was trained with
    another autoencoder or on other shards.
    """
    if not checkpoints.steps(job.first):
        raise ValueError(f"{job.first} holds no first stage, expected --stage slice or both first")
    prior = told(load_prior(job.first))
    denoiser = prior.denoiser
    step = checkpoints.newest(job.first)[0].config["step"]
    if step < job.train.steps:
        raise ValueError(f"the first stage in {job.first} has come to step {step} of {job.train.steps}: finish it, or give --steps {step}")
    if not isinstance(denoiser, SliceDenoiser) or denoiser.config.frequencies != config.frequencies:
        raise ValueError(f"{job.first} holds a denoiser of {denoiser.config.frequencies} frequencies, expected one of {config.frequencies}, slice by slice")
    different = [field.name for field in fields(config) if field.name != "mode" and getattr(config, field.name) != getattr(denoiser.config, field.name)]
    if different:
        raise ValueError(f"the first stage in {job.first} is of another network ({', '.join(different)} differ), expected the same settings")
    if prior.units != autoencoder.units or not checkpoints.same(prior.autoencoder.state_dict(), autoencoder.network.state_dict()):
        raise ValueError(f"the first stage in {job.first} was trained with another autoencoder, or on other shards, than {job.autoencoder}")
    return denoiser


if __name__ == "__main__":
    main()
