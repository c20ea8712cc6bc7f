"""Statistics of a dataset: one scale per frequency, which a trainer needs, and their origin."""

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
        "scale[k] is that quantile of |S_k| over all pixels whose flow is believed, both "
        "displacement components and all training samples"
    ),
    "none": (
        "scale[k] holds that quantile of |S_k| over all pixels whose flow is believed and all "
        "training samples for x and for y"
    ),
    "all": (
        "scale[k] is that quantile of |S_k| over all pixels whose flow is believed, components, "
        "frequencies and training samples: one number for all k"
    ),
}


@dataclass(frozen=True, kw_only=True)
class ComponentStatistics:
    """The modulus |S_k| of one displacement component (x or y) at one frequency, pixels."""

    count: int
    """Number of coefficients."""
    p95: float
    """95th percentile."""
    quantiles: dict[str, float]
    """Quantiles by their number, as `0.95`."""
    mean_power: float
    """Mean of |S_k|^2, px^2."""


@dataclass(frozen=True, kw_only=True)
class FrequencyStatistics:
    """One frequency k of a spectral volume."""

    hz: float
    scale: float | tuple[float, float]
    """s_f, pixels, by which the normalizer divides (docs/design/maths.md, 10); a pair (x, y) if
    components are not pooled.
    """
    x: ComponentStatistics
    y: ComponentStatistics


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset, or a view of one, whose training samples were counted."""

    run: str
    """sha256 of its run.json."""
    quiver: str | None
    """The version of Quiver that began the dataset; None if its run.json has none."""
    view: str | None
    shards: int
    windows: int


@dataclass(frozen=True, kw_only=True)
class SpectrumStatistics:
    """Scales and their origin, as statistics.json holds them."""

    scale: tuple[Any, ...]
    """s_f of each of the K frequencies, pixels; pairs (x, y) if components are not pooled."""
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
    """Digest of the set of training shards; a trainer rejects statistics of another set."""
    format: int = _STATISTICS_VERSION


def encode_statistics(statistics: SpectrumStatistics) -> bytes:
    """Returns sealed JSON; equal statistics give equal bytes."""
    return seal(asdict(statistics), indent=2)


def decode_statistics(data: bytes) -> SpectrumStatistics:
    """Inverse of `encode_statistics`. Raises ValueError if the file is no statistics file."""
    try:
        fields = json.loads(data)
        if fields.get("format") != _STATISTICS_VERSION:
            raise ValueError(f"format is {fields.get('format')!r}, expected {_STATISTICS_VERSION}")
        fields = open_seal(data, indent=2)
        frequencies = tuple(_parse_frequency(entry) for entry in fields.pop("frequencies"))
        sources = tuple(Source(**entry) for entry in fields.pop("sources"))
        scale = tuple(_parse_scale(entry) for entry in fields.pop("scale"))
        width, height = fields.pop("size")
        statistics = SpectrumStatistics(
            scale=scale, frequencies=frequencies, sources=sources, size=(width, height), **fields
        )
        _check_statistics(statistics)
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ValueError(f"not a statistics file: {error}") from error
    return statistics


def _parse_frequency(fields: dict[str, Any]) -> FrequencyStatistics:
    components = {name: ComponentStatistics(**fields[name]) for name in ("x", "y")}
    return FrequencyStatistics(hz=fields["hz"], scale=_parse_scale(fields["scale"]), **components)


def _parse_scale(value: Any) -> Any:
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
