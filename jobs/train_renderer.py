#!/usr/bin/env python
"""Learns the renderer from a data set's shards: from each photograph and the flow to a later frame, that frame.

    quiver train-renderer smoke --data DATASET --out renderer

The same command again goes on from the last checkpoint. In one process, under torchrun, or with --workers on Ray.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs.cli.errors import sentences, tell
from jobs.cli.presets import RENDERER_CROPS, RENDERERS
from jobs.cli.training import (
    Data,
    Show,
    check_shares,
    finished,
    held,
    parse,
    run,
    seeded,
    shown,
    speaks,
    start,
    tell_what_is_not_held_out,
    together,
)
from model.data.augment import OFF, AugmentConfig
from model.render.renderer import RendererConfig
from model.train.loop import TrainConfig
from model.train.renderer_task import Pairs, RendererTask, RenderingLoss


@dataclass(frozen=True, kw_only=True)
class TrainRenderer(Data):
    network: Annotated[RendererConfig, tyro.conf.arg(name="")] = field(default_factory=RendererConfig)
    loss: Annotated[RenderingLoss, tyro.conf.arg(name="")] = field(default_factory=RenderingLoss)
    crop: tuple[int, int] | None = None
    """Width and height of the part of each pair that a step learns from; without, the whole."""
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


PRESETS = {
    name: (text, TrainRenderer(data=tyro.MISSING, out=tyro.MISSING, network=network, train=config, crop=RENDERER_CROPS.get(name)))
    for name, (text, network, config) in RENDERERS.items()
}


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with sentences():
        job = parse("quiver train-renderer", PRESETS, args, __doc__)
        with shown() as show:
            start(learn, job, job.train, show)
        finished("renderer", job.out, ["animate", "--motion", job.data[0], "--renderer", job.out, "--out", "film.mp4"])


def learn(job: TrainRenderer, show: Show) -> None:
    """The training, in one of its processes."""
    selections = job.selections()
    statistics, augment = job.scales(selections), AugmentConfig() if job.augment else OFF
    training = Pairs(selections, statistics, augment)
    test = Pairs(selections, statistics, split="test")
    seeded(job.train)
    task = RendererTask(job.network, job.loss, test if len(test) else None, crop=job.crop)
    with together(job.train.device) as group, held(job.out, group):
        check_shares(group, batch=job.train.batch)
        tell_what_is_not_held_out(selections)
        if job.network.imagenet is None and speaks():
            tell("without --imagenet the encoder begins at random, which learns more slowly and generalises less than from ImageNet's weights")
        run(task, training, job.train, job.out, "renderer", show)


if __name__ == "__main__":
    main()
