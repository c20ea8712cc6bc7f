"""What the training commands are given: of other shards, which is refused (P16), or made to run
code, which it cannot (P20).
"""

import io
import json
import os
import shutil
import struct
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jobs import finalize, report_statistics, sample, train_autoencoder, train_denoiser
from jobs.cli.errors import ExitCode
from model import checkpoints
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import DatasetView
from tests.support.attempts import checkpoint_bytes
from tests.support.datasets import CONFIG, write_dataset
from tests.support.videos import make_texture

SHARDS = {"train-000000": [{}] * 3, "train-000001": [{}] * 2, "test-000000": [{}]}
QUICK = ["--steps", 2, "--batch", 2, "--loader-workers", 0, "--log-every", 1, "--save-every", 1]
STAGES = [*QUICK, "--coordinate-steps", 1, "--coordinate-batch", 1]
Main = Callable[[list[str]], None]


def called(main: Main, *arguments: object) -> None:
    main([str(argument) for argument in arguments])


def refused(capsys, main: Main, *arguments: object, code: ExitCode = ExitCode.USAGE) -> str:
    """The one sentence with which a command stops."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        called(main, *arguments)
    said = capsys.readouterr().err
    assert (
        stopped.value.code == code
        and "Traceback" not in said
        and said.count("\n") == 1
        and said.startswith("quiver: ")
    ), said
    return said


def autoencoder(folder: Path, out: Path, *more: object, data: str = "a") -> list[object]:
    return ["smoke", "--data", folder / data, "--out", out, *QUICK, *more]


def denoiser(
    folder: Path, out: Path, *more: object, data: str = "a", trained: str = "ae"
) -> list[object]:
    return [
        "smoke",
        "--data",
        folder / data,
        "--autoencoder",
        folder / trained,
        "--out",
        out,
        *STAGES,
        *more,
    ]


@pytest.mark.parametrize(
    ("trained", "out"), [("ae", "ae"), ("ae", "a/../ae"), ("prior/slice", "prior")]
)
def test_an_autoencoder_is_not_trained_over(tmp_path, capsys, trained, out):
    """Before anything begins: there is no data set here."""
    (tmp_path / "a").mkdir()
    said = refused(
        capsys, train_denoiser.main, *denoiser(tmp_path, tmp_path / out, trained=trained)
    )
    assert (
        f"--autoencoder is {tmp_path / trained}, where the denoiser would be kept, expected another --out"
        in said
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two data sets, their statistics alone and together, two autoencoders of the first and one of
    the second, and a prior.
    """
    folder = tmp_path_factory.mktemp("input")
    for seed, name in enumerate("ab"):
        write_dataset(
            folder / name, SHARDS, seed=seed, source=name, config=replace(CONFIG, size=(64, 48))
        )
        shutil.copy(folder / name / "statistics.json", folder / f"{name}.json")
    called(report_statistics.main, folder / "a", folder / "b", "--out", folder / "ab.json")
    called(train_autoencoder.main, *autoencoder(folder, folder / "ae"))
    called(train_autoencoder.main, *autoencoder(folder, folder / "ae again", "--seed", 1))
    called(train_autoencoder.main, *autoencoder(folder, folder / "ae b", data="b"))
    called(train_denoiser.main, *denoiser(folder, folder / "prior"))
    Image.fromarray(make_texture(80, 70)).save(folder / "photo.png")
    return folder


@pytest.mark.slow
@pytest.mark.promise("P16")
@pytest.mark.parametrize("data", [["a"], ["b"], ["a", "b"]])
def test_statistics_of_other_shards_are_refused_both_ways(folder, tmp_path, capsys, data):
    """P16: of another set, of one more, of one less."""
    sets = ["--data", *(folder / name for name in data)]
    for name in {"a", "b", "ab"} - {"".join(data)}:
        words = refused(
            capsys,
            train_autoencoder.main,
            *autoencoder(folder, tmp_path / "x"),
            *sets,
            "--statistics",
            folder / f"{name}.json",
        )
        assert "the statistics are of another set of training shards" in words
        words = refused(
            capsys,
            train_denoiser.main,
            *denoiser(folder, tmp_path / "x"),
            *sets,
            "--statistics",
            folder / f"{name}.json",
        )
        assert "the statistics are of another set of training shards" in words
    assert not (tmp_path / "x").exists()


def put(folder: Path, root: Path) -> None:
    """A shard of b is put into the folder of a, under another name."""
    for kind, suffix in (("shards", "tar"), ("records", "json"), ("histograms", "safetensors")):
        shutil.copy(
            folder / "b" / kind / f"train-000001.{suffix}", root / kind / f"train-000007.{suffix}"
        )


