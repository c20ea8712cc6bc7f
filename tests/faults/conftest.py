"""The undisturbed run to which every disturbed one is compared."""

from pathlib import Path

import pytest

from tests.faults.injected import FaultCounter
from tests.faults.reference import Reference, promised_digests, write_clips
from tests.faults.runs import run_without_ray


@pytest.fixture(scope="session")
def reference(build_once) -> Reference:
    """Made without Ray; test_same_bytes.py compares the real command's with it."""

    def build(folder: Path) -> None:
        clips, out = write_clips(folder / "clips"), folder / "dataset"
        assert run_without_ray(clips, out) == 0, out.with_suffix(".log").read_text()

    folder = build_once("reference", build)
    out = folder / "dataset"
    return Reference(folder / "clips" / "clips.csv", out, promised_digests(out))


@pytest.fixture
def injected(reference, record_property) -> FaultCounter:
    """Counts what a test does to a data set and what came of it, for the table of promises."""
    found = FaultCounter(reference)
    yield found
    for name, value in found.to_counts().items():
        record_property(name, value)
