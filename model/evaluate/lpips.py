"""LPIPS, a perceptual distance of pictures (Zhang et al. 2018; docs/maths.md, 41). Its weights come
from two files that the user names.
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
"""Channels of AlexNet's layers of features."""
_HEAD_KEY = "lin{}.model.1.weight"
"""Names of the weights in alex.pth by the authors of LPIPS, version 0.1."""
_BATCH = 8
_MIN_SIDE_PX = 31
"""Smallest side of a picture: AlexNet's pooling leaves one pixel of it."""

_Pictures = Float[Tensor, "batch 3 height width"]
_FeatureFunction = Callable[[_Pictures], Sequence[Float[Tensor, "batch _ _ _"]]]


def lpips(
    generated: _Pictures,
    true: _Pictures,
    features: _FeatureFunction,
    heads: Sequence[Float[Tensor, " _"]],
) -> Float[Tensor, " batch"]:
    """The distance of each pair of pictures, which are in -1 to 1; 0 for equal pictures.

    `features` computes layers of features, each pixel of which is normalized to length 1; `heads`
    has a weight for each channel of the squared differences.
    """
    layers = zip(features(generated), features(true), heads, strict=True)
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
    """LPIPS with AlexNet, which the authors recommend as a metric."""

    network: AlexNet
    heads: list[Tensor]
    files: dict[str, dict[str, str]]
    """Name and SHA-256 of both files, by the option that names them."""

    def measure_frames(
        self,
        generated: UInt8[np.ndarray, "time height width 3"],
        true: UInt8[np.ndarray, "time height width 3"],
    ) -> Float[np.ndarray, " time"]:
        """The distance of each frame. Raises ValueError for a side under 31 pixels."""
        if min(true.shape[1:3]) < _MIN_SIDE_PX:
            raise ValueError(
                f"the picture is {true.shape[2]}x{true.shape[1]}, expected at least "
                f"{_MIN_SIDE_PX}x{_MIN_SIDE_PX} for LPIPS"
            )
        with torch.inference_mode():
            distances = [
                lpips(
                    _to_signed_tensor(generated[i : i + _BATCH]),
                    _to_signed_tensor(true[i : i + _BATCH]),
                    self.network,
                    self.heads,
                )
                for i in range(0, len(true), _BATCH)
            ]
            return torch.cat(distances).numpy()


def _to_signed_tensor(frames: UInt8[np.ndarray, "time height width 3"]) -> _Pictures:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, 1))).float() / 127.5 - 1


def load_lpips(alexnet: Path, heads: Path) -> Lpips:
    """Loads torchvision's AlexNet weights and the authors' alex.pth; nothing in them is executed.

    Raises ValueError if a file is missing or contains something else.
    """
    network = AlexNet().eval()
    load_torchvision_weights(network, alexnet, "AlexNet")
    if not heads.is_file():
        raise ValueError(
            f"{heads} is no file, expected LPIPS's weights of AlexNet's features, alex.pth of "
            "version 0.1"
        )
    weights = parse_weights(read_weights(heads), heads)
    expected = {
        _HEAD_KEY.format(number): (1, channels, 1, 1) for number, channels in enumerate(_CHANNELS)
    }
    if {name: tuple(value.shape) for name, value in weights.items()} != expected:
        raise ValueError(
            f"{heads} holds {', '.join(sorted(weights)[:5])}, expected LPIPS's weights of "
            f"AlexNet's features: {_HEAD_KEY.format(0)} and four more"
        )
    files = {
        option: {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for option, path in (("alexnet", alexnet), ("lpips", heads))
    }
    return Lpips(
        network=network, heads=[weights[name].flatten().float() for name in expected], files=files
    )
