"""`ray job submit` against a running cluster: a head node of our own, with token authentication."""

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests import videos
from tests.jobs.test_extract_flow import SMALL

ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def cluster():
    """(address, environment) of a head node that ends with the module."""
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    gcs, dashboard, agent, client = free_ports(4)
    options = [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}", "--num-cpus=2"]
    head = subprocess.Popen(
        [RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", *options], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_until_up(f"{address}/api/version", env["RAY_AUTH_TOKEN"])
        yield address, env
    finally:
        head.terminate()
        head.wait(timeout=60)


def wait_until_up(url: str, token: str) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"}), timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise TimeoutError(url)


def submit(cluster: tuple[str, dict[str, str]], *arguments: str) -> subprocess.CompletedProcess[str]:
    address, env = cluster
    command = [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--", sys.executable, "jobs/extract_flow.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)


def test_a_submitted_job_writes_a_data_set(cluster, tmp_path):
    (tmp_path / "clips").mkdir()
    videos.swaying(tmp_path / "clips" / "a.mp4", seconds=2, amplitude=1.5, hertz=1.2, size=(96, 60))
    done = submit(cluster, "--clips", str(tmp_path / "clips"), "--out", str(tmp_path / "dataset"), *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(pq.read_table(tmp_path / "dataset" / "manifest.parquet")) == 4


def test_relative_paths_are_refused_in_a_submitted_job(cluster):
    done = submit(cluster, "--clips", "clips", "--out", "/tmp/nowhere")
    assert done.returncode != 0 and "'clips' is a relative path, expected an absolute one" in done.stdout + done.stderr
