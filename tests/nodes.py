"""Nodes of Ray on this machine, which end with their block; each test has ports and a token of its own."""

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

RAY = str(Path(sys.executable).with_name("ray"))


class Head(NamedTuple):
    """A cluster to which work can be sent."""

    dashboard: str
    """HOST:PORT."""
    gcs: str
    """HOST:PORT, for RAY_ADDRESS and for other nodes."""
    env: dict[str, str]
    """With what authenticates."""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def head(cpus: int, authenticated: bool = True) -> Iterator[Head]:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)} if authenticated else {"RAY_AUTH_MODE": "disabled"}
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | token | {"RAY_USAGE_STATS_ENABLED": "0"}
    gcs, dashboard, agent, client = free_ports(4)
    ports = [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
    with started(["--head", "--dashboard-host=127.0.0.1", *ports], cpus, env):
        found = Head(f"127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", env)
        wait_until_up(found, "/api/version")
        yield found


@contextmanager
def node(of: Head, cpus: int) -> Iterator[None]:
    """One more, which has joined when the block begins."""
    with started([f"--address={of.gcs}", f"--dashboard-agent-listen-port={free_ports(1)[0]}"], cpus, of.env):
        wait_until_up(of, "/api/v0/nodes", b'"is_head_node": false')
        yield


@contextmanager
def started(options: list[str], cpus: int, env: dict[str, str]) -> Iterator[None]:
    command = [RAY, "start", "--block", "--node-ip-address=127.0.0.1", f"--num-cpus={cpus}", *options]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def wait_until_up(of: Head, path: str, words: bytes = b"") -> None:
    """Waits for an answer with these words."""
    deadline = time.monotonic() + 120
    request = urllib.request.Request(f"http://{of.dashboard}{path}", headers={"Authorization": f"Bearer {of.env.get('RAY_AUTH_TOKEN', '')}"})
    while time.monotonic() < deadline:
        try:
            if words in urllib.request.urlopen(request, timeout=5).read():
                return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.5)
    raise TimeoutError(path)
