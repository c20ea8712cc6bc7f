"""What the training commands share: their data, the processes that train together, and what a person sees of it."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed
import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.exits import tell
from model.augment import OFF, AugmentConfig
from model.batches import ExampleConfig, Examples, Order, Position, loader
from model.checkpoints import brief
from model.log import Progress as Logged
from model.training import Group, Task, TrainConfig, current_group, train
from pipeline import scales
from pipeline.normalize import Normalisation
from pipeline.selection import Selection, select
from schemas.statistics import SpectrumStatistics, decode

Job = TypeVar("Job")
Trained = TypeVar("Trained")


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is learnt from."""

    data: tuple[str, ...]
    """Folders of data sets, or DATASET:VIEW; several are taken together."""
    statistics: Path | None = None
    """File of scales by quiver report-statistics, of just these training shards; without it, the default ones are computed."""
    frequencies: int | None = None
    """K: only so many of the lowest frequencies; without it, all that the data sets have."""
    augment: bool = True
    """Flip, zoom, turn, crop and colour the training samples at random."""

    def __post_init__(self):
        if not self.data:
            raise ValueError("--data is empty, expected the folder of at least one data set")

    def selections(self) -> list[Selection]:
        return [select(text) for text in self.data]

    def scales(self, selections: Sequence[Selection]) -> SpectrumStatistics:
        """Raises ValueError where they are of other training shards."""
        if self.statistics is None:
            return scales.compute(selections)
        if not self.statistics.exists():
            raise ValueError(f"--statistics is {self.statistics}, which is not there")
        found = decode(self.statistics.read_bytes())
        scales.check_belongs(found, selections)
        return found

    def examples(
        self, selections: Sequence[Selection], statistics: SpectrumStatistics, normalisation: Normalisation, frequencies: int, *, one: bool
    ) -> tuple[Examples, Examples | None]:
        """Training samples, of one frequency each or of all; and test samples of all, if there are any."""
        config = ExampleConfig(frequencies=frequencies, one=one, normalisation=normalisation, augment=AugmentConfig() if self.augment else OFF)
        training = Examples(selections, statistics, config)
        test = Examples(selections, statistics, ExampleConfig(frequencies=frequencies, normalisation=normalisation), split="test")
        return training, test if len(test) else None


def parse(prog: str, presets: dict[str, tuple[str, Job]], args: Sequence[str] | None) -> Job:
    """The command line: a preset, then what differs from it."""
    args = sys.argv[1:] if args is None else list(args)
    if not args or (args[0] not in presets and args[0] not in ("-h", "--help")):
        raise ValueError(f"the preset is {args[0] if args else 'missing'}, expected first one of {', '.join(presets)}")
    return tyro.extras.overridable_config_cli(presets, prog=prog, args=args, config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes))


def seeded(config: TrainConfig) -> None:
    """Fresh weights that follow are drawn by the seed alone: the same on every rank and in every attempt."""
    torch.manual_seed(config.seed)


def speaks() -> bool:
    """Whether this process speaks for all that torchrun has started."""
    return os.environ.get("RANK", "0") == "0"


def told(found: tuple[Trained, list[str]]) -> Trained:
    """What was loaded, once a person was told of the torn checkpoints that were passed over."""
    for sentence in found[1] if speaks() else ():
        tell(sentence)
    return found[0]


@contextmanager
def together(device: str) -> Iterator[Group]:
    """The processes of torchrun, if this is one of them; else this one alone."""
    if "RANK" not in os.environ or torch.distributed.is_initialized():
        yield current_group()
        return
    torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        yield current_group()
    finally:
        torch.distributed.destroy_process_group()


def begin_with(network: torch.nn.Module, trained: torch.nn.Module, path: Path) -> None:
    """Raises ValueError where the trained network is another than this one."""
    try:
        network.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        raise ValueError(f"--start is {path}, whose network is another one: {brief(error)}") from error


def run(task: Task, examples: Examples, config: TrainConfig, out: Path, title: str) -> None:
    """Trains to the end, and shows how it goes."""
    group = current_group()
    order = Order(count=len(examples), seed=config.seed, global_batch=config.batch)

    def batches(position: Position) -> Iterator[tuple[Any, Position]]:
        pinned = config.device == "cuda"
        return loader(examples, order, position, rank=group.rank, world=group.world, workers=config.loader_workers, pinned=pinned)

    with shown(title, config.steps, quiet=group.rank > 0) as show:
        for logged in train(task, batches, config, out, tell):
            show(logged)


@contextmanager
def shown(title: str, steps: int, *, quiet: bool) -> Iterator[Callable[[Logged], None]]:
    """A live bar on a terminal, else one JSON line for each line of the log."""
    terminal = sys.stdout.isatty() and not quiet
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn())
    with Progress(*columns, disable=not terminal) as bar:
        number = bar.add_task("", total=steps, note="")

        def show(logged: Logged) -> None:
            known = {name: float(f"{value:.4g}") for name, value in logged.scalars.items()}
            bar.update(number, completed=logged.step, note=f"loss {known.get('loss', 0):.4g}, {known['samples_a_second']:.3g} samples/s")
            if not (terminal or quiet):
                print(json.dumps({"training": title, "step": logged.step, **known}), flush=True)

        yield show
