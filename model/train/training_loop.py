"""The training loop of every network here: READ THIS FIRST of model/train.

It runs in one process, under torchrun, or under Ray Train. A `Task` is what is trained, and its
loss; the loop has the order of the samples, the optimizer, the averaged weights, mixed precision,
checkpoints, and the log. What is random in a step is a function of the seed, the step and the rank,
so that a training resumed from a checkpoint takes the steps that it would have taken.

    OUT/log.jsonl, OUT/events.*    the log, written by rank 0 (log.py)
    OUT/step-*/                    checkpoints (model/checkpoints.py)
"""

import json
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from model import checkpoints
from model.checkpoints import Checkpoint, load_checkpoint, summarize_error
from model.data.loader import ShardDataset, load_batches
from model.data.order import EpochOrder, Position
from model.device import check_device
from model.train.distributed import DistributedGroup, current_group, wait_for_others
from model.train.log import Log, LogEntry


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a network is trained. Raises ValueError if a value is out of range."""

    steps: int = 1000
    """Optimizer steps of the complete training."""
    batch: int = 8
    """Samples a step, over all processes."""
    accumulate: int = 1
    """Parts of a batch whose gradients are added up one after the other, for a GPU that cannot hold
    the complete batch; divides the samples of each process.
    """
    checkpoint_activations: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a
    third more time.
    """
    mix: tuple[str, ...] = ()
    """NAME=WEIGHT for each dataset, by the name of its folder: its share in every batch; without
    it, as many samples of each as it has.
    """
    windows_per_scene: int | None = None
    """At most so many windows of a scene (the clips of one source) are drawn in an epoch, others in
    each; without it, all.
    """
    learning_rate: float = 5e-5
    warm_up: int = 100
    """Steps over which the learning rate rises from 0."""
    decay: float = 0.0
    """Share of the steps, at the end, over which the learning rate falls back to 0."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.999
    """Share of the averaged weights that each step keeps."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the networks' activations."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Where the networks run; nothing falls back to the CPU by itself."""
    seed: int = 0
    """Seed of the order of the samples and of everything else that is random."""
    loader_workers: int = 2
    """Processes of each rank that read samples ahead."""
    save_every: int = 1000
    """Steps between checkpoints."""
    keep: int = 3
    """Checkpoints that are kept."""
    log_every: int = 10
    """Steps between lines of the log."""
    picture_every: int = 1000
    """Steps between evaluations on the test split, with images."""

    def __post_init__(self):
        for name in (
            "steps",
            "batch",
            "accumulate",
            "save_every",
            "keep",
            "log_every",
            "picture_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("learning_rate", "ema"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name):g}, expected between 0 and 1")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay is {self.decay:g}, expected 0 to 1")
        if not self.clip > 0 or self.warm_up < 0 or self.loader_workers < 0:
            raise ValueError(
                "clip, warm_up and loader_workers are expected to be positive, at least 0, and at "
                "least 0"
            )


@runtime_checkable
class Task(Protocol):
    """A network and how it is trained."""

    @property
    def network(self) -> nn.Module:
        """The network; those of its parameters that require a gradient are trained."""
        ...

    def loss(
        self, network: nn.Module, batch: Any, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and scalars for the log; `network` is this task's, or a wrapper of
        it.
        """
        ...

    def keys(self, batch: Any) -> list[str]:
        """The keys of the batch's samples."""
        ...

    def config(self) -> dict[str, Any]:
        """What a checkpoint says about the network: enough to build it again and to use it."""
        ...

    def constant_states(self) -> dict[str, dict[str, Tensor]]:
        """Weights, by name, that are not trained and are saved with every checkpoint."""
        ...

    def evaluate(
        self, network: Any, device: torch.device
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Scalars on the test split, and images [3, H, W] in 0 .. 1; `network` has the averaged
        weights.
        """
        ...

    def finalize_weights(self, network: Any, device: torch.device) -> None:
        """Changes the averaged weights before they are saved."""
        ...


class TrainingDiverged(ValueError):
    """The loss or its gradient is not finite."""


def train_on_shards(
    task: Task,
    dataset: ShardDataset,
    config: TrainConfig,
    out: Path,
    warn: Callable[[str], object] = warnings.warn,
    earlier_scenes: Collection[str] = (),
) -> Iterator[LogEntry]:
    """Runs `train` on the samples of a dataset, of which this rank reads its part. What the network
    begins with was trained on `earlier_scenes`.
    """
    group = current_group()
    mixture = dataset.mixture(config.mix, config.windows_per_scene)
    order = EpochOrder(
        count=len(dataset), seed=config.seed, global_batch=config.batch, mixture=mixture
    )

    def batches(position: Position) -> Iterator[tuple[Any, Position]]:
        return load_batches(
            dataset,
            order,
            position,
            rank=group.rank,
            world=group.world_size,
            workers=config.loader_workers,
            pinned=config.device == "cuda",
        )

    scenes = {*dataset.scenes(), *earlier_scenes}
    yield from train(task, batches, config, out, warn, scenes)


def train(
    task: Task,
    batches: Callable[[Position], Iterator[tuple[Any, Position]]],
    config: TrainConfig,
    out: Path,
    warn: Callable[[str], object] = warnings.warn,
    scenes: Collection[str] = (),
) -> Iterator[LogEntry]:
    """Trains to the last step, from the newest complete checkpoint in `out` if there is one; yields
    what it logs.

    `batches` gives the batches of this rank from a position on, each with the position after it.
    Checkpoints name the `scenes` that are trained on, so that a network is measured on others.
    Rank 0 calls `warn` with a sentence for each damaged checkpoint that is skipped. Raises
    TrainingDiverged, naming the samples, if the loss is not finite; ValueError if `out` holds the
    checkpoints of another training, or only damaged ones; OSError, naming the file, if one cannot
    be written.
    """
    state = _State(task, config, resolve_device(config), current_group(), scenes)
    position = state.resume(out, warn)
    log = Log(out, batch=config.batch, step=state.step, quiet=state.group.rank > 0)
    stream = batches(position)
    for step in range(state.step, config.steps):
        with log.time_data_wait():
            batch, position = next(stream)
        log.add(state.run_step(step, batch))
        last = step + 1 == config.steps
        with log.exclude_time():
            if (step + 1) % config.picture_every == 0 or last:
                log.record_evaluation(step + 1, *state.evaluate())
        if (step + 1) % config.log_every == 0 or last:
            yield log.write_entry(step + 1)
        with log.exclude_time():
            if (step + 1) % config.save_every == 0 or last:
                state.save(out, position)


def resolve_device(config: TrainConfig) -> torch.device:
    """The device of this rank. Raises ValueError if that is a GPU and there is none."""
    check_device(config.device)
    if config.device == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


class _State:
    """The network, its optimizer and its averaged weights, on this rank."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        device: torch.device,
        group: DistributedGroup,
        scenes: Collection[str],
    ):
        self.task, self.config, self.device, self.group, self.step = task, config, device, group, 0
        self.scenes = frozenset(scenes)
        self.network = task.network.to(device)
        if config.checkpoint_activations:
            keep_fewer_activations(self.network)
        self.ema_model = AveragedModel(
            self.network, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=False
        )
        self.trainable_parameters = [
            parameter for parameter in self.network.parameters() if parameter.requires_grad
        ]
        self.optimizer = torch.optim.Adam(self.trainable_parameters, lr=config.learning_rate)
        self.ddp_network = (
            DistributedDataParallel(self.network) if group.world_size > 1 else self.network
        )

    def run_step(self, step: int, batch: Any) -> dict[str, Tensor]:
        """Takes one optimizer step; returns scalars, which are still on the device."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * _learning_rate_factor(step, config)
        seed = _combine_seed(config.seed, step, self.group.rank)
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # for dropout, which draws from the global generator
        bfloat16 = config.precision == "bfloat16"
        self.optimizer.zero_grad(set_to_none=True)
        means: dict[str, Tensor] = {}
        parts = split_batch(batch, config.accumulate)
        for number, part in enumerate(parts):
            with (
                self._sync_gradients(number + 1 == len(parts)),
                torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16),
            ):
                loss, scalars = self.task.loss(
                    self.ddp_network, to_device(part, self.device), generator
                )
                self._check_finite("loss", loss, step, part)
                with torch.autocast(self.device.type, enabled=False):
                    (loss / len(parts)).backward()
            for name, value in ({"loss": loss} | scalars).items():
                means[name] = means.get(name, 0) + value.detach() / len(parts)
        norm = nn.utils.clip_grad_norm_(self.trainable_parameters, config.clip)
        self._check_finite("gradient", norm, step, batch)
        self.optimizer.step()
        self.ema_model.update_parameters(self.network)
        self.step = step + 1
        return means | {"gradient": norm.detach()}

    def _sync_gradients(self, wanted: bool) -> AbstractContextManager[object]:
        """Leaves gradients where they are, unless `wanted`: of several parts of a batch only the
        last needs those of the other ranks.
        """
        if wanted or not isinstance(self.ddp_network, DistributedDataParallel):
            return nullcontext()
        return self.ddp_network.no_sync()

    def _check_finite(self, name: str, value: Tensor, step: int, batch: Any) -> None:
        if not torch.isfinite(value):
            keys = ", ".join(self.task.keys(batch))
            raise TrainingDiverged(
                f"the {name} is {value.item()} at step {step}, on the samples {keys}"
            )

    @torch.no_grad()
    def evaluate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The scalars and images of the averaged weights, on rank 0 only."""
        if self.group.rank:
            return {}, {}
        average: nn.Module = self.ema_model.module
        average.eval()
        return self.task.evaluate(average, self.device)

    def save(self, out: Path, position: Position) -> None:
        """Writes a checkpoint on rank 0, while the others wait."""
        if self.group.rank == 0:
            with torch.no_grad():
                self.task.finalize_weights(self.ema_model.module.eval(), self.device)
            states = {
                "network": self.network.state_dict(),
                "ema": self.ema_model.module.state_dict(),
            } | self.task.constant_states()
            training = {
                "optimiser": self.optimizer.state_dict(),
                "averaged": int(self.ema_model.n_averaged),
                "position": asdict(position),
            }
            config = self.task.config() | {
                "training": asdict(self.config),
                "step": self.step,
                "scenes": sorted(self.scenes),
            }
            checkpoints.write(out, self.step, config, states, training, self.config.keep)
        wait_for_others()

    def resume(self, out: Path, warn: Callable[[str], object]) -> Position:
        """Restores the newest complete checkpoint, if there is any; returns where the samples go
        on. Raises ValueError if it is that of another training.
        """
        if not checkpoints.step_folders(out):
            return Position()
        is_main = self.group.rank == 0
        checkpoint = load_checkpoint(out, warn=warn if is_main else lambda _: None)
        _check_same_training(checkpoint.config, self.task.config(), self.config, out)
        for name, weights in self.task.constant_states().items():
            if not checkpoints.weights_equal(checkpoint.load_weights(name), weights):
                raise ValueError(
                    f"{out} holds checkpoints of a training with another {name}, expected the same "
                    "one or another --out"
                )
        return self._restore(checkpoint)

    def _restore(self, checkpoint: Checkpoint) -> Position:
        """Raises ValueError if a file of the checkpoint does not hold what this training writes, or
        if the checkpoint is past its last step.
        """
        training = checkpoint.load_training_state()
        network, average = checkpoint.load_weights("network"), checkpoint.load_weights("ema")
        try:
            self.network.load_state_dict(network)
            self.ema_model.module.load_state_dict(average)
            self.ema_model.n_averaged.fill_(training["averaged"])
            self.optimizer.load_state_dict(training["optimiser"])
            epoch, consumed = (int(training["position"][name]) for name in ("epoch", "consumed"))
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{checkpoint.folder} does not hold the state of this training: "
                f"{summarize_error(error)}"
            ) from error
        self.step = checkpoint.step
        self.scenes |= checkpoint.scenes  # what it began with is not read again
        if self.step > self.config.steps:
            raise ValueError(
                f"steps are {self.config.steps}, and the training in {checkpoint.folder.parent} "
                f"has come to step {self.step}, expected at least as many"
            )
        return Position(epoch, consumed)


