"""The run contract: the settings with which a dataset was made, which a later run must share."""

from dataclasses import dataclass
from math import isfinite
from typing import Any

FORMAT_VERSION = 5


@dataclass(frozen=True, kw_only=True)
class RunContract:
    """The content of run.json, which is written once. `config` and `inputs` decide the bytes of the
    shards; `versions` tells what made them.
    """

    config: dict[str, Any]
    """Every setting that can change a byte, by name."""
    inputs: str
    """sha256 of the planned windows, and of the clips without one, by content and not by path."""
    plan: str
    """sha256 of plan.parquet."""
    versions: dict[str, str]
    """Versions of Python, the libraries and the CPU. Bytes are promised for one set of them."""
    format: int = FORMAT_VERSION

    def differences(self, other: "RunContract") -> list[str]:
        """Returns a line for each setting that differs, with the value of this contract first."""
        settings, other_settings = flatten(self.config), flatten(other.config)
        names = sorted(settings.keys() | other_settings.keys())
        lines = [
            f"{name}: {settings.get(name)} -> {other_settings.get(name)}"
            for name in names
            if settings.get(name) != other_settings.get(name)
        ]
        if self.format != other.format:
            lines.insert(0, f"format: {self.format} -> {other.format}")
        return lines


def check_contract(contract: RunContract) -> None:
    """Raises ValueError unless the settings that readers compute with are in their ranges."""
    config, versions = contract.config, contract.versions
    try:
        plan, (width, height), frequencies = config["plan"], config["size"], config["frequencies"]
        integer_ranges = dict(
            width=(width, 1, 1 << 16),
            height=(height, 1, 1 << 16),
            frames=(plan["frames"], 2, 1 << 20),
            frequencies=(frequencies, 1, 1 << 12),
        )
        fps, sections = plan["fps"], (config["flow"], config["thresholds"], versions)
    except KeyError as error:
        raise ValueError(f"{error} is missing") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"its settings cannot be read: {error!r}") from error
    for name, (value, least, most) in integer_ranges.items():
        if type(value) is not int or not least <= value <= most:
            raise ValueError(
                f"{name} is {value!r:.80}, expected a whole number from {least} to {most}"
            )
    if type(fps) not in (int, float) or not 0 < fps <= 1e6:
        raise ValueError(f"fps is {fps!r:.80}, expected a number over 0")
    if frequencies > plan["frames"] // 2 + 1 or not all(
        isinstance(section, dict) for section in sections
    ):
        raise ValueError(
            "frequencies are more than half the frames, or flow, thresholds or versions are no "
            "table"
        )


def contract_provenance(contract: RunContract) -> dict[str, str]:
    """Returns the version of Quiver that began a dataset, as `quiver`; {} if the contract has none.

    Every later version writes it into what it makes for the dataset, so that a shard that is built
    again, and files that are derived again, have the same bytes. The record of a shard names the
    version that built it.
    """
    return {name: version for name, version in contract.versions.items() if name == "quiver"}


def to_json_value(value: Any) -> Any:
    """Returns a setting as JSON gives it back: tuples as lists, infinities as words."""
    if isinstance(value, dict):
        return {name: to_json_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_value(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings as one level of dotted names."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= (
            flatten(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {prefix + name: value}
        )
    return flat
