"""Checkpoints are there whole or not at all; the newest whole one counts, and none can run code."""

import json
import pickle
import signal
import sys
from pathlib import Path

import pytest
import torch

from model import checkpoints
from model.checkpoints import read, read_newest, step_folders, write
from tests.support.attempts import kill_self, run_ranks

PLACES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.9999)
"""Of a file, as a share of its length."""


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3, 4), value), "b": torch.arange(5)}


def written(out: Path, step: int, keep: int = 3, value: float | None = None) -> Path:
    state = {"network": weights(step if value is None else value), "ema": weights(-step)}
    return write(
        out,
        step,
        {"kind": "test", "step": step},
        state,
        {"optimiser": {"lr": 0.1}, "position": {"epoch": 1, "consumed": 7}},
        keep,
    )


def test_it_comes_back_as_it_was_written_and_old_ones_go(tmp_path):
    for step in (10, 20, 30, 40):
        written(tmp_path, step, keep=2)
    assert [path.name for path in step_folders(tmp_path)] == [
        "step-00000030",
        "step-00000040",
    ] and not list(tmp_path.glob(".*"))
    found, passed = read_newest(tmp_path)
    assert found.config == {"format": 1, "kind": "test", "step": 40} and not passed
    assert torch.equal(
        found.load_weights("network")["a"], torch.full((3, 4), 40.0)
    ) and found.load_training_state()["position"] == {"epoch": 1, "consumed": 7}
    assert read(tmp_path / "step-00000030").config["step"] == 30


@pytest.mark.promise("P19")
@pytest.mark.parametrize(
    "name", ["config.json", "network.safetensors", "ema.safetensors", "training.pt", "digests.json"]
)
@pytest.mark.parametrize("how", ["gone", "empty", "cut", "flipped", "longer"])
def test_a_torn_newest_one_is_passed_over(tmp_path, record_property, name, how):
    """P19: each file of it, gone, or cut or with a flipped bit at several places."""
    written(tmp_path, 10)
    path = written(tmp_path, 20) / name
    whole = path.read_bytes()
    record_property("injections", len(PLACES))
    for place in PLACES:
        damage(path, whole, how, int(place * len(whole)))
        found, passed = read_newest(tmp_path)
        assert (
            found.config["step"] == 10
            and len(passed) == 1
            and passed[0].startswith(f"passed over {tmp_path / 'step-00000020'}: ")
        )
    path.write_bytes(whole)
    assert read_newest(tmp_path)[0].config["step"] == 20


def damage(path: Path, whole: bytes, how: str, place: int) -> None:
    data = bytearray(whole)
    data[place] ^= 1 << place % 8
    if how == "gone":
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(
            {"empty": b"", "cut": whole[:place], "flipped": bytes(data), "longer": whole + b"\0"}[
                how
            ]
        )


def test_none_that_is_whole_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere holds no checkpoint$"):
        read_newest(tmp_path / "nowhere")
    (written(tmp_path, 10) / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds no checkpoint: .*config.json"):
        read_newest(tmp_path)


def write_until(out: Path, point: int) -> None:
    """Writes a checkpoint, in a process that is killed before the `point`-th thing that it does to
    the disk.
    """
    left = point

    def hook(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in ("open", "os.rename", "os.mkdir", "shutil.rmtree", "os.remove", "os.rmdir"):
            left -= 1
            if left == 0:
                kill_self()

    sys.addaudithook(hook)
    written(out, 20, keep=1)


POINTS = 44
"""Making the folder, opening each file to write it and to sync it, the rename, what is removed."""


@pytest.mark.thorough
@pytest.mark.promise("P19")
@pytest.mark.parametrize("torn", [False, True], ids=["", "over a torn one"])
def test_a_kill_at_any_point_leaves_the_last_whole_one(tmp_path, record_property, torn):
    """P19: SIGKILL at each point of a checkpoint write; what it leaves is in nobody's way and is
    removed by the next write.
    """
    codes = []
    for point in range(1, POINTS + 1):
        out = tmp_path / str(point)
        written(out, 10)
        if torn:
            (written(out, 20) / "ema.safetensors").write_bytes(b"torn")
        codes += run_ranks(write_until, out, point, output=tmp_path / "output")
        found, _ = read_newest(out)
        assert found.config["step"] in (10, 20)
        assert torch.equal(
            found.load_weights("network")["a"], torch.full((3, 4), float(found.config["step"]))
        )
        written(out, 30, keep=1)
        assert [path.name for path in out.iterdir()] == ["step-00000030"] and read_newest(out)[
            0
        ].config["step"] == 30
    kills = codes.count(-signal.SIGKILL)
    record_property("injections", kills)
    assert (
        kills >= 8
        and codes == [-signal.SIGKILL] * kills + [0] * (POINTS - kills)
        and kills < POINTS
    ), codes


@pytest.mark.promise("P19")
@pytest.mark.parametrize("keep", [1, 2])
def test_a_torn_later_one_does_not_count_as_kept(tmp_path, keep):
    """P19: a training that went back behind it must not remove what it has just written."""
    written(tmp_path, 10)
    (written(tmp_path, 30) / "training.pt").unlink()
    written(tmp_path, 20, keep=keep)
    assert read_newest(tmp_path)[0].config["step"] == 20 and len(step_folders(tmp_path)) == keep + 1
    written(tmp_path, 30, keep=keep)
    assert read_newest(tmp_path)[0].config["step"] == 30 and len(step_folders(tmp_path)) == keep


def test_nothing_in_a_checkpoint_can_run_code(tmp_path):
    canary = tmp_path / "canary"

    class Hostile:
        def __reduce__(self):
            return Path.touch, (canary,)

    folder = written(tmp_path, 10)
    torch.save({"optimiser": Hostile()}, folder / "training.pt")
    digests = json.loads((folder / "digests.json").read_bytes())
    digests["training.pt"] = checkpoints.sync_and_hash(folder / "training.pt")
    (folder / "digests.json").write_text(json.dumps(digests))
    with pytest.raises(ValueError, match=r"training.pt cannot be read"):
        read(folder).load_training_state()
    (folder / "network.safetensors").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match="no safetensors file"):
        checkpoints.Checkpoint(folder, {}).load_weights("network")
    assert not canary.exists()


def test_a_file_outside_the_folder_is_not_read(tmp_path):
    folder = written(tmp_path, 10)
    (folder / "digests.json").write_text(json.dumps({"../../etc/passwd": "0", "config.json": "0"}))
    with pytest.raises(ValueError, match="is no file name"):
        read(folder)


def test_a_value_that_is_not_finite_is_named(tmp_path):
    with pytest.raises(ValueError, match="not finite in a"):
        read(written(tmp_path, 10, value=float("nan"))).load_weights("network")


def test_a_step_that_is_no_number_is_refused(tmp_path):
    folder = write(tmp_path, 10, {"step": "10"}, {"network": weights(1)}, {}, 1)
    with pytest.raises(ValueError, match="step is '10', expected a whole number"):
        read(folder)
