"""Authentication of Ray: whoever reaches a cluster without a token can run programs on it."""

import os
import secrets
from contextlib import closing, suppress
from functools import cache
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

TOKEN_SOURCES = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"  # noqa: S105


class InsecureCluster(Exception):
    """A cluster accepts work from whoever reaches it, or requires a token that we do not have."""


def secure_local_ray() -> None:
    """Sets the environment so that a Ray of our own answers only to the token of this process, and
    only on this machine. Ray reads these variables when it is imported.
    """
    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=session_token(),
        # On every system, this opens ports on the loopback interface only.
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
        RAY_enable_metrics_collection="0",
    )


@cache
def session_token() -> str:
    """Returns the token of this process, always the same: Ray keeps the first that it reads."""
    return secrets.token_hex(32)


def require_token() -> None:
    """Raises InsecureCluster if a cluster is to be used without a token: its ports, too, listen on
    every interface.
    """
    if (mode := os.environ.setdefault("RAY_AUTH_MODE", "token")).lower() != "token":
        raise InsecureCluster(
            f"RAY_AUTH_MODE is {mode!r} and RAY_ADDRESS {os.environ['RAY_ADDRESS']!r}, "
            "expected 'token': without it whoever reaches the cluster runs programs on it"
        )


def check_dashboard_secured(dashboard: str) -> None:
    """Raises InsecureCluster if the dashboard at `HOST:PORT`, through which jobs are submitted,
    answers without a token. If it cannot be reached from here, nothing is known.
    """
    connection = HTTPConnection(dashboard, timeout=10)
    with suppress(OSError, HTTPException), closing(connection):
        connection.request("GET", "/api/jobs/")
        if connection.getresponse().status < HTTPStatus.BAD_REQUEST:
            raise InsecureCluster(
                f"the dashboard of Ray at {dashboard} answers without a token, so that whoever "
                "reaches it runs programs on the cluster: start it with RAY_AUTH_MODE=token "
                "(docs/guides/cluster.md)"
            )


def find_exposed_token() -> Path | None:
    """Returns the file of Ray's token if other users of this machine can read it, else None."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path if path.exists() and path.stat().st_mode & 0o077 else None
