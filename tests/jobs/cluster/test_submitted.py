"""`ray job submit` against a running cluster of two nodes, with token authentication; and a cluster
that has none.
"""

import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.cli.errors import ExitCode
from pipeline.dataset.run_lock import LOCK_FOLDER
from tests.jobs.test_extract_flow import SMALL, contents
from tests.support import nodes, videos

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def cluster() -> Iterator[nodes.ClusterHead]:
    """A head that computes nothing, and a node that does."""
    with nodes.start_head(cpus=0) as head, nodes.start_node(head, cpus=2):
        yield head


def submit(
    cluster: nodes.ClusterHead, *arguments: str, **env: str
) -> subprocess.CompletedProcess[str]:
    address = f"http://{cluster.dashboard}"
    command = [
        nodes.RAY_COMMAND,
        "job",
        "submit",
        "--address",
        address,
        "--working-dir",
        ".",
        "--",
        sys.executable,
        "jobs/extract_flow.py",
        *arguments,
    ]
    return subprocess.run(
        command, cwd=ROOT, env=cluster.env | env, capture_output=True, text=True, timeout=240
    )


@pytest.mark.thorough
def test_a_submitted_job_writes_the_data_set_that_this_machine_alone_would(cluster, tmp_path):
    (tmp_path / "clips").mkdir()
    videos.write_swaying(
        tmp_path / "clips" / "a.mp4", seconds=2, amplitude=1.5, hertz=1.2, size=(96, 60)
    )
    done = submit(
        cluster, "--clips", str(tmp_path / "clips"), "--out", str(tmp_path / "dataset"), *SMALL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(pq.read_table(tmp_path / "dataset" / "manifest.parquet")) == 4
    # what was uploaded has no commit in its version, so neither may what it is compared with
    uncommitted = shutil.ignore_patterns(".*", "build", "site", "demo", "*.egg-info")
    shutil.copytree(ROOT, tmp_path / "tree", ignore=uncommitted)
    command = [sys.executable, "jobs/extract_flow.py", "--clips", str(tmp_path / "clips")]
    command += ["--out", str(tmp_path / "alone"), "--workers", "1", *SMALL]
    alone = subprocess.run(command, cwd=tmp_path / "tree", capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    assert contents(tmp_path / "dataset") == contents(tmp_path / "alone")


@pytest.mark.slow
def test_relative_paths_are_refused_in_a_submitted_job(cluster):
    done = submit(cluster, "--clips", "clips", "--out", "/tmp/nowhere")
    assert (
        done.returncode != 0
        and "'clips' is a relative path, expected an absolute one" in done.stdout + done.stderr
    )


@pytest.mark.thorough
@pytest.mark.promise("P23")
def test_another_token_gets_nowhere(cluster, tmp_path):
    """Neither to submit a job, nor to compute on the cluster, nor to ask what it does."""
    done = submit(cluster, "--help", RAY_AUTH_TOKEN="0" * 64)
    assert done.returncode != 0 and "uthenti" in done.stdout + done.stderr
    for name in ("0" * 64, ""):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(
                urllib.request.Request(
                    f"http://{cluster.dashboard}/api/jobs/",
                    headers={"Authorization": f"Bearer {name}"} if name else {},
                )
            )
        assert refused.value.code in (401, 403)
    refused_by_quiver(
        tmp_path,
        cluster.env | {"RAY_ADDRESS": cluster.gcs, "RAY_AUTH_TOKEN": "0" * 64},
        "no Ray answers to the token in",
        ExitCode.STORAGE,
    )
    env = {name: value for name, value in cluster.env.items() if name != "RAY_AUTH_TOKEN"} | {
        "HOME": str(tmp_path)
    }
    refused_by_quiver(tmp_path, env | {"RAY_ADDRESS": cluster.gcs}, "and no token is in")


def refused_by_quiver(
    tmp_path: Path, env: dict[str, str], words: str, code: ExitCode = ExitCode.INSECURE_CLUSTER
) -> None:
    videos.write_swaying(tmp_path / "a.mp4", seconds=1, amplitude=1.5, hertz=1.2, size=(96, 60))
    command = [
        sys.executable,
        "-m",
        "jobs.cli.main",
        "extract-flow",
        "--clips",
        str(tmp_path / "a.mp4"),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
    assert (
        done.returncode == code
        and words in done.stderr
        and done.stderr.count("quiver: ") == 1
        and "Traceback" not in done.stderr
    ), done.stderr
    assert not [path for path in (tmp_path / "out").rglob("*") if LOCK_FOLDER not in path.parts]


@pytest.mark.slow
@pytest.mark.promise("P23")
@pytest.mark.parametrize(
    "address", ["203.0.113.7:6379", "127.0.0.1:6379", "ray://203.0.113.7:10001", "auto"]
)
def test_no_token_is_refused_before_anything_is_sent(tmp_path, address):
    env = os.environ | {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
    refused_by_quiver(
        tmp_path, env, f"RAY_AUTH_MODE is 'disabled' and RAY_ADDRESS '{address}', expected 'token'"
    )


@pytest.mark.thorough
@pytest.mark.promise("P23")
def test_a_dashboard_that_answers_without_a_token_is_refused(tmp_path):
    """Though we have a token: others need none. Its ports listen on every interface, whatever
    address it has.
    """
    with nodes.start_head(cpus=1, authenticated=False) as head:
        refused_by_quiver(
            tmp_path,
            head.env
            | {"RAY_ADDRESS": head.gcs, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
            "answers without a token",
        )
