"""Starts nodes of Ray on this machine, which end with their block; each test has its own ports and
token.
"""

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

RAY_COMMAND = str(Path(sys.executable).with_name("ray"))

AGENT_PORT_OPTIONS = (
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
    "runtime-env-agent-port",
)


class ClusterHead(NamedTuple):
    """A cluster to which work can be sent."""

    dashboard: str
    """HOST:PORT."""
    gcs: str
    """HOST:PORT, for RAY_ADDRESS and for other nodes."""
    env: dict[str, str]
    """The environment, with the token."""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for listener in sockets:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


@contextmanager
def start_head(cpus: int, authenticated: bool = True) -> Iterator[ClusterHead]:
    token = (
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        if authenticated
        else {"RAY_AUTH_MODE": "disabled"}
    )
    env = (
        {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        | token
        | {"RAY_USAGE_STATS_ENABLED": "0"}
    )
    gcs, dashboard, client = free_ports(3)
    ports = [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    head = ClusterHead(f"127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", env)
    with run_node(
        head, ["--head", "--dashboard-host=127.0.0.1", *ports], cpus, b'"is_head_node": true'
    ):
        yield head


@contextmanager
def start_node(head: ClusterHead, cpus: int) -> Iterator[int]:
    """Adds a node that has joined when the block begins; yields the process from which all others
    of the node descend.
    """
    name = secrets.token_hex(8)
    with run_node(
        head, [f"--address={head.gcs}", f"--node-name={name}"], cpus, name.encode()
    ) as process:
        yield process


@contextmanager
def run_node(head: ClusterHead, options: list[str], cpus: int, listed: bytes) -> Iterator[int]:
    """Runs a node that the cluster lists with the words `listed`. On a busy machine Ray gives up a
    node whose agents take more than 15 s to start: then another is started.
    """
    ports = [
        f"--{name}={port}"
        for name, port in zip(AGENT_PORT_OPTIONS, free_ports(len(AGENT_PORT_OPTIONS)), strict=True)
    ]
    command = [
        RAY_COMMAND,
        "start",
        "--block",
        "--node-ip-address=127.0.0.1",
        f"--num-cpus={cpus}",
        *ports,
        *options,
    ]
    deadline = time.monotonic() + 300
    process = subprocess.Popen(
        command, env=head.env, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    try:
        while not is_node_listed(head, listed):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no node within 300 s by {command}")
            if process.poll() is not None:
                process = subprocess.Popen(
                    command, env=head.env, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
                )
            time.sleep(0.5)
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=60)


def is_node_listed(head: ClusterHead, words: bytes) -> bool:
    request = urllib.request.Request(
        f"http://{head.dashboard}/api/v0/nodes",
        headers={"Authorization": f"Bearer {head.env.get('RAY_AUTH_TOKEN', '')}"},
    )
    try:
        return words in urllib.request.urlopen(request, timeout=5).read()
    except OSError:
        return False
