"""Checkpoints whose weights somebody has changed, and sealed again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from model.checkpoints import DIGESTS_FILE, read_newest, sync_and_hash


def copy_with_weights(
    training: Path, out: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> Path:
    """A copy of a training's newest checkpoint, in which every tensor of numbers of a state is
    another.
    """
    shutil.copytree(read_newest(training)[0].folder, out)
    path = out / f"{name}.safetensors"
    save_file(
        {
            key: change(tensor) if tensor.is_floating_point() else tensor
            for key, tensor in load_file(path).items()
        },
        path,
    )
    digests = json.loads((out / DIGESTS_FILE).read_bytes())
    (out / DIGESTS_FILE).write_text(json.dumps(digests | {path.name: sync_and_hash(path)}))
    return out


def set_last_weight(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Of each tensor the last number is this."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[-1:] = value
        return tensor

    return change


def enlarge_weights(tensor: torch.Tensor) -> torch.Tensor:
    """Finite weights whose sums are not."""
    return tensor.clamp(-1, 1) * 1e30


BROKEN_WEIGHTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nan": set_last_weight(float("nan")),
    "inf": set_last_weight(float("inf")),
    "huge": enlarge_weights,
}
