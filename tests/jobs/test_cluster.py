import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cluster import Needs, tasks_that_fit
from jobs.exits import Exit
from tests.faults.runs import preloaded
from tests.videos import swaying

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "resources, needs, fitting",
    [
        ([{"CPU": 8.0}], Needs(), 8),
        ([{"CPU": 8.0}], Needs(cpus=3), 2),
        ([{"CPU": 32.0, "GPU": 4.0}], Needs(cpus=4, gpus=1.0), 4),
        ([{"CPU": 32.0, "GPU": 4.0}], Needs(cpus=4, gpus=0.5), 8),
        ([{"CPU": 8.0, "GPU": 4.0}], Needs(cpus=4, gpus=0.5), 2),
        ([{"CPU": 16.0, "GPU": 1.0}], Needs(gpus=0.1), 10),
        ([{"CPU": 64.0, "GPU": 4.0}], Needs(gpus=0.1), 40),
        ([{"CPU": 5.0}, {"CPU": 5.0, "GPU": 1.0}], Needs(cpus=3), 2),
    ],
)
def test_as_many_tasks_as_their_needs_allow(resources, needs, fitting):
    assert tasks_that_fit(resources, needs) == fitting


@pytest.mark.parametrize(
    "resources, needs, words", [([{"CPU": 8.0}], Needs(gpus=1.0), "1 GPUs, .* has 8 and 0"), ([{"CPU": 4.0}] * 4, Needs(cpus=8), "8 CPUs .* has 4")]
)
def test_a_worker_that_fits_nowhere_is_a_sentence(resources, needs, words):
    with pytest.raises(ValueError, match=words):
        tasks_that_fit(resources, needs)


@pytest.mark.slow
def test_a_ray_that_does_not_start_in_time_is_a_sentence(tmp_path):
    """Its own daemon ends at once; Ray waits half a minute for it."""
    swaying(tmp_path / "a.mp4", seconds=1)
    env = os.environ | {"LD_PRELOAD": str(preloaded("not_started.c", tmp_path)), "NOT_STARTED": "raylet"}
    command = [sys.executable, "-m", "jobs.extract_flow", "--clips", str(tmp_path), "--out", str(tmp_path / "out"), "--workers", "1"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == Exit.FAILURE and re.fullmatch(r"quiver: Ray did not start \(.*\): the same command tries again\n", done.stderr), done.stderr
