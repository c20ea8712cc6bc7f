"""What the training commands share: their data, the processes that train together, and what a
person sees of it.
"""

import fcntl
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
import torch.distributed
import tyro
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from torch.distributed.rendezvous import rendezvous

from jobs import cluster
from jobs.cli.args import HELP_FLAGS, run_parser
from jobs.cli.console import print_message, print_output
from jobs.cli.errors import ExitCode, exit_with
from model import checkpoints
from model.checkpoints import summarize_error
from model.data.augment import NO_AUGMENT, AugmentConfig
from model.data.loader import ShardDataset, load_batches
from model.data.order import EpochOrder, Position
from model.data.spectra import SpectrumConfig, SpectrumDataset
from model.train.log import LogEntry as Logged
from model.train.loop import (
    DistributedGroup,
    Task,
    TrainConfig,
    current_group,
    resolve_device,
    train,
)
from pipeline.dataset import scales
from pipeline.dataset.open import DatasetView, open_dataset
from pipeline.dataset.run_lock import FolderInUse
from pipeline.motion.normalize import Normalization
from pipeline.sizes import human_duration
from schemas.statistics import SpectrumStatistics, decode_statistics

Job = TypeVar("Job")
Trained = TypeVar("Trained")
ShowProgress = Callable[[str, TrainConfig, Logged, Path | None], None]
"""show(title, config, logged, kept): tells a person how far the training of that title has come,
and which checkpoint is the last.
"""
_PRESET_HELP = """A preset comes first: one name for a network, a number of steps and a batch that fit some hardware. Any option after it changes
a part of it; {prog} smoke --help names them all, with the preset's values."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What is learnt from, and by how many."""

    data: tuple[str, ...]
    """Folders of data sets, or DATASET:VIEW; several are taken together."""
    out: Path
    """Folder of the training: checkpoints and log; created, or gone on from."""
    statistics: Path | None = None
    """File of scales by quiver report-statistics, of just these training shards; without it, the
    default ones are computed.
    """
    frequencies: int | None = None
    """K: only so many of the lowest frequencies; without it, all that the data sets have."""
    slices: int = 1
    """At most so many frequencies of each sample are drawn in a step that learns one frequency at a
    time.
    """
    augment: bool = True
    """Flip, zoom, turn, crop and colour the training samples at random."""
    workers: int | None = None
    """Processes that train together, on Ray; each has a GPU where --device is cuda. Without it,
    this process alone, or those of torchrun.
    """

    def __post_init__(self):
        if not self.data:
            raise ValueError("--data is empty, expected the folder of at least one data set")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"--workers is {self.workers}, expected at least 1")
        if self.slices < 1:
            raise ValueError(f"--slices is {self.slices}, expected at least 1")

    def with_absolute_paths(self) -> Self:
        """Which mean the same in a process of another working folder."""
        paths = {
            field.name: value.absolute()
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Path)
        }
        return replace(self, data=tuple(os.path.abspath(text) for text in self.data), **paths)

    @property
    def checkpoint_folders(self) -> tuple[Path, ...]:
        """Where there may be checkpoints, those of the last stage first."""
        return (self.out,)

    def open_datasets(self) -> list[DatasetView]:
        return [open_dataset(text) for text in self.data]

    def load_statistics(self, selections: Sequence[DatasetView]) -> SpectrumStatistics:
        """Raises ValueError where they are of other training shards."""
        if self.statistics is None:
            return scales.compute_statistics(selections)
        if not self.statistics.exists():
            raise ValueError(f"--statistics is {self.statistics}, which is not there")
        found = decode_statistics(self.statistics.read_bytes())
        scales.check_matches_shards(found, selections)
        return found

    def make_train_and_test(
        self,
        selections: Sequence[DatasetView],
        statistics: SpectrumStatistics,
        normalisation: Normalization,
        frequencies: int,
        *,
        all_of_them: bool = False,
    ) -> tuple[SpectrumDataset, SpectrumDataset | None]:
        """Training samples, of some frequencies each or of all; and test samples of all, if there
        are any.
        """
        drawn, augment = (
            None if all_of_them else self.slices,
            AugmentConfig() if self.augment else NO_AUGMENT,
        )
        training = SpectrumDataset(
            selections,
            statistics,
            SpectrumConfig(
                frequencies=frequencies, drawn=drawn, normalisation=normalisation, augment=augment
            ),
        )
        test = self.make_unaugmented(selections, statistics, normalisation, frequencies, "test")
        return training, test if len(test) else None

    def make_unaugmented(
        self,
        selections: Sequence[DatasetView],
        statistics: SpectrumStatistics,
        normalisation: Normalization,
        frequencies: int,
        split: str,
    ) -> SpectrumDataset:
        """Samples as they are, with all frequencies."""
        return SpectrumDataset(
            selections,
            statistics,
            SpectrumConfig(frequencies=frequencies, normalisation=normalisation),
            split=split,
        )