def _check_same_training(
    saved: Mapping[str, Any], task: Mapping[str, Any], config: TrainConfig, out: Path
) -> None:
    """Raises ValueError naming what differs between the configuration of a checkpoint and that of
    the training that would resume it.

    How long it runs, how often it saves and logs, and where it runs may differ.
    """
    may_differ = {
        *(() if config.decay else ("steps",)),
        "accumulate",
        "checkpoint_activations",
        "save_every",
        "keep",
        "log_every",
        "picture_every",
        "device",
        "loader_workers",
        "precision",
    }

    def compared(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if name not in may_differ}

    # through JSON like the checkpoint, which turns tuples into lists
    current = json.loads(json.dumps(dict(task) | compared(asdict(config))))
    earlier = {
        name: value
        for name, value in saved.items()
        if name not in ("format", "step", "training", "scenes")
    } | compared(json.loads(json.dumps(asdict(TrainConfig()))) | dict(saved.get("training", {})))
    different = [
        name
        for name in sorted(current.keys() | earlier.keys())
        if _with_newer(earlier.get(name), current.get(name)) != current.get(name)
    ]
    if different:
        raise ValueError(
            f"{out} holds checkpoints of another training ({', '.join(different)} differ), "
            "expected the same settings or another --out"
        )


def _with_newer(saved: Any, current: Any) -> Any:
    """Saved settings of a network, with those that did not exist when they were saved: their
    defaults do what was done then, and if they are not, the weights do not fit.
    """
    if isinstance(saved, dict) and isinstance(current, dict):
        return {name: value for name, value in current.items() if name not in saved} | saved
    return saved


