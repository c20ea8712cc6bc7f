"""quiver doctor, on machines on which something is missing, old, damaged or open."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import doctor
from jobs.doctor import Finding, State
from jobs.exits import Exit

ROOT = Path(__file__).resolve().parents[2]


def quiver(*arguments: object, **env: str) -> tuple[int, dict[str, Finding], str]:
    """Exit code, what was found, and all that was said on standard error, of the real command."""
    command = [sys.executable, "-m", "jobs.command", "doctor", "--json", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=240)
    said = json.loads(done.stdout)
    assert said["exit"] == done.returncode
    return done.returncode, {one.pop("what"): Finding(**one) for one in said["checks"]}, done.stderr


def test_a_sound_machine_and_a_folder_that_is_not_there_yet(tmp_path):
    code, found, said = quiver("--out", tmp_path / "new" / "dataset")
    assert code == Exit.DONE and "Traceback" not in said
    assert found.keys() == doctor.checks(tmp_path).keys() and not list(tmp_path.iterdir())
    well = {"Python", "packages", "packages of extract", "packages of train", "packages of report", "torchvision", "decoders", "encoders", "output folder"}
    assert all(found[name].state == State.OK and not found[name].remedy for name in well), found
    assert "8 frames of H.264" in found["decoders"].says
    assert all(finding.remedy for finding in found.values() if finding.state != State.OK)


def test_a_machine_that_lacks_much(tmp_path):
    """A package that does not load, one that is too old, no compiler, and a folder that cannot be written."""
    (tmp_path / "pyarrow.py").write_text("raise ImportError('libarrow.so.99: cannot open shared object file')")
    (tmp_path / "ray-2.50.1.dist-info").mkdir()
    (tmp_path / "ray-2.50.1.dist-info" / "METADATA").write_text("Name: ray\nVersion: 2.50.1\n")
    code, found, said = quiver("--out", "/proc/dataset", PYTHONPATH=f"{tmp_path}:{ROOT}", CXX="/nowhere/g++", TORCH_EXTENSIONS_DIR=str(tmp_path / "built"))
    assert code == Exit.FAILURE and "Traceback" not in said
    assert found["packages of extract"].state == State.WRONG and "too old: ray 2.50.1 (needs 2." in found["packages of extract"].says
    assert found["output folder"].state == State.WRONG and "libarrow.so.99" in found["output folder"].says
    assert found["splatting"].state == State.WARNING and "C++ compiler" in found["splatting"].remedy
    assert found["torchvision"].state == State.OK


def test_a_person_reads_lines(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        doctor.main(["--out", str(tmp_path / "file")])
    said = capsys.readouterr().out
    assert stopped.value.code == Exit.STORAGE
    assert f"\nwrong    output folder       {tmp_path / 'file'} is a file\n{'':29}-> name a folder" in said and said.rstrip().endswith(", 1 wrong")


def output(folder: Path) -> Finding:
    return doctor.examined(doctor.checks(folder)["output folder"])


@pytest.fixture
def readonly(tmp_path) -> Iterator[Path]:
    """A small disk that cannot be written."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,ro", "tmpfs", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_disk_that_is_small_and_cannot_be_written(readonly):
    found = {name: doctor.examined(check) for name, check in doctor.checks(readonly / "dataset").items() if name in ("disk", "output folder")}
    assert found["disk"].state == State.WRONG and found["disk"].says == f"0.0 GiB are free at {readonly}"
    assert found["output folder"].state == State.WRONG and "Read-only file system" in found["output folder"].says
    assert doctor.code(found) == Exit.STORAGE


@pytest.mark.parametrize("folder", ["/proc", "/proc/a/b"])
def test_a_folder_that_cannot_be_written(folder):
    found = output(Path(folder))
    assert found.state == State.WRONG and found.says.startswith("/proc cannot be written") and "hard links" in found.remedy


def test_a_folder_is_left_as_it_was(tmp_path):
    (tmp_path / "run.json").write_text("a")
    before = os.stat(tmp_path / "run.json")
    assert output(tmp_path).state == State.OK
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"] and os.stat(tmp_path / "run.json") == before


def test_weights_that_somebody_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert doctor.weights().state == State.WARNING
    from pipeline.flow.weights import cached

    path = cached("raft_small")[1]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other weights")
    found = doctor.weights()
    assert found.state == State.WRONG and str(path) in found.says and "delete" in found.remedy


def test_a_ray_that_is_open(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "203.0.113.7:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    found = {"Ray": doctor.ray()}
    assert found["Ray"].state == State.WRONG and "whoever reaches the cluster runs programs on it" in found["Ray"].says
    assert doctor.code(found) == Exit.UNSAFE
