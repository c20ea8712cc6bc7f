import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jobs import cluster, doctor
from jobs.cli.errors import ExitCode
from jobs.cluster import Resources, count_fitting_tasks
from jobs.doctor import State
from tests.faults.runs import build_preload_library
from tests.support.videos import write_swaying

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    "resources, needs, fitting",
    [
        ([{"CPU": 8.0}], Resources(), 8),
        ([{"CPU": 8.0}], Resources(cpus=3), 2),
        ([{"CPU": 32.0, "GPU": 4.0}], Resources(cpus=4, gpus=1.0), 4),
        ([{"CPU": 32.0, "GPU": 4.0}], Resources(cpus=4, gpus=0.5), 8),
        ([{"CPU": 8.0, "GPU": 4.0}], Resources(cpus=4, gpus=0.5), 2),
        ([{"CPU": 16.0, "GPU": 1.0}], Resources(gpus=0.1), 10),
        ([{"CPU": 64.0, "GPU": 4.0}], Resources(gpus=0.1), 40),
        ([{"CPU": 5.0}, {"CPU": 5.0, "GPU": 1.0}], Resources(cpus=3), 2),
    ],
)
def test_as_many_tasks_as_their_needs_allow(resources, needs, fitting):
    assert count_fitting_tasks(resources, needs) == fitting


@pytest.mark.parametrize(
    "resources, needs, words",
    [
        ([{"CPU": 8.0}], Resources(gpus=1.0), "1 GPUs, .* has 8 and 0"),
        ([{"CPU": 4.0}] * 4, Resources(cpus=8), "8 CPUs .* has 4"),
    ],
)
def test_a_worker_that_fits_nowhere_is_a_sentence(resources, needs, words):
    with pytest.raises(ValueError, match=words):
        count_fitting_tasks(resources, needs)


