"""What turns normalised coefficients into pixels. Every checkpoint holds it, so that using one
needs no data set.
"""

from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from pipeline.motion.normalize import Normalization, channel_scales
from schemas.statistics import SpectrumStatistics


@dataclass(frozen=True, kw_only=True)
class SpectrumNormalizer:
    """The scales of a set of training samples, and to what they refer."""

    normalisation: Normalization
    scale: tuple[tuple[float, ...], ...]
    """Of each of K frequencies, what its four channels are divided by, pixels."""
    size: tuple[int, int]
    """Working resolution, width x height."""
    fps: float
    frames: int
    """T; frequency k stands at k fps / T Hz."""
    shards: str
    """Digest of the training shards."""

    def __post_init__(self):
        if self.normalisation not in get_args(Normalization):
            raise ValueError(
                f"normalisation is {self.normalisation!r}, expected one of {', '.join(get_args(Normalization))}"
            )
        scale = np.array(self.scale, np.float64)
        if (
            scale.ndim != 2
            or scale.shape[1:] != (4,)
            or not (np.isfinite(scale).all() and (scale > 0).all())
        ):
            raise ValueError(
                f"scale is {list(scale.shape)}, expected four finite numbers over 0 for each frequency"
            )

    @property
    def frequencies(self) -> int:
        """K."""
        return len(self.scale)

    def scale_tensor(self, device: torch.device | str = "cpu") -> Float32[Tensor, "freq 4 1 1"]:
        """The scales as normalising takes them."""
        return torch.tensor(self.scale, dtype=torch.float32, device=device)[:, :, None, None]

    def truncate(self, frequencies: int) -> "SpectrumNormalizer":
        """Of the first so many frequencies. Raises ValueError where there are not as many."""
        return replace(self, scale=self.scale[: check_frequencies(frequencies, self.frequencies)])


def normalizer_from_statistics(
    statistics: SpectrumStatistics, normalisation: Normalization, frequencies: int | None = None
) -> SpectrumNormalizer:
    """Of these statistics, of their first frequencies or all. Raises ValueError as `channel_scales`
    does, and where there are not as many.
    """
    count = check_frequencies(frequencies, len(statistics.scale))
    scale = channel_scales(replace(statistics, scale=statistics.scale[:count]), normalisation)[
        :, :, 0, 0
    ].tolist()
    return SpectrumNormalizer(
        normalisation=normalisation,
        scale=tuple(map(tuple, scale)),
        size=statistics.size,
        fps=statistics.fps,
        frames=statistics.frames,
        shards=statistics.shards,
    )


def check_frequencies(wanted: int | None, most: int) -> int:
    """How many frequencies are asked for. Raises ValueError where there are not that many."""
    if wanted is not None and not 1 <= wanted <= most:
        raise ValueError(
            f"frequencies is {wanted}, expected 1 to {most}, of which there are statistics"
        )
    return wanted or most


def normalizer_from_config(fields: Any) -> SpectrumNormalizer:
    """Of a checkpoint's configuration. Raises ValueError where they are none."""
    try:
        width, height = fields["size"]
        return SpectrumNormalizer(
            **(fields | {"size": (width, height), "scale": tuple(map(tuple, fields["scale"]))})
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the checkpoint has no units: {error}") from error