def exchange(folder: Path, root: Path) -> None:
    """A shard of a is replaced by that of b of the same name."""
    for kind, suffix in (("shards", "tar"), ("records", "json"), ("histograms", "safetensors")):
        shutil.copy(
            folder / "b" / kind / f"train-000001.{suffix}", root / kind / f"train-000001.{suffix}"
        )


def take(folder: Path, root: Path) -> None:
    for kind, suffix in (("shards", "tar"), ("records", "json"), ("histograms", "safetensors")):
        (root / kind / f"train-000001.{suffix}").unlink()


def tables_of(folder: Path, root: Path) -> None:
    """The derived files are those of b."""
    for name in ("index.json", "manifest.parquet", "histogram.safetensors", "statistics.json"):
        shutil.copy(folder / "b" / name, root / name)


@pytest.mark.slow
@pytest.mark.promise("P16")
@pytest.mark.parametrize("change", [put, exchange, take, tables_of])
def test_a_shard_that_comes_or_goes_after_the_statistics_were_made_is_refused(
    folder, tmp_path, capsys, change
):
    """P16: also after the derived files were made anew; for a training that begins and for one that
    goes on.
    """
    root, out = (
        shutil.copytree(folder / "a", tmp_path / "data"),
        shutil.copytree(folder / "ae", tmp_path / "ae"),
    )
    change(folder, root)
    code = (
        ExitCode.STORAGE if change is exchange else ExitCode.USAGE
    )  # which a record of another run is
    for more in (["--statistics", folder / "a.json"], []):
        refused(
            capsys,
            train_autoencoder.main,
            *autoencoder(folder, out, *more),
            "--data",
            root,
            code=code,
        )
        refused(
            capsys,
            train_denoiser.main,
            *denoiser(folder, tmp_path / "x", *more),
            "--data",
            root,
            code=code,
        )
    try:
        called(finalize.main, root, "--no-report")
    except SystemExit:
        assert change in (put, exchange, take)
        refused(
            capsys, train_autoencoder.main, *autoencoder(folder, out), "--data", root, code=code
        )
    else:
        assert change is tables_of
        called(
            train_autoencoder.main,
            *autoencoder(folder, out, "--statistics", folder / "a.json"),
            "--data",
            root,
        )


@pytest.mark.promise("P16")
def test_a_training_goes_on_with_its_own_data_and_autoencoder_alone(folder, tmp_path, capsys):
    """P16: a checkpoint belongs to its shards, and a denoiser to its autoencoder."""
    both = ["--data", folder / "a", folder / "b"]
    ae, prior = folder / "ae", folder / "prior"
    before = {
        path: path.read_bytes() for out in (ae, prior) for path in out.rglob("*") if path.is_file()
    }
    for more in (["--data", folder / "b"], both):
        assert "another training (units differ)" in refused(
            capsys, train_autoencoder.main, *autoencoder(folder, ae), *more
        )
        assert "another set of training shards" in refused(
            capsys, train_denoiser.main, *denoiser(folder, prior), *more
        )
    words = refused(capsys, train_denoiser.main, *denoiser(folder, prior, data="b", trained="ae b"))
    assert "another training (units differ)" in words
    words = refused(capsys, train_denoiser.main, *denoiser(folder, prior, trained="ae again"))
    assert "a training with another autoencoder" in words
    for trained, data in (("ae again", "a"), ("ae b", "b")):
        shutil.copytree(prior / "slice", tmp_path / trained / "slice")
        words = refused(
            capsys,
            train_denoiser.main,
            *denoiser(
                folder, tmp_path / trained, "--stage", "coordinate", trained=trained, data=data
            ),
        )
        assert "was trained with another autoencoder, or on other shards" in words
    assert before == {
        path: path.read_bytes() for out in (ae, prior) for path in out.rglob("*") if path.is_file()
    }


@pytest.mark.slow
@pytest.mark.promise("P18")
def test_the_seed_alone_decides_what_is_drawn(folder, tmp_path, record_property):
    """P18, before the first checkpoint: whatever the process has drawn before, a training begins
    with the same weights.
    """
    record_property("injections", 0)
    torch.rand(3)
    called(train_autoencoder.main, *autoencoder(folder, tmp_path / "ae"))
    called(train_denoiser.main, *denoiser(folder, tmp_path / "prior", "--stage", "slice"))
    called(train_denoiser.main, *denoiser(folder, tmp_path / "prior"))
    for name in ("ae", "prior", "prior/slice"):
        assert checkpoint_bytes(tmp_path / name) == checkpoint_bytes(folder / name)
    assert checkpoint_bytes(folder / "ae") != checkpoint_bytes(folder / "ae again")


