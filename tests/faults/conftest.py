"""The undisturbed run to which every disturbed one is compared."""

from pathlib import Path

import pytest

from tests.faults.injected import Injected
from tests.faults.reference import Reference, extract, promised, write_clips


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> Reference:
    """Made by the real command."""
    folder: Path = tmp_path_factory.mktemp("reference")
    clips, out = write_clips(folder / "clips"), folder / "dataset"
    done = extract(clips, out)
    assert done.returncode == 0, done.stderr
    return Reference(clips, out, promised(out))


@pytest.fixture
def injected(reference, record_property) -> Injected:
    """Counts what a test does to a data set and what came of it, for the table of promises."""
    found = Injected(reference)
    yield found
    for name, value in found.numbers().items():
        record_property(name, value)
