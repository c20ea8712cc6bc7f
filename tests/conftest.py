"""Shapes in signatures are checked while the tests run; fixtures that make small real videos."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full",
        action="store_true",
        help="run also what is marked `thorough`, and every case of what is marked `sample`",
    )
    parser.addoption("--promises", help="run only what proves one of these, as P1,P12")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what only a full run does, and says in the report of the tests which promise each
    one proves, with which counts, and, if the mark tells it, how often it injects: 0 if it only
    reads source.
    """
    chosen = set(items) if config.getoption("--full") else sample_cases(items)
    if wanted := config.getoption("--promises"):
        chosen = {item for item in chosen if promises_of(item) & {*wanted.split(",")}}
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]
    for item in items:
        promises = [
            entry
            for mark in item.iter_markers("promise")
            for entry in (("promise", mark.args[0]), *mark.kwargs.items())
        ]
        item.user_properties += (
            [*promises, ("counts", os.environ.get("QUIVER_FAULTS", "quick"))] if promises else []
        )


def promises_of(item: pytest.Item) -> set[str]:
    return {mark.args[0] for mark in item.iter_markers("promise")}


def sample_cases(items: list[pytest.Item]) -> set[pytest.Item]:
    """What is not marked `thorough`; of a test that is marked `sample(n)`, n of its cases, evenly
    spread.
    """
    chosen, cases = set(), {}
    for item in items:
        if mark := item.get_closest_marker("sample"):
            cases.setdefault(item.nodeid.partition("[")[0], (mark.args[0], []))[1].append(item)
        elif not item.get_closest_marker("thorough"):
            chosen.add(item)
    for count, of_one_test in cases.values():
        last, steps = len(of_one_test) - 1, max(count - 1, 1)
        chosen |= {of_one_test[round(i * last / steps)] for i in range(min(count, last + 1))}
    return chosen


@pytest.fixture(scope="session")
def build_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """`build_once(name, build)` is the folder of that name after `build(folder)`, which only the
    first of all test processes calls: the others wait for it.
    """
    base = tmp_path_factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def build_in_lock(name: str, build: Callable[[Path], object]) -> Path:
        folder, finished = common / name, common / f"{name}.finished"
        with FileLock(common / f"{name}.lock"):
            if not finished.exists():
                folder.mkdir()
                build(folder)
                finished.touch()
        return folder

    return build_in_lock
