"""Checkpoints are there whole or not at all; the newest whole one counts, and none can run code."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model import checkpoints
from model.checkpoints import newest, read, steps, write

ROOT = Path(__file__).resolve().parents[2]


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3, 4), value), "b": torch.arange(5)}


def written(out: Path, step: int, keep: int = 3, value: float | None = None) -> Path:
    state = {"network": weights(step if value is None else value), "ema": weights(-step)}
    return write(out, step, {"kind": "test", "step": step}, state, {"optimiser": {"lr": 0.1}, "position": {"epoch": 1, "consumed": 7}}, keep)


def test_it_comes_back_as_it_was_written_and_old_ones_go(tmp_path):
    for step in (10, 20, 30, 40):
        written(tmp_path, step, keep=2)
    assert [path.name for path in steps(tmp_path)] == ["step-00000030", "step-00000040"] and not list(tmp_path.glob(".*"))
    found, passed = newest(tmp_path)
    assert found.config == {"format": 1, "kind": "test", "step": 40} and not passed
    assert torch.equal(found.weights("network")["a"], torch.full((3, 4), 40.0)) and found.training()["position"] == {"epoch": 1, "consumed": 7}
    assert read(tmp_path / "step-00000030").config["step"] == 30


@pytest.mark.parametrize("name", ["config.json", "network.safetensors", "ema.safetensors", "training.pt", "digests.json"])
@pytest.mark.parametrize("how", ["gone", "cut", "flipped", "empty"])
def test_a_torn_newest_one_is_passed_over(tmp_path, name, how):
    written(tmp_path, 10)
    path = written(tmp_path, 20) / name
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(data[: len(data) // 2 if how == "cut" else 0])
    found, passed = newest(tmp_path)
    assert found.config["step"] == 10 and len(passed) == 1 and "step-00000020" in passed[0]


def test_none_that_is_whole_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere holds no checkpoint$"):
        newest(tmp_path / "nowhere")
    (written(tmp_path, 10) / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds no checkpoint: .*config.json"):
        newest(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.model.test_checkpoints import written

left = int(sys.argv[2])
def hook(event, arguments):
    global left
    if event in ("open", "os.rename", "os.mkdir", "shutil.rmtree") and str(arguments[0]).startswith(sys.argv[1]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
written(Path(sys.argv[1]), 20, keep=1)
"""


@pytest.mark.parametrize("point", range(1, 9))
def test_a_kill_at_any_point_leaves_the_last_whole_one(tmp_path, point):
    written(tmp_path, 10)
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(point)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    found, _ = newest(tmp_path)
    assert done.returncode in (-9, 0) and found.config["step"] in (10, 20)
    assert torch.equal(found.weights("network")["a"], torch.full((3, 4), float(found.config["step"])))
    written(tmp_path, 30, keep=1)
    assert newest(tmp_path)[0].config["step"] == 30


def test_nothing_in_a_checkpoint_can_run_code(tmp_path):
    canary = tmp_path / "canary"

    class Hostile:
        def __reduce__(self):
            return Path.touch, (canary,)

    folder = written(tmp_path, 10)
    torch.save({"optimiser": Hostile()}, folder / "training.pt")
    digests = json.loads((folder / "digests.json").read_bytes())
    digests["training.pt"] = checkpoints.sync(folder / "training.pt")
    (folder / "digests.json").write_text(json.dumps(digests))
    with pytest.raises(ValueError, match=r"training.pt cannot be read"):
        read(folder).training()
    (folder / "network.safetensors").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match="no safetensors file"):
        checkpoints.Checkpoint(folder, {}).weights("network")
    assert not canary.exists()


def test_a_file_outside_the_folder_is_not_read(tmp_path):
    folder = written(tmp_path, 10)
    (folder / "digests.json").write_text(json.dumps({"../../etc/passwd": "0", "config.json": "0"}))
    with pytest.raises(ValueError, match="is no file name"):
        read(folder)


def test_a_value_that_is_not_finite_is_named(tmp_path):
    with pytest.raises(ValueError, match="not finite in a"):
        read(written(tmp_path, 10, value=float("nan"))).weights("network")
