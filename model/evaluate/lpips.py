"""LPIPS, a distance of pictures by what a network sees in them (Zhang et al. 2018; docs/maths.md,
41), from two files of weights that the user names.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from model.backbones import AlexNet, load_torchvision_weights
from pipeline.flow.raft_weights import parse_weights, read_weights

_CHANNELS = (64, 192, 384, 256, 256)
"""Of AlexNet's features."""
_HEAD_KEY = "lin{}.model.1.weight"
"""Names in alex.pth of LPIPS's authors, version 0.1."""
_BATCH = 8
_MIN_SIDE_PX = 31
"""Pixels a side of which AlexNet's poolings leave one."""

_Pictures = Float[Tensor, "batch 3 height width"]
_FeatureFunction = Callable[[_Pictures], Sequence[Float[Tensor, "batch _ _ _"]]]


def lpips(
    made: _Pictures,
    true: _Pictures,
    features: _FeatureFunction,
    heads: Sequence[Float[Tensor, " _"]],
) -> Float[Tensor, " batch"]:
    """Of each pair of pictures, -1 to 1: 0 for equal ones, else more.

    `features` gives layers of features, of which each pixel is brought to length 1;
    `heads` weighs the squares of their differences, channel by channel.
    """
    layers = zip(features(made), features(true), heads, strict=True)
    return torch.stack(
        [
            torch.einsum(
                "c,bchw->bhw", head, (_normalize_channels(a) - _normalize_channels(b)).square()
            ).mean(dim=(1, 2))
            for a, b, head in layers
        ]
    ).sum(dim=0)


def _normalize_channels(
    features: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    return features / (features.norm(dim=1, keepdim=True) + 1e-10)


@dataclass(frozen=True, kw_only=True)
class Lpips:
    """With AlexNet, as the authors advise for measuring."""

    network: AlexNet
    heads: list[Tensor]
    files: dict[str, dict[str, str]]
    """Name and SHA-256 of both, by the option that names them."""

    def measure_frames(
        self,
        made: UInt8[np.ndarray, "time height width 3"],
        true: UInt8[np.ndarray, "time height width 3"],
    ) -> Float[np.ndarray, " time"]:
        """Of each frame. Raises ValueError for frames of less than 31 pixels a side."""
        if min(true.shape[1:3]) < _MIN_SIDE_PX:
            raise ValueError(
                f"the picture is {true.shape[2]}x{true.shape[1]}, expected at least {_MIN_SIDE_PX}x{_MIN_SIDE_PX} for LPIPS"
            )
        with torch.inference_mode():
            starts = range(0, len(true), _BATCH)
            found = [
                lpips(
                    _to_signed_tensor(made[i : i + _BATCH]),
                    _to_signed_tensor(true[i : i + _BATCH]),
                    self.network,
                    self.heads,
                )
                for i in starts
            ]
            return torch.cat(found).numpy()


def _to_signed_tensor(frames: UInt8[np.ndarray, "time height width 3"]) -> _Pictures:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, 1))).float() / 127.5 - 1


def load_lpips(alexnet: Path, heads: Path) -> Lpips:
    """From torchvision's alexnet weights and the authors' alex.pth; nothing in them is executed.

    Raises ValueError where a file is absent or holds something else.
    """
    network = AlexNet().eval()
    load_torchvision_weights(network, alexnet, "AlexNet")
    if not heads.is_file():
        raise ValueError(
            f"{heads} is no file, expected LPIPS's weights of AlexNet's features, alex.pth of version 0.1"
        )
    found = parse_weights(read_weights(heads), heads)
    expected = {
        _HEAD_KEY.format(number): (1, channels, 1, 1) for number, channels in enumerate(_CHANNELS)
    }
    if {name: tuple(value.shape) for name, value in found.items()} != expected:
        raise ValueError(
            f"{heads} holds {', '.join(sorted(found)[:5])}, expected LPIPS's weights of AlexNet's features: {_HEAD_KEY.format(0)} and four more"
        )
    files = {
        option: {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for option, path in (("alexnet", alexnet), ("lpips", heads))
    }
    return Lpips(
        network=network, heads=[found[name].flatten().float() for name in expected], files=files
    )