class Hostile:
    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch '{self.canary}'",)


def pickled(canary: Path) -> bytes:
    """What torch.load, and anything that unpickles, would run."""
    file = io.BytesIO()
    torch.save({"optimiser": Hostile(canary)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def zipped(canary: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"optimiser": Hostile(canary)}, file)
    return file.getvalue()


def array(canary: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Hostile(canary)], object), allow_pickle=True)
    return file.getvalue()


def library(canary: Path) -> bytes:
    return f"import os\nos.system(\"touch '{canary}'\")\n".encode()


PAYLOADS = {"pyd": library, "py": library, "pkl": pickled, "pth": zipped, "npy": array}


@pytest.fixture
def canary(tmp_path):
    yield tmp_path / "canary"
    assert not (tmp_path / "canary").exists()


def test_the_payloads_are_live(tmp_path):
    """Else nothing would be proven."""
    loads = {
        "pkl": lambda data: torch.load(io.BytesIO(data), weights_only=False),
        "npy": lambda data: np.load(io.BytesIO(data), allow_pickle=True),
    }
    for name, load in (loads | {"pth": loads["pkl"]}).items():
        load(PAYLOADS[name](tmp_path / name))
        assert (tmp_path / name).exists()


@pytest.mark.sample(3)
@pytest.mark.slow
@pytest.mark.promise("P20")
@pytest.mark.parametrize("suffix", PAYLOADS)
@pytest.mark.parametrize("workers", [0, 1])
def test_members_of_a_shard_cannot_run_code(folder, tmp_path, capsys, canary, suffix, workers):
    """P20: in the place of a sample's arrays and beside the samples."""
    root, payload = shutil.copytree(folder / "a", tmp_path / "data"), PAYLOADS[suffix](canary)
    rows = (
        DatasetView(Dataset(root))
        .kept_windows(["key", "shard", "motion_offset", "motion_size"])
        .to_pylist()
    )
    for row in rows:
        with Dataset(root).tar_path(row["shard"]).open("r+b") as tar:
            if workers:  # its header says what it is
                info = tarfile.TarInfo(f"{row['key']}.{suffix}")
                info.size, info.mode = row["motion_size"], 0o644
                tar.seek(row["motion_offset"] - 512)
                tar.write(info.tobuf(tarfile.USTAR_FORMAT))
            tar.seek(row["motion_offset"])
            tar.write(payload)
    for main, arguments in ((train_autoencoder.main, autoencoder), (train_denoiser.main, denoiser)):
        words = refused(
            capsys,
            main,
            *arguments(folder, tmp_path / "x"),
            "--data",
            root,
            "--loader-workers",
            workers,
        )
        assert "cannot be read" in words and any(row["key"] in words for row in rows)
    extended = shutil.copytree(folder / "a", tmp_path / "extended")
    with tarfile.open(Dataset(extended).tar_path("train-000000"), "a") as tar:
        info = tarfile.TarInfo(f"{rows[0]['key']}.{suffix}")
        info.size = len(payload)
        tar.addfile(info, io.BytesIO(payload))
    assert "is not the shard that index.json names" in refused(
        capsys, train_autoencoder.main, *autoencoder(folder, tmp_path / "x"), "--data", extended
    )


def header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def entry(**fields: object) -> bytes:
    return header(
        json.dumps(
            {"network": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | fields}
        ).encode()
    ) + bytes(4)


