#!/usr/bin/env python
"""Learns the denoiser of latent spectral volumes from a data set's shards, with a trained
autoencoder.

    quiver train-denoiser smoke --data DATASET --autoencoder autoencoder --out prior

Two stages, one after the other: one frequency at a time, in OUT/slice; then, with that frozen,
attention across frequencies, in OUT. The same command again goes on from the last checkpoint. OUT
is then enough to sample from. --start or --pretrained DIR says with which weights the first stage
begins, other than random ones.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jobs.cli.errors import error_boundary
from jobs.cli.presets import COORDINATION_SCHEDULES, DENOISERS, SLICES_PER_SAMPLE
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
from model.prior.denoiser import DenoiserConfig, SliceDenoiser, VolumeDenoiser
from model.prior.frequency_attention import add_frequency_attention
from model.prior.inference import (
    Denoiser,
    TrainedAutoencoder,
    load_autoencoder,
    load_checkpoint,
    load_prior,
)
from model.prior.inference import restore_config as settings_of
from model.prior.pretrained import PRETRAINED_FIELDS, inpainting_config, load_inpainting_weights
from model.train.denoiser_task import DenoiserTask
from model.train.loop import TrainConfig
from pipeline.dataset.open import DatasetView
from pipeline.motion.normalize import Normalization
from schemas.statistics import SpectrumStatistics


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(DenoiserConfig):
    frequencies: tyro.conf.Suppress[int] = 16
    """Those of --frequencies."""
    text_channels: tyro.conf.Suppress[int] = 0
    """Those of --pretrained."""
    heads: tyro.conf.Suppress[tuple[int, ...]] = ()
    """Those of --pretrained."""


@dataclass(frozen=True, kw_only=True)
class TrainDenoiser(TrainingOptions):
    autoencoder: Path
    """Folder of a trained autoencoder, of the same training shards."""
    normalisation: Normalization | None = None
    """How coefficients are normalised; it is the autoencoder's, and another one is refused."""
    stage: Literal["both", "slice", "coordinate"] = "both"
    """slice: one frequency at a time; coordinate: then attention across them. Of --mode coordinated
    alone.
    """
    coordinate_steps: int = 1000
    """Optimiser steps of the second stage."""
    coordinate_batch: int = 4
    """Samples a step of the second stage, each with all K frequencies."""
    start: Path | None = None
    """A trained denoiser to begin the first stage with."""
    pretrained: Path | None = None
    """A pretrained inpainting latent diffusion model (a folder of diffusers) to begin it with; its
    U-Net's widths and levels are taken.
    """
    network: Annotated[NetworkOptions, tyro.conf.arg(name="")] = field(
        default_factory=NetworkOptions
    )
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)

    def __post_init__(self):
        super().__post_init__()
        if self.coordinate_steps < 1 or self.coordinate_batch < 1:
            raise ValueError("coordinate_steps and coordinate_batch are expected to be at least 1")
        if self.pretrained and self.start:
            raise ValueError(
                f"--start is {self.start} and --pretrained is {self.pretrained}, expected one of them"
            )
        if self.pretrained and self.network.mode == "volume":
            raise ValueError(
                "--pretrained is of one image at a time, and --mode volume of all frequencies at once, expected another mode"
            )

    @property
    def first_stage_folder(self) -> Path:
        """Folder of the first stage."""
        return self.out / SLICE_FOLDER if self.network.mode == "coordinated" else self.out

    @property
    def checkpoint_folders(self) -> tuple[Path, ...]:
        return self.out, self.first_stage_folder


