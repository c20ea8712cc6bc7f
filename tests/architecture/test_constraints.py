"""The pins of constraints.txt are what the public index serves, and fit what pyproject.toml asks
for.
"""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PINS = {
    pin.name.lower().replace("_", "-"): pin.specifier
    for pin in map(Requirement, (ROOT / "constraints.txt").read_text().split())
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"].values()
ASKED = [*PROJECT["dependencies"], *(line for lines in EXTRAS for line in lines)]
TOGETHER = {"2.13.0": "0.28.0"}
"""torch's releases, and torchvision's that were built for them."""


def pinned(name: str) -> Version:
    (only,) = PINS[name]
    assert only.operator == "=="
    return Version(only.version)


@pytest.mark.parametrize("name", PINS)
def test_a_pin_is_one_public_version(name):
    """The public index takes no version with a local label, such as 2.13.0+cpu."""
    assert pinned(name).local is None and pinned(name).is_prerelease == (name in PRERELEASES)


PRERELEASES = {"opentelemetry-exporter-prometheus", "opentelemetry-semantic-conventions"}
"""Packages of which there is nothing else."""


@pytest.mark.parametrize("line", ASKED)
def test_what_is_asked_for_is_pinned_within_its_range(line):
    asked = Requirement(line)
    assert asked.name == "quiver-motion" or asked.specifier.contains(
        pinned(asked.name), prereleases=True
    )


def test_torch_and_torchvision_belong_together():
    assert str(pinned("torchvision")) == TOGETHER[str(pinned("torch"))]


def test_the_pin_of_torch_takes_either_build_and_prefers_the_one_for_cpus_beside_its_index():
    builds = [Version(text) for text in ("2.13.0", "2.13.0+cpu", "2.13.1+cpu")]
    fitting = [build for build in builds if build in SpecifierSet(str(PINS["torch"]))]
    assert fitting == builds[:2] and max(fitting).local == "cpu"
