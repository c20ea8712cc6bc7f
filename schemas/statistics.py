"""What a trainer must know of a data set before it can start: one scale per frequency, and what it
was computed from.
"""

import json
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal

from schemas.seal import open_seal, seal

_STATISTICS_VERSION = 2
QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
"""Quantiles of the coefficient modulus that are always listed."""

Pool = Literal["components", "none", "all"]
_Method = Literal["histogram", "exact"]
DEFINITION = {
    "components": (
        "scale[k] is that quantile of |S_k| over all pixels, both displacement components and all "
        "training samples"
    ),
    "none": (
        "scale[k] holds that quantile of |S_k| over all pixels and all training samples for x and "
        "for y"
    ),
    "all": (
        "scale[k] is that quantile of |S_k| over all pixels, components, frequencies and training "
        "samples: one number for all k"
    ),
}


@dataclass(frozen=True, kw_only=True)
class ComponentStatistics:
    """Of the modulus |S_k| of one displacement component (x or y) at one frequency, pixels."""

    count: int
    """Coefficients."""
    p95: float
    """95th percentile."""
    quantiles: dict[str, float]
    """By the quantile's number, as `0.95`."""
    mean_power: float
    """Mean of |S_k|^2, px^2."""


@dataclass(frozen=True, kw_only=True)
class FrequencyStatistics:
    """One frequency k of a spectral volume."""

    hz: float
    scale: float | tuple[float, float]
    """s_f, pixels: the normaliser divides by it (docs/maths.md, 10); a pair (x, y) where components
    are not pooled.
    """
    x: ComponentStatistics
    y: ComponentStatistics


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set, or a view of one, whose training samples were counted."""

    run: str
    """sha256 of its run.json."""
    quiver: str | None
    """The Quiver with which the data set was begun, if its run.json says."""
    view: str | None
    shards: int
    windows: int


@dataclass(frozen=True, kw_only=True)
class SpectrumStatistics:
    """Scales and their provenance, as statistics.json holds them."""

    scale: tuple[Any, ...]
    """s_f of each of the K frequencies, pixels; pairs (x, y) where components are not pooled."""
    quantile: float
    """Which quantile of the modulus the scales are; the paper's is 0.95."""
    pool: Pool
    method: _Method
    """histogram: within 0.4 %; exact: the order statistic itself."""
    definition: str
    fps: float
    frames: int
    """T; frequency k stands at k fps / T Hz."""
    size: tuple[int, int]
    """Working resolution to which pixels refer, width x height."""
    frequencies: tuple[FrequencyStatistics, ...]
    windows: int
    sources: tuple[Source, ...]
    shards: str
    """Digest of the exact set of training shards; a trainer refuses statistics of another set."""
    format: int = _STATISTICS_VERSION


def encode_statistics(statistics: SpectrumStatistics) -> bytes:
    """JSON, sealed, of which equal statistics give equal bytes."""
    return seal(asdict(statistics), indent=2)


def decode_statistics(data: bytes) -> SpectrumStatistics:
    """Inverse of `encode`. Raises ValueError saying what is wrong with a file that is not
    statistics.
    """
    try:
        fields = json.loads(data)
        if fields.get("format") != _STATISTICS_VERSION:
            raise ValueError(f"format is {fields.get('format')!r}, expected {_STATISTICS_VERSION}")
        fields = open_seal(data, indent=2)
        frequencies = tuple(_frequency(one) for one in fields.pop("frequencies"))
        sources = tuple(Source(**one) for one in fields.pop("sources"))
        scale = tuple(_scale(one) for one in fields.pop("scale"))
        width, height = fields.pop("size")
        found = SpectrumStatistics(
            scale=scale, frequencies=frequencies, sources=sources, size=(width, height), **fields
        )
        _check_statistics(found)
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ValueError(f"not a statistics file: {error}") from error
    return found


def _frequency(fields: dict[str, Any]) -> FrequencyStatistics:
    components = {name: ComponentStatistics(**fields[name]) for name in ("x", "y")}
    return FrequencyStatistics(hz=fields["hz"], scale=_scale(fields["scale"]), **components)


def _scale(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_statistics(statistics: SpectrumStatistics) -> None:
    """Raises ValueError unless there is one scale, finite and at least 0, for each frequency."""
    if statistics.pool not in DEFINITION:
        raise ValueError(f"pool is {statistics.pool!r}, expected one of {', '.join(DEFINITION)}")
    if not statistics.scale or len(statistics.scale) != len(statistics.frequencies):
        raise ValueError(
            f"{len(statistics.scale)} scales for {len(statistics.frequencies)} frequencies"
        )
    parts = 2 if statistics.pool == "none" else 1
    for scale in statistics.scale:
        numbers = scale if isinstance(scale, tuple) else (scale,)
        if len(numbers) != parts or not all(
            type(n) in (int, float) and isfinite(n) and n >= 0 for n in numbers
        ):
            raise ValueError(
                f"scale is {scale!r}, expected "
                f"{'two finite numbers' if parts == 2 else 'a finite number'} of at least 0"
            )
