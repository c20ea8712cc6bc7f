"""One training loop, for every network of this folder: in one process, under torchrun, or under Ray
Train.

What is trained, and its loss, is a `Task`; the loop has the order of the samples, the optimiser,
the average of the weights, mixed precision, checkpoints, and the log. Randomness of a step is a
function of the seed, the step and the rank, so that a training that goes on from a checkpoint takes
the steps that it would have taken.

    OUT/log.jsonl, OUT/events.*    what rank 0 writes down (log.py)
    OUT/step-*/                    checkpoints (checkpoints.py)
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from model import checkpoints
from model.data.order import Position
from model.train.log import Log, LogEntry


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    steps: int = 1000
    """Optimiser steps of the whole training."""
    batch: int = 8
    """Samples a step, over all processes."""
    learning_rate: float = 5e-5
    warm_up: int = 100
    """Steps over which the learning rate grows from 0."""
    decay: float = 0.0
    """Share of the steps, at the end, over which the learning rate falls back to 0."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.999
    """How much of the averaged weights each step keeps."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the networks' activations."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Where the networks run; nothing falls back to the CPU by itself."""
    seed: int = 0
    """Of the order of the samples, and of everything that is drawn by chance."""
    loader_workers: int = 2
    """Processes, of each rank, that read samples ahead."""
    save_every: int = 1000
    """Steps between checkpoints."""
    keep: int = 3
    """Checkpoints that are kept."""
    log_every: int = 10
    """Steps between lines of the log."""
    picture_every: int = 1000
    """Steps between measurements on the test split, and pictures."""

    def __post_init__(self):
        for name in ("steps", "batch", "save_every", "keep", "log_every", "picture_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name, low, high in (("learning_rate", 0, 1), ("ema", 0, 1)):
            if not low < getattr(self, name) < high:
                raise ValueError(
                    f"{name} is {getattr(self, name):g}, expected between {low} and {high}"
                )
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay is {self.decay:g}, expected 0 to 1")
        if not self.clip > 0 or self.warm_up < 0 or self.loader_workers < 0:
            raise ValueError(
                "clip, warm_up and loader_workers are expected to be positive, at least 0, and at least 0"
            )


@runtime_checkable
class Task(Protocol):
    """What is trained."""

    @property
    def network(self) -> nn.Module:
        """Its parameters that want a gradient are trained, and averaged."""
        ...

    def loss(
        self, network: nn.Module, batch: Any, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch by `network`, which is this task's or a wrapping of it, and scalars
        for the log.
        """
        ...

    def keys(self, batch: Any) -> list[str]:
        """Names of the batch's samples."""
        ...

    def config(self) -> dict[str, Any]:
        """What a checkpoint says of the network, enough to make it again and to use it."""
        ...

    def constant_states(self) -> dict[str, dict[str, Tensor]]:
        """Weights that are not trained, and go with a checkpoint, by name."""
        ...

    def evaluate(
        self, network: Any, device: torch.device
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Scalars on the test split, and pictures [3, H, W] in 0 to 1, by averaged weights."""
        ...

    def finalize_weights(self, network: Any, device: torch.device) -> None:
        """What is done to the averaged weights before they are saved."""
        ...


class TrainingDiverged(ValueError):
    """The loss is no number any more."""


class DistributedGroup(NamedTuple):
    """The processes that train together."""

    rank: int = 0
    world_size: int = 1


def current_group() -> DistributedGroup:
    """As torch.distributed has it; one process where it was not begun."""
    if not torch.distributed.is_initialized():
        return DistributedGroup()
    return DistributedGroup(torch.distributed.get_rank(), torch.distributed.get_world_size())


def resolve_device(config: TrainConfig) -> torch.device:
    """Raises ValueError where a GPU is asked for and there is none."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device is cuda and there is no GPU that torch can use, expected --device cpu here"
        )
    return (
        torch.device("cuda", torch.cuda.current_device())
        if config.device == "cuda"
        else torch.device("cpu")
    )


def train(
    task: Task,
    batches: Callable[[Position], Iterator[tuple[Any, Position]]],
    config: TrainConfig,
    out: Path,
    tell: Callable[[str], None] = warnings.warn,
) -> Iterator[LogEntry]:
    """Trains to the last step, from the newest whole checkpoint in `out` if there is one; yields
    what it logs.

    `batches` gives the batches of this rank from a position on, each with the position
    after it. Rank 0 will `tell` of each torn checkpoint that is passed over. Raises Diverged,
    naming the samples, where the loss is not finite; ValueError where `out` holds the checkpoint of
    another training, or none that is whole; OSError, naming the file, where one cannot be written.
    """
    state = _State(task, config, resolve_device(config), current_group())
    position = state.resume(out, tell)
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


class _State:
    """Networks, optimiser and average, on this rank."""

    def __init__(
        self, task: Task, config: TrainConfig, device: torch.device, group: DistributedGroup
    ):
        self.task, self.config, self.device, self.group, self.step = task, config, device, group, 0
        self.network = task.network.to(device)
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
        """One optimiser step; returns scalars, still on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * _learning_rate_factor(step, self.config)
        generator = torch.Generator().manual_seed(
            _combine_seed(self.config.seed, step, self.group.rank)
        )
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"
        ):
            loss, scalars = self.task.loss(
                self.ddp_network, to_device(batch, self.device), generator
            )
        if not torch.isfinite(loss):
            raise TrainingDiverged(
                f"the loss is {loss.item()} at step {step}, on the samples {', '.join(self.task.keys(batch))}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trainable_parameters, self.config.clip)
        if not torch.isfinite(norm):
            raise TrainingDiverged(
                f"the gradient is {norm.item()} at step {step}, on the samples {', '.join(self.task.keys(batch))}"
            )
        self.optimizer.step()
        self.ema_model.update_parameters(self.network)
        self.step = step + 1
        return {"loss": loss.detach(), "gradient": norm.detach()} | {
            name: value.detach() for name, value in scalars.items()
        }

    @torch.no_grad()
    def evaluate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """By the averaged weights; on rank 0 alone."""
        if self.group.rank:
            return {}, {}
        average: nn.Module = self.ema_model.module
        average.eval()
        return self.task.evaluate(average, self.device)

    def save(self, out: Path, position: Position) -> None:
        """A checkpoint, by rank 0."""
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
            config = self.task.config() | {"training": asdict(self.config), "step": self.step}
            checkpoints.write(out, self.step, config, states, training, self.config.keep)
        if self.group.world_size > 1:
            torch.distributed.barrier()

    def resume(self, out: Path, tell: Callable[[str], None]) -> Position:
        """From the newest whole checkpoint, if there is one: where the samples go on."""
        if not checkpoints.step_folders(out):
            return Position()
        found, passed = checkpoints.read_newest(out)
        for sentence in passed if self.group.rank == 0 else ():
            tell(sentence)
        _check_same_training(found.config, self.task.config(), self.config, out)
        for name, state in self.task.constant_states().items():
            if not checkpoints.weights_equal(found.load_weights(name), state):
                raise ValueError(
                    f"{out} holds checkpoints of a training with another {name}, expected the same one or another --out"
                )
        return self.restore(found)

    def restore(self, found: checkpoints.Checkpoint) -> Position:
        """Raises ValueError where a file of the checkpoint does not hold what this training would
        have written.
        """
        training, network, average = (
            found.load_training_state(),
            found.load_weights("network"),
            found.load_weights("ema"),
        )
        try:
            self.network.load_state_dict(network)
            self.ema_model.module.load_state_dict(average)
            self.ema_model.n_averaged.fill_(training["averaged"])
            self.optimizer.load_state_dict(training["optimiser"])
            position = Position(
                int(training["position"]["epoch"]), int(training["position"]["consumed"])
            )
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{found.folder} does not hold the state of this training: {checkpoints.summarize_error(error)}"
            ) from error
        self.step = found.config["step"]
        if self.step > self.config.steps:
            raise ValueError(
                f"steps are {self.config.steps}, and the training in {found.folder.parent} has come to step {self.step}, expected at least as many"
            )
        return position


def _check_same_training(
    found: Mapping[str, Any], task: Mapping[str, Any], config: TrainConfig, out: Path
) -> None:
    """Raises ValueError naming what differs between a checkpoint and the training that would go on
    from it.

    How long it runs, how often it saves and logs, and where it runs may differ.
    """
    free = {
        *(() if config.decay else ("steps",)),
        "save_every",
        "keep",
        "log_every",
        "picture_every",
        "device",
        "loader_workers",
        "precision",
    }
    now = json.loads(json.dumps(dict(task))) | {
        name: value for name, value in asdict(config).items() if name not in free
    }
    then = {
        name: value for name, value in found.items() if name not in ("format", "step", "training")
    }
    then |= {
        name: value for name, value in dict(found.get("training", {})).items() if name not in free
    }
    different = [
        name for name in sorted(now.keys() | then.keys()) if now.get(name) != then.get(name)
    ]
    if different:
        raise ValueError(
            f"{out} holds checkpoints of another training ({', '.join(different)} differ), expected the same settings or another --out"
        )


def _learning_rate_factor(step: int, config: TrainConfig) -> float:
    """The learning rate of a step, as a share of the highest: a rise, a plateau, a fall."""
    rise, fall = (
        (step + 1) / max(1, config.warm_up),
        (config.steps - step) / max(1.0, config.decay * config.steps),
    )
    return min(1.0, rise, fall)


def _combine_seed(*numbers: int) -> int:
    """One seed of several numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number) % (1 << 63)
    return seed


def to_device(batch: Any, device: torch.device) -> Any:
    """The tensors of a batch on the device, whatever else is in it as it is."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(part, device) for part in batch))
    return batch