def parse_preset_args(
    prog: str, presets: dict[str, tuple[str, Job]], args: Sequence[str] | None, about: str | None
) -> Job:
    """The command line: a preset, with or without `--preset` before it, then what differs from it.
    `about` the job speaks --help.
    """

    def preset_and_more(args: list[str]) -> Job:
        option, _, named = args[0].partition("=") if args else ("", "", "")
        if option == "--preset":
            args = [*([named] if named else []), *args[1:]]
        if not args or args[0] not in {*presets, *HELP_FLAGS}:
            raise ValueError(
                f"the preset is {args[0] if args else 'missing'}, expected first one of {', '.join(presets)}"
            )
        style = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
        return tyro.extras.overridable_config_cli(
            presets,
            prog=prog,
            description=f"{about}\n{_PRESET_HELP.format(prog=prog)}",
            args=args,
            config=style,
        )

    return run_parser(prog, preset_and_more, args)


def launch_training(
    learn: Callable[[Any, ShowProgress], None],
    job: TrainingOptions,
    config: TrainConfig,
    show: ShowProgress,
) -> None:
    """Runs `learn(job, show)` here, or with --workers in processes on Ray. Interrupted, it
    says what is kept.
    """
    workers = job.workers
    try:
        if workers is None:
            resolve_device(config)
            learn(job, show)
        else:
            absolute = job.with_absolute_paths()
            cluster.train_distributed(
                partial(learn, absolute), show, workers, absolute.out, gpu=config.device == "cuda"
            )
    except KeyboardInterrupt:
        kept = [
            path
            for folder in job.checkpoint_folders
            for path in reversed(checkpoints.step_folders(folder))
        ]
        what = (
            f"{kept[0]} is kept, the same command resumes from there"
            if kept
            else "nothing is kept yet, the same command begins again"
        )
        if is_main_process():
            print_message(f"interrupted; {what}")
        raise SystemExit(ExitCode.INTERRUPTED) from None
    except cluster.TrainingDied as error:
        exit_with(ExitCode.FAILURE, f"{error}; the same command resumes from the last checkpoint")


def seed_weights(config: TrainConfig) -> None:
    """Fresh weights that follow are drawn by the seed alone: the same on every rank and in every
    attempt.
    """
    torch.manual_seed(config.seed)


def is_main_process() -> bool:
    """Whether this process speaks for all that train together: those that are connected already, or
    that torchrun is to connect.
    """
    if torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return os.environ.get("RANK", "0") == "0"


def report_skipped_checkpoints(found: tuple[Trained, list[str]]) -> Trained:
    """What was loaded, once a person was told of the torn checkpoints that were passed over."""
    for sentence in found[1] if is_main_process() else ():
        print_message(sentence)
    return found[0]


