"""The run contract: what a data set was made with. A later run in the same folder must have the same."""

from dataclasses import dataclass
from math import isfinite
from typing import Any

FORMAT_VERSION = 3


@dataclass(frozen=True, kw_only=True)
class RunContract:
    """Written once as run.json. `config` and `inputs` decide the bytes of the shards; `versions` tells what made them."""

    config: dict[str, Any]
    """Every setting that can change a byte, by name."""
    inputs: str
    """sha256 of the planned windows and barren clips, by content and not by path."""
    plan: str
    """sha256 of plan.parquet."""
    versions: dict[str, str]
    """Of Python, the libraries and the instruction set: bytes are promised for one set of them."""
    format: int = FORMAT_VERSION

    def differences(self, other: "RunContract") -> list[str]:
        """One line for every setting that differs, with both values: this one's first."""
        mine, theirs = flatten(self.config), flatten(other.config)
        names = sorted(mine.keys() | theirs.keys())
        lines = [f"{name}: {mine.get(name)} -> {theirs.get(name)}" for name in names if mine.get(name) != theirs.get(name)]
        if self.format != other.format:
            lines.insert(0, f"format: {self.format} -> {other.format}")
        return lines


def plain(value: Any) -> Any:
    """A setting as JSON gives it back: tuples as lists, infinities as words."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