def extract(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs the real command on one clip, which gives no window."""
    write_swaying(folder / "clips" / "a.mp4", seconds=1)
    command = [
        sys.executable,
        "-m",
        "jobs.extract_flow",
        "--clips",
        str(folder / "clips"),
        "--out",
        str(folder / "out"),
        "--workers",
        "1",
    ]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=280
    )


@pytest.fixture
def clips(tmp_path) -> Path:
    (tmp_path / "clips").mkdir()
    return tmp_path


@pytest.mark.thorough
def test_a_ray_that_never_starts_in_time_is_a_sentence(clips):
    """The daemon of Ray ends at once; Ray waits half a minute for it, each time."""
    done = extract(
        clips, LD_PRELOAD=str(build_preload_library("not_started.c", clips)), NOT_STARTED="raylet"
    )
    words = (
        r"quiver: Ray did not start in 3 attempts \(.*\): the same command tries again, "
        r"best when the machine has less to do\n"
    )
    assert done.returncode == ExitCode.FAILURE and re.fullmatch(words, done.stderr), done.stderr


@pytest.mark.thorough
def test_a_ray_that_does_not_start_is_started_again(clips):
    env = dict(
        LD_PRELOAD=str(build_preload_library("not_started.c", clips)),
        NOT_STARTED="raylet",
        NOT_STARTED_ONCE=str(clips / "tried"),
    )
    done = extract(clips, **env)
    assert (
        (clips / "tried").exists()
        and done.returncode == ExitCode.SUCCESS
        and done.stderr == ""
        and "too_short 1" in done.stdout
    ), done.stderr


LISTENING = """
import os
from jobs import cluster
from tests.jobs.cluster.test_cluster import addresses, descendants
with cluster.ray_session(1, cluster.Resources()):
    import ray
    ray.get(ray.remote(lambda: 1).remote())
    print(ray._private.worker._global_node.get_session_dir_path(), flush=True)
    input()
    print(*addresses(descendants(os.getpid()) | {os.getpid()}))
"""


def descendants(process: int) -> set[int]:
    """Returns the processes that descend from one."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    children = {int(child) for task in tasks for child in task.read_text().split()}
    return children.union(*map(descendants, children))


def addresses(processes: set[int]) -> set[str]:
    """Returns the addresses at which processes listen for connections."""
    links = [link for process in processes for link in Path(f"/proc/{process}/fd").glob("*")]
    sockets = {os.readlink(link) for link in links if os.path.lexists(link)}
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                listening.add(local.partition(":")[0])
    return listening


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same as an address of IPv6, and ::1, as the kernel writes them."""


@pytest.mark.thorough
@pytest.mark.promise("P23")
def test_a_ray_of_our_own_is_of_this_machine_and_user_alone(tmp_path):
    """Nobody else reaches its ports or the folder of its sockets and logs, which it removes. The
    path of TMPDIR is too long for sockets.
    """
    (deep := tmp_path / ("d" * 90)).mkdir()
    env = {name: value for name, value in os.environ.items() if name != "RAY_TMPDIR"} | dict(
        TMPDIR=str(deep)
    )
    with subprocess.Popen(
        [sys.executable, "-c", LISTENING],
        cwd=ROOT,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        session = Path(process.stdout.readline().strip())
        outer = session.parents[1]
        mode = outer.stat().st_mode & 0o777
        said, errors = process.communicate("\n", timeout=120)
    assert process.returncode == 0, errors
    assert mode == 0o700 and outer.parent == Path("/tmp") and not outer.exists()
    assert said.split() and set(said.split()) <= LOOPBACK


@pytest.mark.thorough
def test_a_port_that_another_has_is_a_sentence(clips):
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = extract(clips, RAY_GCS_SERVER_PORT=str(server.getsockname()[1]))
    assert done.returncode == ExitCode.FAILURE and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "quiver: Ray did not start: a port is taken, as by another Ray on this machine"
    ), done.stderr


@pytest.mark.parametrize(
    "variables, place",
    [
        (dict(), "/tmp"),
        (dict(TMPDIR="{short}"), "{short}"),
        (dict(TMPDIR="{deep}"), "/tmp"),
        (dict(TMPDIR="/proc"), "/tmp"),
        (dict(TMPDIR="/tmp", RAY_TMPDIR="{short}"), "{short}"),
        (dict(TMPDIR="{short}", RAY_TMPDIR="{deep}"), "{short}"),
    ],
)
def test_where_the_files_of_ray_go(tmp_path, monkeypatch, variables, place):
    with tempfile.TemporaryDirectory(prefix="q-", dir="/tmp") as short:
        (deep := tmp_path / ("d" * 90)).mkdir()
        for name in ("TMPDIR", "RAY_TMPDIR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value.format(short=short, deep=deep))
        assert cluster.find_temp_folder() == place.format(short=short)
        finding = doctor.check_local_ray()
        assert (finding.state == State.WARNING) == any(
            "deep" in value or "proc" in value for value in list(variables.values())[-1:]
        ) and f"{place.format(short=short)}" in finding.says


def test_a_machine_with_no_place_for_ray(tmp_path, monkeypatch):
    """Even /tmp may be too long, or not writable."""
    monkeypatch.setattr("jobs.cluster.session.MAX_TEMP_PATH_BYTES", 3)
    with pytest.raises(cluster.RayNotStarted, match="set RAY_TMPDIR"):
        cluster.find_temp_folder()
    assert doctor.check_local_ray().state == State.WRONG


@pytest.mark.thorough
def test_a_token_that_was_read_before_is_forgotten():
    """Ray keeps the first token that a process reads: a Ray of our own once rejected it."""
    code = (
        "from ray._raylet import AuthenticationTokenLoader as loader; from jobs import cluster\n"
        "assert loader.instance().get_raw_token() == '0' * 64\n"
        "with cluster.ray_session(1, cluster.Resources()): print('started')"
    )
    env = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0" * 64,
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0 and done.stdout == "started\n", done.stderr
