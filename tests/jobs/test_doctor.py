"""quiver doctor, on machines on which something is missing, old, damaged or open."""

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import jobs
from jobs import doctor
from jobs.cli.errors import ExitCode
from jobs.doctor import Finding, State

ROOT = Path(__file__).resolve().parents[2]


def quiver(*arguments: object, **env: str) -> tuple[int, dict[str, Finding], str]:
    """Returns exit code, findings and standard error of the real command."""
    command = [sys.executable, "-m", "jobs.cli.main", "doctor", "--json", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=240
    )
    said = json.loads(done.stdout)
    assert said["exit"] == done.returncode
    return (
        done.returncode,
        {check.pop("what"): Finding(**check) for check in said["checks"]},
        done.stderr,
    )


@pytest.mark.slow
def test_a_sound_machine_and_a_folder_that_is_not_there_yet(tmp_path):
    code, found, said = quiver("--out", tmp_path / "new" / "dataset")
    assert code == ExitCode.SUCCESS and "Traceback" not in said
    assert found.keys() == doctor.list_checks(tmp_path).keys() and not list(tmp_path.iterdir())
    well = {
        "Python",
        "packages",
        "packages of extract",
        "packages of train",
        "packages of report",
        "torchvision",
        "decoders",
        "encoders",
        "output folder",
    }
    assert all(found[name].state == State.OK and not found[name].remedy for name in well), found
    assert "8 frames of H.264" in found["decoders"].says
    assert all(finding.remedy for finding in found.values() if finding.state != State.OK)


@pytest.mark.thorough
def test_a_machine_that_lacks_much(tmp_path):
    """A package that does not load, one that is too old, no compiler, and a folder that cannot be
    written.
    """
    (tmp_path / "pyarrow.py").write_text(
        "raise ImportError('libarrow.so.99: cannot open shared object file')"
    )
    (tmp_path / "ray-2.50.1.dist-info").mkdir()
    (tmp_path / "ray-2.50.1.dist-info" / "METADATA").write_text("Name: ray\nVersion: 2.50.1\n")
    code, found, said = quiver(
        "--out",
        "/proc/dataset",
        PYTHONPATH=f"{tmp_path}:{ROOT}",
        CXX="/nowhere/g++",
        TORCH_EXTENSIONS_DIR=str(tmp_path / "built"),
    )
    assert code == ExitCode.FAILURE and "Traceback" not in said
    assert (
        found["packages of extract"].state == State.WRONG
        and "too old: ray 2.50.1 (needs 2." in found["packages of extract"].says
    )
    assert (
        found["output folder"].state == State.WRONG
        and "libarrow.so.99" in found["output folder"].says
    )
    assert found["splatting"].state == State.WARNING and "C++ compiler" in found["splatting"].remedy
    assert found["torchvision"].state == State.OK


