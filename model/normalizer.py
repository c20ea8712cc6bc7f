"""The scales that turn normalized coefficients into pixels, and the dataset they were measured on.

Every checkpoint of an autoencoder or a prior holds them, so that using it needs no dataset.
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
    """The scales of a set of training samples, and the conditions under which they hold.

    Raises ValueError if the normalization is unknown, or if a scale is not finite and positive.
    """

    normalisation: Normalization
    scale: tuple[tuple[float, ...], ...]
    """For each of K frequencies, the divisors of its four channels, pixels."""
    size: tuple[int, int]
    """Working resolution, width x height."""
    fps: float
    frames: int
    """T; frequency k is k fps / T Hz."""
    shards: str
    """Digest of the training shards."""

    def __post_init__(self):
        if self.normalisation not in get_args(Normalization):
            raise ValueError(
                f"normalisation is {self.normalisation!r}, "
                f"expected one of {', '.join(get_args(Normalization))}"
            )
        scale = np.array(self.scale, np.float64)
        if scale.ndim != 2 or scale.shape[1:] != (4,) or not ((scale > 0) & (scale < np.inf)).all():
            raise ValueError(
                f"scale is {list(scale.shape)}, "
                "expected four finite numbers over 0 for each frequency"
            )

    @property
    def frequencies(self) -> int:
        """K."""
        return len(self.scale)

    def scale_tensor(self, device: torch.device | str = "cpu") -> Float32[Tensor, "freq 4 1 1"]:
        """The scales as `pipeline.motion.normalize` takes them."""
        return torch.tensor(self.scale, dtype=torch.float32, device=device)[:, :, None, None]

    def truncate(self, frequencies: int) -> "SpectrumNormalizer":
        """A normalizer for the lowest `frequencies` only. Raises ValueError if there are fewer."""
        return replace(self, scale=self.scale[: check_frequencies(frequencies, self.frequencies)])


def normalizer_from_statistics(
    statistics: SpectrumStatistics, normalisation: Normalization, frequencies: int | None = None
) -> SpectrumNormalizer:
    """The normalizer of a dataset, for its lowest `frequencies` or all. Raises ValueError as
    `channel_scales` does, and if there are fewer frequencies.
    """
    count = check_frequencies(frequencies, len(statistics.scale))
    truncated = replace(statistics, scale=statistics.scale[:count])
    scale = channel_scales(truncated, normalisation)[:, :, 0, 0].tolist()
    return SpectrumNormalizer(
        normalisation=normalisation,
        scale=tuple(map(tuple, scale)),
        size=statistics.size,
        fps=statistics.fps,
        frames=statistics.frames,
        shards=statistics.shards,
    )


def check_frequencies(requested: int | None, available: int) -> int:
    """The requested number of frequencies, all for None. Raises ValueError if there are fewer."""
    if requested is not None and not 1 <= requested <= available:
        raise ValueError(
            f"frequencies is {requested}, expected 1 to {available}, which have statistics"
        )
    return requested or available


def normalizer_from_config(fields: Any) -> SpectrumNormalizer:
    """The normalizer that a checkpoint's configuration holds. Raises ValueError if it is none."""
    try:
        width, height = fields["size"]
        scale = tuple(map(tuple, fields["scale"]))
        return SpectrumNormalizer(**(fields | {"size": (width, height), "scale": scale}))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the checkpoint has no units: {error}") from error