def _learning_rate_factor(step: int, config: TrainConfig) -> float:
    """The share of the full learning rate at a step: a linear rise, a plateau, a linear fall."""
    rise = (step + 1) / max(1, config.warm_up)
    fall = (config.steps - step) / max(1.0, config.decay * config.steps)
    return min(1.0, rise, fall)


def _combine_seed(*numbers: int) -> int:
    """One seed made of several numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number) % (1 << 63)
    return seed


def split_batch(batch: Any, parts: int) -> list[Any]:
    """A named tuple of tensors and tuples with an entry for each sample, in equal parts. Raises
    ValueError if the samples cannot be divided so.
    """
    if parts == 1:
        return [batch]
    count = len(batch[0])
    if count % parts:
        raise ValueError(
            f"accumulate is {parts}, expected a divisor of the {count} samples of a process"
        )
    size = count // parts
    return [type(batch)(*(field[i : i + size] for field in batch)) for i in range(0, count, size)]


def keep_fewer_activations(network: nn.Module) -> None:
    """Makes every part of a network that can do so compute its activations again in the backward
    pass. Raises ValueError if there is none.
    """
    parts = [part for part in network.modules() if hasattr(part, "enable_gradient_checkpointing")]
    if not parts:
        raise ValueError(
            "checkpoint_activations is on, and the network keeps all of its activations"
        )
    for part in parts:
        cast(Any, part).enable_gradient_checkpointing()


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on the device; anything else in it stays as it is."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(part, device) for part in batch))
    return batch