def test_a_person_reads_lines(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        doctor.main(["--out", str(tmp_path / "file")])
    said = capsys.readouterr().out
    assert stopped.value.code == ExitCode.STORAGE
    assert (
        f"\nwrong    output folder       {tmp_path / 'file'} is a file\n{'':29}-> name a folder"
        in said
        and said.rstrip().endswith(", 1 wrong")
    )


@pytest.mark.parametrize(
    "error", [AttributeError, TypeError, KeyError, ImportError, SyntaxError, NameError]
)
def test_a_package_is_broken_in_its_own_way(error):
    def check() -> Finding:
        raise error("numpy.dtype size changed")

    found = doctor.run_check(check)
    assert found.state == State.WRONG and "numpy.dtype size changed" in found.says


def lines_of(folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Starts the real command, which finds the modules of a folder before all others."""
    command = [sys.executable, "-m", "jobs.cli.main", "doctor", *arguments]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{folder}:{ROOT}"},
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.thorough
def test_nobody_reads_on(tmp_path):
    ours, theirs = os.pipe()
    os.close(ours)
    with lines_of(tmp_path, stdout=theirs) as process:
        os.close(theirs)
        _, said = process.communicate(timeout=240)
    assert (process.returncode, said) == (ExitCode.BROKEN_PIPE, "")


@pytest.mark.thorough
def test_it_is_interrupted(tmp_path):
    """Tests in the background of a shell ignore SIGINT, and so does what they start."""
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    (tmp_path / "av.py").write_text(
        f"import os, signal, time\n{heard}\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)"
    )
    with lines_of(tmp_path, stdout=subprocess.DEVNULL) as process:
        _, said = process.communicate(timeout=240)
    assert (process.returncode, said) == (
        ExitCode.INTERRUPTED,
        "quiver: interrupted; nothing is left behind\n",
    )


@pytest.mark.thorough
def test_without_what_reads_options_there_are_none(tmp_path):
    (tmp_path / "tyro.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'tyro'\", name='tyro')"
    )
    with lines_of(tmp_path, stdout=subprocess.PIPE) as process:
        told, said = process.communicate(timeout=240)
    assert (process.returncode, said) == (ExitCode.SUCCESS, "") and "ok       Python" in told
    with lines_of(tmp_path, "--json", stdout=subprocess.PIPE) as process:
        told, said = process.communicate(timeout=240)
    assert (
        (process.returncode, told) == (ExitCode.USAGE, "")
        and said.startswith("quiver doctor: --json cannot be read without tyro")
        and said.count("\n") == 1
    )


def test_an_older_python_is_told_so(monkeypatch):
    path = ROOT / "jobs" / "__init__.py"
    ast.parse(path.read_text(), feature_version=(3, 6))
    monkeypatch.setattr(sys, "version_info", (3, 8, 18))
    with pytest.raises(SystemExit, match=r"expected 3\.11 or newer"):
        importlib.reload(jobs)


@pytest.mark.parametrize("name", ["python3.8", "python3.9", "python3.10"])
def test_by_itself(name):
    if (
        subprocess.run([name, "--version"], capture_output=True).returncode
        if shutil.which(name)
        else True
    ):
        pytest.skip(f"there is no {name}")
    done = subprocess.run([name, "-m", "jobs.doctor"], cwd=ROOT, capture_output=True, text=True)
    assert (
        done.returncode == ExitCode.FAILURE
        and done.stderr.startswith(f"quiver: this is Python {name.removeprefix('python')}.")
        and done.stderr.count("\n") == 1
    )


@pytest.mark.parametrize("chosen", ["", "-1"])
def test_gpus_that_are_hidden_by_choice(monkeypatch, chosen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    found = doctor.check_gpu()
    assert (
        found.state == State.WARNING
        and f"CUDA_VISIBLE_DEVICES is {chosen!r}" in found.says
        and found.remedy.startswith("unset it")
    )


@pytest.mark.parametrize(
    ("line", "group", "most", "used", "cached"),
    [
        ("0::/", "", "memory.max", "memory.current", "inactive_file"),
        ("0::/pod/container", "pod", "memory.max", "memory.current", "inactive_file"),
        (
            "3:cpu,memory:/docker/0a",
            "memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ],
)
def test_a_container_has_less_memory_than_the_machine(tmp_path, line, group, most, used, cached):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    8388608 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text(f"7:freezer:/x\n{line}\n")
    assert doctor.available_memory_bytes(tmp_path) == 8 << 30
    (folder := tmp_path / "sys" / "fs" / "cgroup" / group).mkdir(parents=True)
    (folder / most).write_text("max\n")
    assert doctor.available_memory_bytes(tmp_path) == 8 << 30
    for name, text in (
        (most, f"{2 << 30}\n"),
        (used, f"{1 << 30}\n"),
        ("memory.stat", f"anon 1\n{cached} {1 << 29}\n"),
    ):
        (folder / name).write_text(text)
    assert doctor.available_memory_bytes(tmp_path) == 3 << 29


def output(folder: Path) -> Finding:
    return doctor.run_check(doctor.list_checks(folder)["output folder"])


@pytest.fixture
def readonly(tmp_path) -> Iterator[Path]:
    """A small disk that cannot be written."""
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,ro", "tmpfs", str(tmp_path)], capture_output=True
    ).returncode:
        pytest.skip("this user may not mount a file system")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_disk_that_is_small_and_cannot_be_written(readonly):
    found = {
        name: doctor.run_check(check)
        for name, check in doctor.list_checks(readonly / "dataset").items()
        if name in ("disk", "output folder")
    }
    assert (
        found["disk"].state == State.WRONG
        and found["disk"].says == f"0.0 GiB are free at {readonly}"
    )
    assert (
        found["output folder"].state == State.WRONG
        and "Read-only file system" in found["output folder"].says
    )
    assert doctor.exit_code(found) == ExitCode.STORAGE


@pytest.mark.parametrize("folder", ["/proc", "/proc/a/b"])
def test_a_folder_that_cannot_be_written(folder):
    found = output(Path(folder))
    assert (
        found.state == State.WRONG
        and found.says.startswith("/proc cannot be written")
        and "hard links" in found.remedy
    )


MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
server:/a /data nfs rw,vers=3,hard,proto=tcp,local_lock=flock,addr=10.0.0.1 0 0
server:/b /data/b nfs4 rw,vers=4.2,local_lock=none,addr=10.0.0.1 0 0
server:/c /data/c\\040d nfs rw,nolock,local_lock=all 0 0
server:/d /data/b/posix nfs rw,local_lock=posix 0 0
lake /lake lustre rw,localflock,lazystatfs 0 0
lake /deep lustre rw,flock 0 0
server:/e /twice nfs rw,local_lock=all 0 0
tmpfs /twice tmpfs rw,nolock 0 0
odd
"""


@pytest.mark.parametrize(
    "path, options",
    [
        ("/home/a", ""),
        ("/data", "local_lock=flock"),
        ("/data/run", "local_lock=flock"),
        ("/database", ""),
        ("/data/b/run", ""),
        ("/data/b/posix", ""),
        ("/data/c d/run", "nolock, local_lock=all"),
        ("/lake/run", "localflock"),
        ("/deep/run", ""),
        ("/twice/run", ""),
    ],
)
def test_a_mount_whose_locks_stay_on_one_machine(path, options):
    assert (
        doctor.find_local_lock_options(MOUNTS, Path(path)) == options
        and doctor.find_local_lock_options("", Path(path)) == ""
    )


def test_a_folder_is_left_as_it_was(tmp_path):
    (tmp_path / "run.json").write_text("a")
    before = os.stat(tmp_path / "run.json")
    assert output(tmp_path).state == State.OK
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"] and os.stat(
        tmp_path / "run.json"
    ) == before


def test_weights_that_somebody_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert doctor.check_raft_weights().state == State.WARNING
    from pipeline.flow.raft_weights import locate_default_weights

    path = locate_default_weights("raft_small")[1]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other weights")
    found = doctor.check_raft_weights()
    assert found.state == State.WRONG and str(path) in found.says and "delete" in found.remedy


def test_a_ray_that_is_open(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "203.0.113.7:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    found = {"Ray": doctor.check_ray()}
    assert (
        found["Ray"].state == State.WRONG
        and "whoever reaches the cluster runs programs on it" in found["Ray"].says
    )
    assert doctor.exit_code(found) == ExitCode.INSECURE_CLUSTER


@pytest.mark.slow
def test_what_holds_of_a_decoder_is_said():
    """On a machine with every defense, and on one that gives it no network of its own."""
    command = [
        sys.executable,
        "-c",
        "from jobs import doctor; print(*doctor.run_check(doctor.check_sandbox))",
    ]
    without = "echo 0 > /proc/sys/user/max_net_namespaces && exec "
    there, lacking = (
        subprocess.run(
            [*before, *command],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for before in (
            [],
            ["unshare", "--user", "--map-root-user", "sh", "-c", f'{without}"$@"', "sh"],
        )
    )
    if lacking.returncode or not there.stdout.startswith("ok"):
        pytest.skip("this user may not make a name space, or this machine has not all of it")
    assert "it has no network; it" in there.stdout and "it cannot gain rights" in there.stdout
    assert lacking.stdout.startswith(
        "warning holds, but for 1 of 7: it is not certain that it has no network "
        "docs/design/security.md"
    )
