"""Networks that compute features of pictures and videos for distances of distributions: Inception
(FID, KID) and I3D (FVD, FVD32, DT-FVD).

A network is a TorchScript file that the user names; none is downloaded. Its SHA-256 and the way it
is called are part of an evaluation's protocol, since both change the numbers. TorchScript is a
program: its author acts with the rights of whoever loads it (docs/security.md).
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
"""Shape of the black pictures on which a network is tested when it is loaded."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """How a network is called, and what it returns."""

    kind: Literal["picture", "video"]
    """"picture": [samples, 3, height, width]; "video": [samples, 3, time, height, width]."""
    dimensions: int
    """Number of features per sample."""
    frames: int = 16
    """Frames of the excerpts on which a network of videos is tested."""
    size: int = 0
    """Width and height to which pictures are resized bilinearly, whatever their aspect; with 0 the
    network resizes them itself.
    """
    align_corners: bool = False
    """Whether resizing aligns the centers of the corner pixels instead of the edges."""
    low: float = 0.0
    high: float = 255.0
    """Values of black (`low`) and white."""
    as_bytes: bool = False
    """Whether the network takes bytes instead of floats."""
    options: Mapping[str, bool] = field(default_factory=dict)
    """Keyword arguments of the call."""


INCEPTION = NetworkSpec(
    kind="picture", dimensions=2048, as_bytes=True, options={"return_features": True}
)
"""NVIDIA's inception-2015-12-05.pt, as used by the authors of StyleGAN; it resizes pictures itself.
"""
I3D = NetworkSpec(
    kind="video",
    dimensions=400,
    size=224,
    low=-1.0,
    high=1.0,
    options={"rescale": False, "resize": False, "return_features": True},
)
"""i3d_torchscript.pt, trained on Kinetics-400, as used by the authors of StyleGAN-V. Its features
are logits; pictures are resized here.
"""
DT_I3D = NetworkSpec(
    kind="video", dimensions=1024, size=224, align_corners=True, low=-1.0, high=1.0
)
"""I3D trained on dynamic textures (Dorkenwald et al. 2021), for excerpts of 16 frames. Its features
are the inputs of its logits; its authors align corners.
"""
DT_I3D_32 = replace(DT_I3D, frames=32)
"""The same authors' network for excerpts of 32 frames."""


@dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """A loaded network: `extract` computes features, `protocol` describes how."""

    path: Path
    sha256: str
    spec: NetworkSpec
    module: Any
    device: str
    batch: int

    def protocol(self) -> dict[str, object]:
        """The name and digest of the file, the device, and how the network is called."""
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "device": self.device,
            **asdict(self.spec),
        }

    def extract(
        self, samples: UInt8[np.ndarray, "samples *time height width 3"]
    ) -> Float32[np.ndarray, "samples dimensions"]:
        """The features of each sample. Raises ValueError if the network cannot take the samples, or
        returns something else than finite numbers of the expected shape.
        """
        batches = (
            samples[start : start + self.batch] for start in range(0, len(samples), self.batch)
        )
        return np.concatenate(
            [self._extract_batch(batch) for batch in batches]
            or [np.zeros((0, self.spec.dimensions), np.float32)]
        )

    def _extract_batch(
        self, batch: UInt8[np.ndarray, "samples *time height width 3"]
    ) -> Float32[np.ndarray, "samples dimensions"]:
        expected = (len(batch), self.spec.dimensions)
        try:
            with torch.inference_mode():
                features = self.module(
                    _to_network_input(batch, self.spec).to(self.device), **self.spec.options
                )
        except (torch.jit.Error, RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"{self.path} cannot be called with {_describe_input(batch, self.spec)}: "
                f"{_last_line(error)}"
            ) from error
        if not (isinstance(features, Tensor) and tuple(features.shape) == expected):
            is_tensor = isinstance(features, Tensor)
            shape = list(features.shape) if is_tensor else type(features).__name__
            raise ValueError(
                f"{self.path} gives {shape}, expected {list(expected)}: it is another network than "
                "was expected"
            )
        if not features.isfinite().all():
            raise ValueError(f"{self.path} gives numbers that are not finite")
        return features.float().cpu().numpy()


def load_network(
    path: Path, spec: NetworkSpec, device: str = "cpu", batch: int = 8, sha256: str = ""
) -> FeatureNetwork:
    """Loads a network from a file and tests it on black samples.

    Raises ValueError if the file does not exist, its digest differs from `sha256` (hex; "" accepts
    any), it is no TorchScript, or the network does not take and return what `spec` says. A file
    with a different digest is not run.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} is not a file, expected a TorchScript network; it is not downloaded"
        )
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if sha256 and digest != sha256.lower():
        raise ValueError(f"{path} has the SHA-256 {digest}, expected {sha256}")
    try:
        module = torch.jit.load(io.BytesIO(data), map_location=device).eval()
    except (torch.jit.Error, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is no TorchScript network: {_last_line(error)}") from error
    network = FeatureNetwork(
        path=path, sha256=digest, spec=spec, module=module, device=device, batch=batch
    )
    time = [spec.frames] if spec.kind == "video" else []
    network.extract(np.zeros((2, *time, *_PROBE_SHAPE), np.uint8))
    return network


def _to_network_input(
    samples: UInt8[np.ndarray, "samples *time height width 3"], spec: NetworkSpec
) -> UInt8[Tensor, "samples 3 ..."] | Float32[Tensor, "samples 3 ..."]:
    """The samples with channels second, scaled and resized as the network expects."""
    pictures = torch.from_numpy(np.ascontiguousarray(np.moveaxis(samples, -1, 1)))
    if spec.as_bytes:
        return pictures
    pictures = pictures.float() / 255 * (spec.high - spec.low) + spec.low
    if not spec.size:
        return pictures
    size = (spec.size, spec.size)
    flat = pictures.flatten(0, -3)[:, None]
    resized = interpolate(flat, size, mode="bilinear", align_corners=spec.align_corners)
    return resized.reshape(*pictures.shape[:-2], *size)


def _describe_input(batch: np.ndarray, spec: NetworkSpec) -> str:
    """The input of a call, for an error message."""
    options = "".join(f", {name}={value}" for name, value in spec.options.items())
    kind = "bytes" if spec.as_bytes else "floats"
    return f"({spec.kind} of {kind}, {list(batch.shape)}{options})"


def _last_line(error: Exception) -> str:
    """The last line of an error message: TorchScript puts the cause there."""
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