@contextmanager
def training_lock(out: Path, group: DistributedGroup) -> Iterator[None]:
    """One training in a folder, on one machine. Raises FolderInUse while another process trains
    there.
    """
    if group.rank:
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("a") as file:
        try:
            fcntl.lockf(
                file, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # a process's own: loader processes, forked later, do not have it
        except BlockingIOError:
            raise FolderInUse(f"another training is writing to {out}") from None
        yield


def check_batch_divisible(group: DistributedGroup, **batches: int) -> None:
    """Raises ValueError unless the processes can share each batch evenly."""
    for name, batch in batches.items():
        if batch % group.world_size:
            raise ValueError(
                f"--{name.replace('_', '-')} is {batch}, expected a multiple of the {group.world_size} processes"
            )


@contextmanager
def distributed_group(device: str) -> Iterator[DistributedGroup]:
    """The processes of torchrun, if this is one of them; else this one alone."""
    if "RANK" not in os.environ or torch.distributed.is_initialized():
        yield current_group()
        return
    store, rank, world = next(iter(rendezvous("env://")))
    # torchrun hands every attempt the same store, in which stand the addresses of the attempt
    # before, of processes that are dead
    store = torch.distributed.PrefixStore(
        f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store
    )  # pyright: ignore[reportPrivateImportUsage]
    torch.distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo", store=store, rank=rank, world_size=world
    )
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        yield current_group()
    finally:
        torch.distributed.destroy_process_group()


def load_matching_weights(network: torch.nn.Module, trained: torch.nn.Module, path: Path) -> None:
    """Raises ValueError where the trained network is another than this one."""
    ours, theirs = (
        getattr(getattr(one, "config", None), "prediction", None) for one in (network, trained)
    )
    if ours != theirs:
        raise ValueError(
            f"--start is {path}, whose network predicts the {theirs}, and --prediction is {ours}"
        )
    try:
        network.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"--start is {path}, whose network is another one: {summarize_error(error)}"
        ) from error


def run_task(
    task: Task,
    windows: ShardDataset,
    config: TrainConfig,
    out: Path,
    title: str,
    show: ShowProgress,
) -> None:
    """Trains to the end; its first process shows how it goes."""
    group = current_group()
    order = EpochOrder(count=len(windows), seed=config.seed, global_batch=config.batch)

    def batches(position: Position) -> Iterator[tuple[Any, Position]]:
        pinned = config.device == "cuda"
        return load_batches(
            windows,
            order,
            position,
            rank=group.rank,
            world=group.world_size,
            workers=config.loader_workers,
            pinned=pinned,
        )

    for logged in train(task, batches, config, out, print_message):
        if group.rank == 0:
            show(title, config, logged, next(reversed(checkpoints.step_folders(out)), None))


@contextmanager
def progress() -> Iterator[ShowProgress]:
    """A live bar for each training on a terminal, else one sentence for each line of the log."""
    terminal = sys.stdout.isatty() and is_main_process()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(10),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not terminal) as bar:
        bars: dict[str, TaskID] = {}

        def show(title: str, config: TrainConfig, logged: Logged, kept: Path | None) -> None:
            if title not in bars:
                bars[title] = bar.add_task(title, total=config.steps, note="")
            bar.update(
                bars[title],
                completed=logged.step,
                note=f"loss {logged.scalars['loss']:.4g}" + (f", kept {kept.name}" if kept else ""),
            )
            if not terminal:
                print_output(
                    f"{title}: {_format_progress(config, logged)}"
                    + (f", kept {kept}" if kept else "")
                )

        yield show


def _format_progress(config: TrainConfig, logged: Logged) -> str:
    """How far a training is; its log has more."""
    rate = logged.scalars["samples_a_second"]
    left = human_duration((config.steps - logged.step) * config.batch / rate)
    measured = [
        f"{name} {value:.4g}"
        for name, value in logged.scalars.items()
        if name == "loss" or name.startswith("test_")
    ]
    return f"step {logged.step} of {config.steps}, about {left} left, {', '.join(measured)}, {rate:.3g} samples/s"


def warn_without_test_split(selections: Sequence[DatasetView]) -> None:
    """Says so where there are no test samples."""
    if is_main_process() and not any(
        entry.split == "test" and entry.kept
        for one in selections
        for entry in one.read_index().shards.values()
    ):
        print_message(
            "the data has no test split: nothing is held out, and no measure on held-out samples will be shown"
        )


def report_finished(what: str, out: Path, following: Sequence[object]) -> None:
    """Says where the trained network is, and the command that uses it."""
    if is_main_process():
        print_output(
            f"{what}: {checkpoints.step_folders(out)[-1]}\nnext: quiver {shlex.join(map(str, following))}"
        )
