"""P12: the same clips and settings give the same bytes, whatever else is otherwise."""

import datetime
import os
import subprocess
import sys

import pytest

from tests.faults.reference import (
    CLIP_COUNT,
    FULL_COUNTS,
    ROOT,
    SINGLE_THREAD_ENV,
    choose_count,
    extract,
    extract_command,
    write_table,
)
from tests.faults.runs import build_preload_library

pytestmark = pytest.mark.promise("P12")
CHANGES: dict[str, dict[str, str]] = {
    "locale": {"LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "time zone": {"TZ": "Asia/Kathmandu"},
    "umask": {"UMASK": "077"},
    "hash seed": {"PYTHONHASHSEED": "77"},
    "clock": {"CLOCK": "ahead"},
    "order of the clips": {"ORDER": "shuffled"},
}
CASES = list(CHANGES) if FULL_COUNTS else ["all of these"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_bytes_are_the_same_with_another(reference, injected, tmp_path, case):
    """In a new interpreter, without Ray."""
    env = (
        CHANGES[case]
        if FULL_COUNTS
        else {name: value for changes in CHANGES.values() for name, value in changes.items()}
    )
    clips, out = reference.clips, tmp_path / "dataset"
    if "ORDER" in env:
        clips = write_table(
            clips.with_name("shuffled.csv"), [(7 * i + 3) % CLIP_COUNT for i in range(CLIP_COUNT)]
        )
    if "CLOCK" in env:
        env = env | {"LD_PRELOAD": str(build_preload_library("other_clock.c", tmp_path))}
    arguments = [sys.executable, "-m", "tests.faults.runs", *extract_command(clips, out)[3:]]
    umask = int(env.get("UMASK", "022"), 8)
    done = subprocess.run(
        arguments,
        cwd=ROOT,
        env=os.environ | SINGLE_THREAD_ENV | env,
        umask=umask,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    if "UMASK" in env:
        assert out.joinpath("run.json").stat().st_mode & 0o777 == 0o600
    injected.record_ended(out)


@pytest.mark.thorough
@pytest.mark.parametrize("workers", [2, 1, 8][: choose_count(3, 1)])
def test_the_bytes_are_the_same_by_so_many_workers(reference, injected, tmp_path, workers):
    """The real command; tests/jobs/test_extract_flow.py compares one worker with two too."""
    done = extract(reference.clips, tmp_path / "dataset", workers=workers)
    assert done.returncode == 0, done.stderr
    injected.record_ended(tmp_path / "dataset")


def test_the_clock_is_another(tmp_path, record_property):
    """So that the run above is the one that was meant."""
    record_property("injections", 0)
    year = subprocess.run(
        [sys.executable, "-c", "import datetime; print(datetime.date.today().year)"],
        env=os.environ | {"LD_PRELOAD": str(build_preload_library("other_clock.c", tmp_path))},
        capture_output=True,
        text=True,
    ).stdout
    assert int(year) >= datetime.date.today().year + 9
