"""P26: a data set in object storage, which fails one call in five, drops uploads and loses answers, is the one of the undisturbed run in a folder."""

import os
import random
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.exits import Exit
from pipeline.crashpoint import POINTS, REMOTE, VARIABLE
from tests.faults import storage
from tests.faults.reference import FULL, PLACES, SHARDS, command, extract
from tests.faults.runs import build_here, forked
from tests.faults.storage import Faulty, downloaded, url

pytestmark = pytest.mark.promise("P26")
PASSES = {"mid-member": 3}
WHERE = {"after-contract": {"begun": "run"}, "after-derived": {"manifest": "manifest", "card": "README"}}
CRASHES = [(point, place, shard) for point in (*REMOTE, *POINTS) for place, shard in WHERE.get(point, PLACES).items()]
QUICK = [("after-contract", "begun"), ("after-upload-tar", "first"), ("after-commit", "middle"), ("after-copy", "last"), ("after-record", "first"), ("mid-finalize", "last")]
"""In `make test`; all in `make test-faults`."""
SOME = CRASHES if FULL else [crash for crash in CRASHES if crash[:2] in QUICK]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    with storage.storage(tmp_path_factory.mktemp("storage") / "log") as address:
        storage.client(address).create_bucket(Bucket=storage.BUCKET)
        yield address


@pytest.fixture
def proxy(server, request) -> Iterator[Faulty]:
    seed = random.Random(request.node.name).randrange(1 << 30)
    with storage.faulty(server, seed) as proxy:
        yield proxy


@pytest.fixture
def prefix(tmp_path) -> str:
    """In the storage, of this test."""
    return f"{tmp_path.parent.name}/{tmp_path.name}"


def run(clips: Path, prefix: str, staging: Path, proxy: Faulty, *options: str, **env: str) -> int:
    """Exit code of a run without Ray, whose output is beside its staging folder."""
    arguments = command(clips, Path("out"), "--staging", str(staging), *options)[3:]
    arguments[arguments.index("out")] = url(prefix)
    return forked(build_here, arguments, output=staging.with_suffix(".log"), **storage.environment(proxy), **env)


def placed(proxy: Faulty, prefix: str) -> list[str]:
    """Shards whose tars were put in their place."""
    found = [re.search(rf"/{prefix}/shards/(\S+)\.tar$", path) for method, path in proxy.written if method == "PUT"]
    return [match[1] for match in found if match]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("point, place, shard", SOME, ids=lambda value: value)
def test_a_run_killed_at(reference, injected, proxy, server, prefix, tmp_path, point, place, shard):
    """And the same command again; every second time on another machine, which has nothing of the first."""
    staging = tmp_path / "staging"
    assert run(reference.clips, prefix, staging, proxy, **{VARIABLE: f"{point} {shard} {PASSES.get(point, 1)}"}) == -signal.SIGKILL
    done = {Path(path).stem for path in downloaded(server, prefix, tmp_path / "before").glob("records/*.json")}
    first = placed(proxy, prefix)
    elsewhere = CRASHES.index((point, place, shard)) % 2
    again = tmp_path / "elsewhere" if elsewhere else staging
    assert run(reference.clips, prefix, again, proxy) == 0, again.with_suffix(".log").read_text()
    built = re.findall(r'"shard": "(\S+)"', again.with_suffix(".log").read_text())
    assert not done & set(built[len(first) if not elsewhere else 0 :]) or not elsewhere
    injected.ended(downloaded(server, prefix, tmp_path / "found"), 1 + proxy.injected)
    assert left(again) == [".lock"]
