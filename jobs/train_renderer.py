#!/usr/bin/env python
"""Learns the renderer from a data set's shards: from each photograph and the flow to a later frame,
that frame.

    quiver train-renderer smoke --data DATASET --out renderer

The same command again goes on from the last checkpoint. In one process, under torchrun, or with
--workers on Ray.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs.cli.console import print_message
from jobs.cli.errors import error_boundary
from jobs.cli.presets import RENDERER_CROPS, RENDERERS
from jobs.cli.training import (
    ShowProgress,
    TrainingOptions,
    check_batch_divisible,
    distributed_group,
    is_main_process,
    launch_training,
    parse_preset_args,
    progress,
    report_finished,
    run_task,
    seed_weights,
    training_lock,
    warn_without_test_split,
)
from model.data.augment import NO_AUGMENT, AugmentConfig
from model.data.pairs import PairDataset
from model.render.renderer import RendererConfig
from model.train.loop import TrainConfig
from model.train.renderer_task import RendererTask, RenderingLoss


@dataclass(frozen=True, kw_only=True)
class TrainRenderer(TrainingOptions):
    network: Annotated[RendererConfig, tyro.conf.arg(name="")] = field(
        default_factory=RendererConfig
    )
    loss: Annotated[RenderingLoss, tyro.conf.arg(name="")] = field(default_factory=RenderingLoss)
    crop: tuple[int, int] | None = None
    """Width and height of the part of each pair that a step learns from; without, the whole."""
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


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
        report_finished(
            "renderer",
            job.out,
            ["animate", "--motion", job.data[0], "--renderer", job.out, "--out", "film.mp4"],
        )


def _run_training(job: TrainRenderer, show: ShowProgress) -> None:
    """The training, in one of its processes."""
    selections = job.open_datasets()
    statistics, augment = (
        job.load_statistics(selections),
        AugmentConfig() if job.augment else NO_AUGMENT,
    )
    training = PairDataset(selections, statistics, augment)
    test = PairDataset(selections, statistics, split="test")
    seed_weights(job.train)
    task = RendererTask(job.network, job.loss, test if len(test) else None, crop=job.crop)
    with distributed_group(job.train.device) as group, training_lock(job.out, group):
        check_batch_divisible(group, batch=job.train.batch)
        warn_without_test_split(selections)
        if job.network.imagenet is None and is_main_process():
            print_message(
                "without --imagenet the encoder begins at random, which learns more slowly and generalises less than from ImageNet's weights"
            )
        run_task(task, training, job.train, job.out, "renderer", show)


if __name__ == "__main__":
    main()