SLICE_FOLDER = "slice"
"""Name of the folder of the first stage, in that of a coordinated training."""
_REQUIRED_OPTIONS = dict(data=tyro.MISSING, autoencoder=tyro.MISSING, out=tyro.MISSING)
PRESETS = {
    name: (
        text,
        TrainDenoiser(
            **_REQUIRED_OPTIONS,
            network=NetworkOptions(**asdict(network)),
            train=config,
            slices=SLICES_PER_SAMPLE.get(name, 1),
            coordinate_steps=COORDINATION_SCHEDULES[name][0],
            coordinate_batch=COORDINATION_SCHEDULES[name][1],
        ),
    )
    for name, (text, network, config) in DENOISERS.items()
}


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_preset_args("quiver train-denoiser", PRESETS, args, __doc__)
        _check_folders_differ(job)
        with progress() as show:
            launch_training(_run_training, job, job.train, show)
        out = job.first_stage_folder if job.stage == "slice" else job.out
        report_finished(
            "denoiser", out, ["animate", "PHOTO", "--checkpoint", out, "--out", "film.mp4"]
        )


def _check_folders_differ(job: TrainDenoiser) -> None:
    """Raises ValueError where the checkpoints of the denoiser would come among the autoencoder's."""
    if job.autoencoder.resolve() in (folder.resolve() for folder in job.checkpoint_folders):
        raise ValueError(
            f"--autoencoder is {job.autoencoder}, where the denoiser would be kept, expected another --out than {job.out}"
        )


def _run_training(job: TrainDenoiser, show: ShowProgress) -> None:
    """The training, in one of its processes."""
    selections = job.open_datasets()
    statistics = job.load_statistics(selections)
    autoencoder = _load_matching_autoencoder(job, statistics)
    config = _make_network_config(job, autoencoder.normalizer.frequencies)
    with distributed_group(job.train.device) as group, training_lock(job.out, group):
        check_batch_divisible(
            group,
            batch=job.train.batch,
            **({"coordinate_batch": job.coordinate_batch} if config.mode == "coordinated" else {}),
        )
        warn_without_test_split(selections)
        if job.stage != "coordinate" or config.mode != "coordinated":
            seed_weights(job.train)
            denoiser = VolumeDenoiser(config) if config.mode == "volume" else SliceDenoiser(config)
            _load_start_weights(job, denoiser)
            _train_stage(
                job,
                selections,
                statistics,
                autoencoder,
                denoiser,
                job.train,
                job.first_stage_folder,
                show,
            )
        if job.stage != "slice" and config.mode == "coordinated":
            second, first = (
                replace(job.train, steps=job.coordinate_steps, batch=job.coordinate_batch),
                _load_first_stage(job, config, autoencoder),
            )
            seed_weights(job.train)
            _train_stage(
                job,
                selections,
                statistics,
                autoencoder,
                add_frequency_attention(first),
                second,
                job.out,
                show,
            )


def _make_network_config(job: TrainDenoiser, frequencies: int) -> DenoiserConfig:
    """The network that is trained: with --pretrained its U-Net is that one or, in going on, which
    does without, the checkpoint's.
    """
    settings: dict[str, Any] = asdict(job.network) | {"frequencies": frequencies}
    config = DenoiserConfig(**settings)
    if job.pretrained is None:
        return config
    if not checkpoints.step_folders(job.first_stage_folder):
        return inpainting_config(job.pretrained, config)
    saved = settings_of(
        load_checkpoint(job.first_stage_folder, "denoiser")[0], "denoiser", DenoiserConfig
    )
    return replace(config, **{name: getattr(saved, name) for name in PRETRAINED_FIELDS})


def _load_start_weights(job: TrainDenoiser, denoiser: SliceDenoiser | VolumeDenoiser) -> None:
    """With what the first stage begins, unless it goes on."""
    if checkpoints.step_folders(job.first_stage_folder):
        return
    if job.start:
        folder = (
            job.start / SLICE_FOLDER
            if checkpoints.step_folders(job.start / SLICE_FOLDER)
            else job.start
        )
        load_matching_weights(
            denoiser, report_skipped_checkpoints(load_prior(folder)).denoiser, job.start
        )
    if job.pretrained and isinstance(denoiser, SliceDenoiser):
        load_inpainting_weights(denoiser, job.pretrained)


