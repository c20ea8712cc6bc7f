"""Shapes in signatures are checked while the tests run; fixtures that make small real videos."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

hook = install_import_hook(["schemas", "pipeline", "model"], "beartype.beartype")

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def material() -> Path:
    """The folder of real test clips, where there is one."""
    if not SHARED.is_dir():
        pytest.skip(
            f"no folder of real clips beside the checkout ({SHARED.parent.name}/{SHARED.name})"
        )
    return SHARED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The report of the tests says which promise each one proves, with which counts, and, where the
    mark does, how often it injects: 0 where it reads source.
    """
    for item in items:
        promises = [
            entry
            for mark in item.iter_markers("promise")
            for entry in (("promise", mark.args[0]), *mark.kwargs.items())
        ]
        item.user_properties += (
            [*promises, ("counts", os.environ.get("QUIVER_FAULTS", "quick"))] if promises else []
        )