YAML = b"!!python/object/apply:os.system [\"touch '%s'\"]\n"
FILES: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "a pickle": ("training.pt", pickled),
    "a zipped pickle": ("training.pt", zipped),
    "an array of objects": ("training.pt", array),
    "no optimiser": ("training.pt", lambda canary: saved({"averaged": 1})),
    "a strange optimiser": (
        "training.pt",
        lambda canary: saved({"averaged": 1, "optimiser": [1], "position": {}}),
    ),
    "YAML": ("config.json", lambda canary: YAML % os.fsencode(canary)),
    "deep JSON": ("config.json", lambda canary: b"[" * 100_000),
    "another JSON": (
        "config.json",
        lambda canary: b'{"format": 1, "step": "2", "kind": "autoencoder"}',
    ),
    "JSON of a step": (
        "config.json",
        lambda canary: b'{"format": 1, "step": 2, "kind": "autoencoder"}',
    ),
    "YAML digests": ("digests.json", lambda canary: YAML % os.fsencode(canary)),
    "a pickle for weights": ("ema.safetensors", pickled),
    "a library": ("ema.safetensors", library),
    "a long header": ("ema.safetensors", lambda canary: b"\xff" * 8 + bytes(64)),
    "a deep header": ("ema.safetensors", lambda canary: header(b"[" * 100_000)),
    "a strange type": ("ema.safetensors", lambda canary: entry(dtype="F4", shape=[8])),
    "another type": ("ema.safetensors", lambda canary: entry(dtype="U7")),
    "a huge shape": ("ema.safetensors", lambda canary: entry(shape=[1 << 62])),
    "offsets before": ("ema.safetensors", lambda canary: entry(data_offsets=[-4, 0])),
    "another network": ("ema.safetensors", lambda canary: entry()),
}


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def tampered(out: Path, name: str, data: bytes) -> Path:
    """Each checkpoint in the folder, with digests that agree."""
    for folder in checkpoints.step_folders(out):
        (folder / name).write_bytes(data)
        if name != "digests.json":
            digests = json.loads((folder / "digests.json").read_bytes())
            digests[name] = checkpoints.sync_and_hash(folder / name)
            (folder / "digests.json").write_text(json.dumps(digests))
    return out


@pytest.mark.sample(2)
@pytest.mark.slow
@pytest.mark.promise("P20")
@pytest.mark.parametrize("what", FILES)
def test_a_checkpoint_cannot_run_code(folder, tmp_path, capsys, canary, what):
    """P20: of a training that goes on, of an autoencoder, of one to start from, of a prior to
    sample from.
    """
    name, made = FILES[what]
    ae = tampered(shutil.copytree(folder / "ae", tmp_path / "ae"), name, made(canary))
    prior = tampered(shutil.copytree(folder / "prior", tmp_path / "prior"), name, made(canary))
    tampered(prior / "slice", name, made(canary))
    cases: list[tuple[Main, list[object]]] = [
        (train_autoencoder.main, autoencoder(folder, ae)),
        (train_denoiser.main, denoiser(folder, prior, "--stage", "coordinate")),
    ]
    if name != "training.pt":  # which use does not read
        cases += [
            (train_autoencoder.main, autoencoder(folder, tmp_path / "x", "--start", ae)),
            (train_denoiser.main, denoiser(folder, tmp_path / "x", "--autoencoder", ae)),
            (train_denoiser.main, denoiser(folder, tmp_path / "x", "--start", prior)),
            (
                sample.main,
                [
                    folder / "photo.png",
                    "--checkpoint",
                    prior,
                    "--out",
                    tmp_path / "x.safetensors",
                    "--steps",
                    1,
                ],
            ),
        ]
    for main, arguments in cases:
        assert str(tmp_path) in refused(capsys, main, *arguments)
    assert not (tmp_path / "x.safetensors").exists() and not checkpoints.step_folders(
        tmp_path / "x"
    )


@pytest.mark.slow
@pytest.mark.promise("P20")
def test_a_name_is_no_command(folder, tmp_path, capsys, canary, monkeypatch):
    """P20: as webdataset's URLs are."""
    monkeypatch.chdir(tmp_path)
    for pipe in (
        f"pipe:touch {canary}",
        f"pipe:touch$IFS{canary}",
        f"|touch {canary}",
        f"$(touch {canary})",
    ):
        cases: list[tuple[Main, list[object]]] = [
            (train_autoencoder.main, [*autoencoder(folder, tmp_path / "x"), "--data", pipe]),
            (train_autoencoder.main, autoencoder(folder, tmp_path / "x", "--statistics", pipe)),
            (train_autoencoder.main, autoencoder(folder, tmp_path / "x", "--start", pipe)),
            (train_denoiser.main, denoiser(folder, tmp_path / "x", "--autoencoder", pipe)),
            (train_denoiser.main, denoiser(folder, tmp_path / "x", "--start", pipe)),
            (
                sample.main,
                [folder / "photo.png", "--checkpoint", pipe, "--out", tmp_path / "x.safetensors"],
            ),
            (
                sample.main,
                [pipe, "--checkpoint", folder / "prior", "--out", tmp_path / "x.safetensors"],
            ),
        ]
        for main, arguments in cases:
            refused(capsys, main, *arguments)
            assert not canary.exists()
