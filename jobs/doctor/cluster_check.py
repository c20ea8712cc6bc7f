"""Checks Ray: a cluster that RAY_ADDRESS names, or the place for the files of a Ray of our own."""

import os
from importlib.metadata import version

from jobs.doctor.finding import Finding, State


def check_ray() -> Finding:
    """Checks that the cluster, if one is named, accepts work with our token and none without."""
    from jobs import cluster

    if not (address := os.environ.get("RAY_ADDRESS")):
        version("ray")
        return check_local_ray()
    try:
        with cluster.ray_session(None, cluster.Resources()):
            fitting = cluster.capacity(None, cluster.Resources())
    except cluster.InsecureCluster as error:
        return Finding(
            State.WRONG,
            str(error),
            "give the nodes and this shell the same token, with RAY_AUTH_MODE=token "
            "(docs/guides/cluster.md)",
        )
    except OSError as error:
        return Finding(
            State.WRONG,
            f"there is no Ray at {address}: {' '.join(str(error).split())[:200]}",
            "start it, or unset RAY_ADDRESS",
        )
    if path := cluster.find_exposed_token():
        return Finding(
            State.WARNING,
            f"others on this machine can read {path}, and so run programs on the cluster",
            f"chmod 600 {path}",
        )
    return Finding(State.OK, f"{address} wants a token and takes ours; {fitting} workers fit")


def check_local_ray() -> Finding:
    """Checks that there is a place for the files of a Ray of our own."""
    from jobs.cluster.session import MAX_TEMP_PATH_BYTES, RayNotStarted, find_temp_folder

    try:
        folder = find_temp_folder()
    except RayNotStarted as error:
        return Finding(State.WRONG, str(error), "RAY_TMPDIR=/a/short/path, on a local disk")
    preferred_folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or folder
    words = (
        "each run starts a Ray of its own, on this machine alone, with a token made for that run"
    )
    if folder == os.path.abspath(preferred_folder):
        return Finding(State.OK, f"{words}; its files are in {folder} meanwhile")
    return Finding(
        State.WARNING,
        f"{words}; its files go to {folder}: {preferred_folder} cannot be written, or is longer "
        f"than the {MAX_TEMP_PATH_BYTES} bytes that Ray's sockets leave",
        "name a shorter folder by RAY_TMPDIR, or leave it so",
    )
