"""Checkpoints with changed weights and digests that match them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from model.checkpoints import DIGESTS_FILE, load_checkpoint, sync_and_hash


def copy_with_weights(
    training: Path, out: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> Path:
    """Copies a training's newest checkpoint, and changes every floating-point tensor of a state."""
    shutil.copytree(load_checkpoint(training).folder, out)
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
    """Returns a change that sets the last number of a tensor."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[-1:] = value
        return tensor

    return change


def enlarge_weights(tensor: torch.Tensor) -> torch.Tensor:
    """Returns finite weights whose sums overflow."""
    return tensor.clamp(-1, 1) * 1e30


BROKEN_WEIGHTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nan": set_last_weight(float("nan")),
    "inf": set_last_weight(float("inf")),
    "huge": enlarge_weights,
}
