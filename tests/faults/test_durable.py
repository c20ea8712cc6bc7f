"""P1 for a power cut, which takes what was not synced: the calls of a run, seen from outside."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.faults.reference import ROOT, SINGLE_THREAD_ENV, extract_command
from tests.faults.runs import build_preload_library

pytestmark = pytest.mark.promise("P1")


@pytest.fixture(scope="module")
def calls(reference, tmp_path_factory) -> tuple[Path, list[list[str]]]:
    """The data set of a run, and what the run synced and named, in order."""
    folder = tmp_path_factory.mktemp("watched")
    arguments = extract_command(reference.clips, folder / "dataset")
    arguments[2] = "tests.faults.runs"
    env = (
        os.environ
        | SINGLE_THREAD_ENV
        | {
            "LD_PRELOAD": str(build_preload_library("watched.c", folder)),
            "QUIVER_WATCHED": str(folder / "calls"),
        }
    )
    subprocess.run(arguments, cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)
    return folder / "dataset", [
        line.split("\t") for line in (folder / "calls").read_text().splitlines()
    ]


@pytest.mark.slow
def test_every_file_is_synced_before_it_has_its_name_and_its_folder_after(calls, record_property):
    record_property("injections", 0)
    root, found = calls
    named = [
        (i, temporary, path)
        for i, (what, temporary, path) in enumerate(found)
        if what == "name" and path.startswith(f"{root}/")
    ]
    assert len(named) > 10
    for i, temporary, path in named:
        assert ["sync", temporary, ""] in found[:i] and found[i + 1] == [
            "sync",
            str(Path(path).parent),
            "",
        ], path


def test_a_record_is_named_after_all_that_it_names(calls, record_property):
    record_property("injections", 0)
    root, found = calls
    order = [path.removeprefix(f"{root}/") for what, _, path in found if what == "name"]
    for record in (path for path in order if path.startswith("records/")):
        shard = Path(record).stem
        assert max(
            order.index(f"shards/{shard}.tar"), order.index(f"histograms/{shard}.safetensors")
        ) < order.index(record)
