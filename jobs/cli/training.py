"""What the training verbs share: the options of their data, presets, starting the processes, and
what they print.
"""

import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import tyro
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from jobs import cluster
from jobs.cli.args import HELP_FLAGS, run_parser
from jobs.cli.console import print_message, print_output
from jobs.cli.errors import ExitCode, exit_with
from model.checkpoints import step_folders
from model.data.augment import NO_AUGMENT, AugmentConfig
from model.data.loader import ShardDataset
from model.data.spectra import SpectrumConfig, SpectrumDataset
from model.device import check_device
from model.train.distributed import is_main_process
from model.train.log import LogEntry
from model.train.training_loop import Task, TrainConfig, train_on_shards
from pipeline.dataset import scales
from pipeline.dataset.open import DatasetView, open_dataset
from pipeline.motion.normalize import Normalization
from pipeline.sizes import human_duration
from schemas.statistics import SpectrumStatistics, decode_statistics

Job = TypeVar("Job")
ShowProgress = Callable[[str, TrainConfig, LogEntry, Path | None], None]
"""show(title, config, entry, checkpoint): prints how far the training of that title has come, and
which checkpoint is its last.
"""
_PRESET_HELP = (
    "A preset comes first: one name for a network, a number of steps and a batch that fit some "
    "hardware. Options after it\nchange parts of it; {prog} smoke --help lists them all, with the "
    "preset's values."
)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The data of a training, its folder, and its processes."""

    data: tuple[str, ...]
    """Folders of datasets, or DATASET:VIEW; several are trained on together."""
    out: Path
    """Folder of the training, for checkpoints and log; created if missing, resumed otherwise."""
    statistics: Path | None = None
    """File of scales written by quiver report-statistics for exactly these training shards; without
    it, the default scales are computed.
    """
    frequencies: int | None = None
    """K: only that many of the lowest frequencies; without it, all that the datasets have."""
    slices: int = 1
    """At most that many frequencies of each sample are drawn in a step that learns one frequency at
    a time.
    """
    augment: bool = True
    """Mirror, zoom, rotate, crop and recolor the training samples at random."""
    workers: int | None = None
    """Processes that train together, on Ray; each has a GPU if --device is cuda. Without it, this
    process alone, or those of torchrun.
    """

    def __post_init__(self):
        if not self.data:
            raise ValueError("--data is empty, expected the folder of at least one dataset")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"--workers is {self.workers}, expected at least 1")
        if self.slices < 1:
            raise ValueError(f"--slices is {self.slices}, expected at least 1")

    def with_absolute_paths(self) -> Self:
        """A copy that means the same in a process with another working directory."""
        paths = {
            field.name: value.absolute()
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Path)
        }
        return replace(self, data=tuple(os.path.abspath(text) for text in self.data), **paths)

    @property
    def checkpoint_folders(self) -> tuple[Path, ...]:
        """The folders that checkpoints are written to, that of the last stage first."""
        return (self.out,)

    def open_datasets(self) -> list[DatasetView]:
        """The datasets or views of --data."""
        return [open_dataset(text) for text in self.data]

    def load_statistics(self, views: Sequence[DatasetView]) -> SpectrumStatistics:
        """The scales of --statistics, or computed ones. Raises ValueError if they are those of
        other training shards.
        """
        if self.statistics is None:
            return scales.compute_statistics(views)
        if not self.statistics.exists():
            raise ValueError(f"--statistics is {self.statistics}, which is missing")
        statistics = decode_statistics(self.statistics.read_bytes())
        scales.check_matches_shards(statistics, views)
        return statistics

    def make_train_and_test(
        self,
        views: Sequence[DatasetView],
        statistics: SpectrumStatistics,
        normalisation: Normalization,
        frequencies: int,
        *,
        all_frequencies: bool = False,
    ) -> tuple[SpectrumDataset, SpectrumDataset | None]:
        """Training samples, of --slices frequencies each or of all; and test samples of all
        frequencies, if there are any.
        """
        config = SpectrumConfig(
            frequencies=frequencies,
            drawn=None if all_frequencies else self.slices,
            normalisation=normalisation,
            augment=AugmentConfig() if self.augment else NO_AUGMENT,
        )
        test_set = self.make_unaugmented(views, statistics, normalisation, frequencies, "test")
        return SpectrumDataset(views, statistics, config), test_set if len(test_set) else None

    def make_unaugmented(
        self,
        views: Sequence[DatasetView],
        statistics: SpectrumStatistics,
        normalisation: Normalization,
        frequencies: int,
        split: str,
    ) -> SpectrumDataset:
        """The samples of a split as they are stored, with all frequencies."""
        config = SpectrumConfig(frequencies=frequencies, normalisation=normalisation)
        return SpectrumDataset(views, statistics, config, split=split)


def parse_preset_args(
    prog: str,
    presets: dict[str, tuple[str, Job]],
    args: Sequence[str] | None,
    description: str | None,
) -> Job:
    """Parses a preset, with or without `--preset` before it, and the options that change it;
    `description` is shown by --help.
    """

    def parse(args: list[str]) -> Job:
        option, _, value = args[0].partition("=") if args else ("", "", "")
        if option == "--preset":
            args = [*([value] if value else []), *args[1:]]
        if not args or args[0] not in {*presets, *HELP_FLAGS}:
            raise ValueError(
                f"the preset is {args[0] if args else 'missing'}, "
                f"expected first one of {', '.join(presets)}"
            )
        return tyro.extras.overridable_config_cli(
            presets,
            prog=prog,
            description=f"{description}\n{_PRESET_HELP.format(prog=prog)}",
            args=args,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        )

    return run_parser(prog, parse, args)


def launch_training(
    run_training: Callable[[Any, ShowProgress], None],
    job: TrainingOptions,
    config: TrainConfig,
    show: ShowProgress,
) -> None:
    """Calls `run_training(job, show)` here, or with --workers in processes on Ray. On Ctrl-C it
    prints which checkpoint is kept.
    """
    workers = job.workers
    try:
        if workers is None:
            check_device(config.device)
            run_training(job, show)
        else:
            absolute, gpu = job.with_absolute_paths(), config.device == "cuda"
            function = partial(run_training, absolute)
            cluster.train_distributed(function, show, workers, absolute.out, gpu=gpu)
    except KeyboardInterrupt:
        if is_main_process():
            newest = next(
                (step_folders(out)[-1] for out in job.checkpoint_folders if step_folders(out)), None
            )
            print_message(
                f"interrupted; {newest} is kept, the same command resumes from there"
                if newest
                else "interrupted; nothing is kept yet, the same command starts over"
            )
        raise SystemExit(ExitCode.INTERRUPTED) from None
    except cluster.TrainingDied as error:
        exit_with(ExitCode.FAILURE, f"{error}; the same command resumes from the last checkpoint")


def warn_on_main_process(message: str) -> None:
    """Prints a message once, whatever the number of processes that train together."""
    if is_main_process():
        print_message(message)


def warn_without_test_split(views: Sequence[DatasetView]) -> None:
    """Prints a warning if there are no test samples."""
    if not any(
        entry.split == "test" and entry.kept
        for view in views
        for entry in view.read_index().shards.values()
    ):
        warn_on_main_process(
            "the data has no test split: nothing is held out, and no measure on held-out samples "
            "will be shown"
        )


def run_task(
    task: Task,
    dataset: ShardDataset,
    config: TrainConfig,
    out: Path,
    title: str,
    show: ShowProgress,
    earlier_scenes: Collection[str] = (),
) -> None:
    """Trains to the last step; the main process shows the progress."""
    for entry in train_on_shards(task, dataset, config, out, print_message, earlier_scenes):
        if is_main_process():
            show(title, config, entry, next(reversed(step_folders(out)), None))


@contextmanager
def progress() -> Iterator[ShowProgress]:
    """Shows each training as a live bar on a terminal, else as a line for each line of its log."""
    is_terminal = sys.stdout.isatty() and is_main_process()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(10),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not is_terminal) as bar:
        bars: dict[str, TaskID] = {}

        def show(title: str, config: TrainConfig, entry: LogEntry, checkpoint: Path | None) -> None:
            if title not in bars:
                bars[title] = bar.add_task(title, total=config.steps, note="")
            note = f"loss {entry.scalars['loss']:.4g}"
            note += f", kept {checkpoint.name}" if checkpoint else ""
            bar.update(bars[title], completed=entry.step, note=note)
            if not is_terminal:
                ending = f", kept {checkpoint}" if checkpoint else ""
                print_output(f"{title}: {_format_progress(config, entry)}{ending}")

        yield show


def _format_progress(config: TrainConfig, entry: LogEntry) -> str:
    """Step, time left, loss, test scalars and rate; the log has more."""
    rate = entry.scalars["samples_a_second"]
    left = human_duration((config.steps - entry.step) * config.batch / rate)
    scalars = ", ".join(
        f"{name} {value:.4g}"
        for name, value in entry.scalars.items()
        if name == "loss" or name.startswith("test_")
    )
    return (
        f"step {entry.step} of {config.steps}, about {left} left, {scalars}, {rate:.3g} samples/s"
    )


def report_finished(network: str, out: Path, next_command: Sequence[object]) -> None:
    """Prints where the trained network is, and the command that uses it."""
    if is_main_process():
        print_output(f"{network}: {step_folders(out)[-1]}")
        print_output(f"next: quiver {shlex.join(map(str, next_command))}")
