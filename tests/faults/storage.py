"""A real S3 server on this machine (moto's, a process of its own), and in front of it a proxy that
loses what it should not.
"""

import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread

import boto3

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}
SMALL_PAGES = {"MOTO_S3_DEFAULT_MAX_KEYS": "5"}
"""So that listings come in several."""
BUCKET = "quiver-test"
FAULT_SHARE = 0.2
"""Of calls that go wrong."""
BUSY_RESPONSE = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """The address of a server that runs until the end of the block."""
    port = free_port()
    with log.open("wb") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=file,
            stderr=file,
            env=os.environ | CREDENTIALS | SMALL_PAGES,
        )
    try:
        for _ in range(600):
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def s3_client(address: str):
    """boto3's own, past the proxy."""
    session = boto3.session.Session(
        CREDENTIALS["AWS_ACCESS_KEY_ID"],
        CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
    )
    return session.client("s3", endpoint_url=address)


class FaultyProxy(ThreadingHTTPServer):
    """Passes every request on to the server, but for a share of them, by chance from a seed."""

    daemon_threads = True

    def __init__(self, address: str, seed: int = 0, share: float = FAULT_SHARE):
        super().__init__(("127.0.0.1", 0), ProxyHandler)
        self.upstream, self.share = address.removeprefix("http://"), share
        self.chance, self.lock = random.Random(seed), Lock()
        self.faults: Counter[str] = Counter()
        self.ignores_conditions = False
        """Whether conditions do not reach the server, as if it were one that knows none."""
        self.max_requests: int | None = None
        """After so many requests each is refused."""
        self.changes: list[tuple[str, str]] = []
        """Method and path of what was changed in the storage, in order."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def choose_fault(self, method: str, length: int) -> str | None:
        """What befalls a request, if anything: it is refused, broken off on its way there, or its
        answer is lost or broken off.
        """
        kinds = [
            "refused",
            "answer lost",
            *(["upload broken off"] if length else []),
            *(["answer broken off"] if method == "GET" else []),
        ]
        with self.lock:
            gone = self.max_requests is not None and self.faults.total() >= self.max_requests
            kind = (
                "refused"
                if gone
                else self.chance.choice(kinds)
                if self.chance.random() < self.share
                else None
            )
            self.faults[kind or "none"] += 1
        return kind

    @property
    def fault_count(self) -> int:
        return self.faults.total() - self.faults["none"]


class ProxyHandler(BaseHTTPRequestHandler):
    """One connection through the proxy."""

    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def forward_request(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        kind = self.server.choose_fault(self.command, length)
        if kind == "upload broken off":
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        body = self.rfile.read(length)
        if kind == "refused":
            self.send_answer(503, {}, BUSY_RESPONSE)
            return
        status, headers, data = self.ask_upstream(body)
        if kind == "answer lost":
            self.close_connection = True
            return
        self.send_answer(
            status, headers, data, len(data) // 2 if kind == "answer broken off" else len(data)
        )

    def ask_upstream(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """What the server answers."""
        with closing(HTTPConnection(self.server.upstream, timeout=60)) as connection:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in (
                    "connection",
                    "expect",
                    *(["if-none-match"] if self.server.ignores_conditions else []),
                ):
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            response: HTTPResponse = connection.getresponse()
            data = response.read()
        if self.command != "GET" and response.status < 300:
            self.server.changes.append((self.command, self.path))
        return response.status, dict(response.getheaders()), data

    def send_answer(
        self, status: int, headers: dict[str, str], data: bytes, sent: int | None = None
    ) -> None:
        """All of it, or the first so many bytes, after which the connection is closed."""
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header(
            "Content-Length",
            headers.get("Content-Length", str(len(data)))
            if self.command == "HEAD"
            else str(len(data)),
        )
        self.end_headers()
        self.wfile.write(data[:sent])
        self.close_connection = self.close_connection or (sent is not None and sent < len(data))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward_request


@contextmanager
def faulty_proxy(address: str, seed: int = 0, share: float = FAULT_SHARE) -> Iterator[FaultyProxy]:
    """A proxy in front of the server at that address."""
    with FaultyProxy(address, seed, share) as proxy:
        thread = Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()


def proxy_environment(proxy: FaultyProxy) -> dict[str, str]:
    """Of a run that is to use the storage through it."""
    return CREDENTIALS | {"AWS_ENDPOINT_URL": proxy.address}


def download_dataset(address: str, prefix: str, goal: Path) -> Path:
    """A data set copied from the storage into a folder, as any tool would."""
    s3 = s3_client(address)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/"):
        for entry in page.get("Contents", []):
            path = goal / entry["Key"].removeprefix(f"{prefix}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(BUCKET, entry["Key"], str(path))
    return goal


def bucket_url(prefix: str) -> str:
    return f"s3://{BUCKET}/{prefix}"
