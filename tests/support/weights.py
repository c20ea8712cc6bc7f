"""Checkpoints whose weights somebody has changed, and sealed again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from model.checkpoints import DIGESTS, newest, sync


def with_weights(training: Path, out: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """A copy of a training's newest checkpoint, in which every tensor of numbers of a state is another."""
    shutil.copytree(newest(training)[0].folder, out)
    path = out / f"{name}.safetensors"
    save_file({key: change(tensor) if tensor.is_floating_point() else tensor for key, tensor in load_file(path).items()}, path)
    digests = json.loads((out / DIGESTS).read_bytes())
    (out / DIGESTS).write_text(json.dumps(digests | {path.name: sync(path)}))
    return out


def with_one(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Of each tensor the last number is this."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[-1:] = value
        return tensor

    return change


def enlarged(tensor: torch.Tensor) -> torch.Tensor:
    """Finite weights whose sums are not."""
    return tensor.clamp(-1, 1) * 1e30


BROKEN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"nan": with_one(float("nan")), "inf": with_one(float("inf")), "huge": enlarged}
