"""P7: a disk that is full from the n-th call on that needs room costs what is in flight: a
sentence, nothing torn, and when there is room the same bytes.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from jobs.cli.errors import ExitCode
from pipeline.dataset.folder import Dataset
from pipeline.maintain.faults import Remedy
from pipeline.maintain.verify import verify
from tests.faults.injected import FaultCounter
from tests.faults.reference import (
    FULL_COUNTS,
    ROOT,
    SINGLE_THREAD_ENV,
    Reference,
    choose_count,
    committed_files,
    promised_digests,
    write_table,
)
from tests.faults.runs import build_preload_library, run_without_ray

pytestmark = pytest.mark.promise("P7")
CLIPS = choose_count(16, 8)
NUMBERS = (
    [*range(1, 201)]
    if FULL_COUNTS
    else [1, 5, 8, 12, 19, 27, 31, 34, 38, 41, 70, 124, 132, 136, 140, 144, 148]
)
"""Which call finds the disk full: of the quick ones, each kind of file's."""


class Filled(NamedTuple):
    code: int
    left: int
    """Calls that would still have found room."""


@pytest.fixture(scope="module")
def small(reference, tmp_path_factory) -> Reference:
    """A run of fewer clips, whose calls can all be counted."""
    table, out = (
        write_table(reference.clips.with_name("few.csv"), range(CLIPS)),
        tmp_path_factory.mktemp("small") / "dataset",
    )
    assert run_without_ray(table, out, options=PER_SHARD) == 0
    return Reference(table, out, promised_digests(out))


PER_SHARD = ("--windows-per-shard", "2")


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory) -> Iterator[tuple[Path, subprocess.Popen]]:
    """Where each run is, and the process that makes them, one after the other."""
    folder = tmp_path_factory.mktemp("full")
    shim = build_preload_library("full_disk.c", tmp_path_factory.mktemp("shim"))
    arguments = [
        sys.executable,
        "-m",
        "tests.faults.full_disk",
        str(small.clips),
        str(folder),
        *PER_SHARD,
    ]
    with subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=os.environ | SINGLE_THREAD_ENV | {"LD_PRELOAD": str(shim)},
        text=True,
        stdin=-1,
        stdout=-1,
    ) as runs:
        yield folder, runs
        runs.stdin.close()


def filled(folder: Path, runs: subprocess.Popen, number: int) -> Filled:
    """A run in which this call, and every later one, finds the disk full."""
    runs.stdin.write(f"{number}\n")
    runs.stdin.flush()
    return Filled(*json.loads(runs.stdout.readline()))


@pytest.mark.sample(2)
@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS)
def test_the_disk_is_full_at_call(small, folder, record_property, number):
    out, found = folder[0] / f"{number}", filled(*folder, number)
    assert found == (ExitCode.STORAGE, 0)
    said, dataset = (
        [
            line
            for line in out.with_suffix(".log").read_text().splitlines()
            if not line.startswith("shard ")
        ],
        Dataset(out),
    )
    sentence = re.fullmatch(
        r"quiver: (\S+): No space left on device, [\d.]+ (?:bytes?|[kMGT]B) are free there", said[0]
    )
    assert (
        len(said) == 1
        and sentence
        and sentence[1].startswith(f"{out}/")
        and ".tmp" not in sentence[1]
    ), said
    faults = verify(dataset).faults if dataset.run_json.exists() else []
    assert dataset.temporary_files() == [] and {(fault.what, fault.remedy) for fault in faults} <= {
        ("is not there", Remedy.FINALIZE)
    }
    before = committed_files(out)
    assert run_without_ray(small.clips, out, options=PER_SHARD) == 0
    assert {path: stamp for path, stamp in committed_files(out).items() if path in before} == before
    came = FaultCounter(small)
    try:
        came.record_ended(out)
    finally:
        for name, value in came.to_counts().items():
            record_property(name, value)


@pytest.mark.slow
def test_a_disk_with_room_for_every_call_is_not_full(small, folder, record_property):
    """So that the runs above are those that were meant."""
    record_property("injections", 0)
    code, left = filled(*folder, 100_000)
    assert (
        code == 0
        and max(NUMBERS) <= 100_000 - left
        and (FULL_COUNTS or 100_000 - left < max(NUMBERS) + 10)
    )
    assert promised_digests(folder[0] / "100000") == small.digests
