"""What networks see in pictures and videos, for Frechet and kernel distances: Inception (FID, KID)
and I3D (FVD, FVD32, DT-FVD).

A network is a TorchScript file that the user names. It is never downloaded, and its SHA-256 and how
it is called are part of an evaluation's protocol, since both change the numbers. TorchScript is a
program: whoever wrote the file acts with the rights of who loads it (docs/security.md).
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

_PROBE_SHAPE = (64, 64, 3)
"""Shape of the black pictures on which a network is tried when it is loaded."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """How a network takes its samples, and what it gives."""

    kind: Literal["picture", "video"]
    """"picture": [samples, 3, height, width]; "video": [samples, 3, time, height, width]."""
    dimensions: int
    """Of its features."""
    frames: int = 16
    """Of the excerpts on which a network of videos is tried."""
    size: int = 0
    """Width and height to which pictures are brought, bilinearly, without regard to their shape; 0
    leaves that to the network.
    """
    align_corners: bool = False
    """Whether the middles of the outermost pixels then stay where they were, instead of the
    picture's edges.
    """
    low: float = 0.0
    high: float = 255.0
    """Black and white."""
    as_bytes: bool = False
    """Whether it takes whole numbers, as they are, instead of floats."""
    options: Mapping[str, bool] = field(default_factory=dict)
    """By name."""


INCEPTION = NetworkSpec(
    kind="picture", dimensions=2048, as_bytes=True, options={"return_features": True}
)
"""NVIDIA's inception-2015-12-05.pt, which StyleGAN's authors use: it brings pictures to its size by
itself.
"""
I3D = NetworkSpec(
    kind="video",
    dimensions=400,
    size=224,
    low=-1.0,
    high=1.0,
    options={"rescale": False, "resize": False, "return_features": True},
)
"""i3d_torchscript.pt of Kinetics-400, which StyleGAN-V's authors use: logits. Pictures are brought
to its size here.
"""
DT_I3D = NetworkSpec(
    kind="video", dimensions=1024, size=224, align_corners=True, low=-1.0, high=1.0
)
"""Of dynamic textures (Dorkenwald et al. 2021), for excerpts of 16 frames: what goes into its
logits. Its authors align corners.
"""
DT_I3D_32 = replace(DT_I3D, frames=32)
"""The authors' other network, for excerpts of 32."""


@dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """A loaded network: `features` is what it sees, `protocol` what is to be written beside its
    numbers.
    """

    path: Path
    sha256: str
    spec: NetworkSpec
    module: Any
    device: str
    batch: int

    def protocol(self) -> dict[str, object]:
        """The name of its file, its digest, where it ran, and how it was called."""
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "device": self.device,
            **asdict(self.spec),
        }

    def extract(
        self, samples: UInt8[np.ndarray, "samples *time height width 3"]
    ) -> Float32[np.ndarray, "samples dimensions"]:
        """Of each sample. Raises ValueError for samples that the network cannot take, and where it
        gives something else than so many numbers.
        """
        batches = (
            samples[start : start + self.batch] for start in range(0, len(samples), self.batch)
        )
        return np.concatenate(
            [self.extract_batch(batch) for batch in batches]
            or [np.zeros((0, self.spec.dimensions), np.float32)]
        )

    def extract_batch(
        self, batch: UInt8[np.ndarray, "samples *time height width 3"]
    ) -> Float32[np.ndarray, "samples dimensions"]:
        expected = (len(batch), self.spec.dimensions)
        try:
            with torch.inference_mode():
                found = self.module(
                    _to_network_input(batch, self.spec).to(self.device), **self.spec.options
                )
        except (torch.jit.Error, RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"{self.path} cannot be called with {_describe_input(batch, self.spec)}: {_last_line(error)}"
            ) from error
        if not (isinstance(found, Tensor) and tuple(found.shape) == expected):
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"{self.path} gives {shape}, expected {list(expected)}: it is another network than was expected"
            )
        if not found.isfinite().all():
            raise ValueError(f"{self.path} gives numbers that are not finite")
        return found.float().cpu().numpy()


def load_network(
    path: Path, call: NetworkSpec, device: str = "cpu", batch: int = 8, sha256: str = ""
) -> FeatureNetwork:
    """The network in a file, tried on black samples.

    Raises ValueError where there is no such file, its SHA-256 is not that which was expected (hex;
    "" expects none), it is no TorchScript, or it does not take and give what `call` says. A file of
    another digest is not run.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} is not a file, expected a TorchScript network; it is not downloaded"
        )
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if sha256 and found != sha256.lower():
        raise ValueError(f"{path} has the SHA-256 {found}, expected {sha256}")
    try:
        module = torch.jit.load(io.BytesIO(data), map_location=device).eval()
    except (torch.jit.Error, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is no TorchScript network: {_last_line(error)}") from error
    network = FeatureNetwork(
        path=path, sha256=found, spec=call, module=module, device=device, batch=batch
    )
    network.extract(
        np.zeros((2, *([call.frames] if call.kind == "video" else []), *_PROBE_SHAPE), np.uint8)
    )
    return network


def _to_network_input(
    samples: UInt8[np.ndarray, "samples *time height width 3"], call: NetworkSpec
) -> UInt8[Tensor, "samples 3 ..."] | Float32[Tensor, "samples 3 ..."]:
    """As the network takes them."""
    pictures = torch.from_numpy(np.ascontiguousarray(np.moveaxis(samples, -1, 1)))
    if call.as_bytes:
        return pictures
    pictures = pictures.float() / 255 * (call.high - call.low) + call.low
    return _resize_frames(pictures, call.size, call.align_corners) if call.size else pictures


def _resize_frames(
    pictures: Float32[Tensor, "samples 3 *time height width"], size: int, align_corners: bool
) -> Float32[Tensor, "samples 3 *time size size"]:
    flat = pictures.flatten(0, -3)[:, None]
    return interpolate(flat, (size, size), mode="bilinear", align_corners=align_corners).reshape(
        *pictures.shape[:-2], size, size
    )


def _describe_input(batch: np.ndarray, call: NetworkSpec) -> str:
    """For an error."""
    options = "".join(f", {name}={value}" for name, value in call.options.items())
    return (
        f"({call.kind} of {'bytes' if call.as_bytes else 'floats'}, {list(batch.shape)}{options})"
    )


def _last_line(error: Exception) -> str:
    """The cause stands there in errors of TorchScript."""
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