def _load_matching_autoencoder(
    job: TrainDenoiser, statistics: SpectrumStatistics
) -> TrainedAutoencoder:
    """The trained autoencoder, of the frequencies asked for. Raises ValueError where it is of other
    shards or another normalisation.
    """
    found = report_skipped_checkpoints(load_autoencoder(job.autoencoder))
    saved = checkpoints.read_newest(job.autoencoder)[0].config
    if saved["step"] < saved["training"]["steps"]:
        raise ValueError(
            f"the autoencoder in {job.autoencoder} has come to step {saved['step']} of {saved['training']['steps']}: finish it first"
        )
    if found.normalizer.shards != statistics.shards:
        raise ValueError(
            f"the autoencoder in {job.autoencoder} was trained with the statistics of another set of training shards than {', '.join(job.data)}"
        )
    if job.normalisation not in (None, found.normalizer.normalisation):
        raise ValueError(
            f"--normalisation is {job.normalisation}, and the autoencoder in {job.autoencoder} was trained with {found.normalizer.normalisation}"
        )
    if (
        normalizer_from_statistics(
            statistics, found.normalizer.normalisation, found.normalizer.frequencies
        )
        != found.normalizer
    ):
        raise ValueError(
            f"the autoencoder in {job.autoencoder} was trained with other scales of these shards: give its file of them as --statistics"
        )
    latents, levels = found.network.config.latent_channels, len(found.network.config.channels)
    if (latents, levels) != (job.network.latent_channels, len(job.network.image_channels)):
        raise ValueError(
            f"the autoencoder in {job.autoencoder} has {latents} latent channels and {levels} levels, expected "
            f"{job.network.latent_channels} and the {len(job.network.image_channels)} of --image-channels"
        )
    return found._replace(
        normalizer=found.normalizer.truncate(job.frequencies or found.normalizer.frequencies)
    )


def _train_stage(
    job: TrainDenoiser,
    selections: Sequence[DatasetView],
    statistics: SpectrumStatistics,
    autoencoder: TrainedAutoencoder,
    denoiser: Denoiser,
    config: TrainConfig,
    out: Path,
    show: ShowProgress,
) -> None:
    """One stage."""
    one, units = isinstance(denoiser, SliceDenoiser), autoencoder.normalizer
    training, test = job.make_train_and_test(
        selections, statistics, units.normalisation, units.frequencies, all_of_them=not one
    )
    run_task(
        DenoiserTask(denoiser, autoencoder, test),
        training,
        config,
        out,
        "slices" if one else "all frequencies",
        show,
    )


def _load_first_stage(
    job: TrainDenoiser, config: DenoiserConfig, autoencoder: TrainedAutoencoder
) -> SliceDenoiser:
    """Of which the second begins. Raises ValueError where it is not there, not finished, of another
    network, or was trained with another autoencoder or on other shards.
    """
    if not checkpoints.step_folders(job.first_stage_folder):
        raise ValueError(
            f"{job.first_stage_folder} holds no first stage, expected --stage slice or both first"
        )
    prior = report_skipped_checkpoints(load_prior(job.first_stage_folder))
    denoiser = prior.denoiser
    step = checkpoints.read_newest(job.first_stage_folder)[0].config["step"]
    if step < job.train.steps:
        raise ValueError(
            f"the first stage in {job.first_stage_folder} has come to step {step} of {job.train.steps}: finish it, or give --steps {step}"
        )
    if not isinstance(denoiser, SliceDenoiser) or denoiser.config.frequencies != config.frequencies:
        raise ValueError(
            f"{job.first_stage_folder} holds a denoiser of {denoiser.config.frequencies} frequencies, expected one of {config.frequencies}, slice by slice"
        )
    different = [
        field.name
        for field in fields(config)
        if field.name != "mode"
        and getattr(config, field.name) != getattr(denoiser.config, field.name)
    ]
    if different:
        raise ValueError(
            f"the first stage in {job.first_stage_folder} is of another network ({', '.join(different)} differ), expected the same settings"
        )
    if prior.normalizer != autoencoder.normalizer or not checkpoints.weights_equal(
        prior.autoencoder.state_dict(), autoencoder.network.state_dict()
    ):
        raise ValueError(
            f"the first stage in {job.first_stage_folder} was trained with another autoencoder, or on other shards, than {job.autoencoder}"
        )
    return denoiser


if __name__ == "__main__":
    main()
