"""Checkpoints: folders that are there whole or not at all, and need no data set to be used.

    OUT/step-00001000/
        config.json            what the network is, and the scales and the digest of the statistics
                               that it was trained with
        NAME.safetensors       weights, one file for each state: network, ema, ...
        training.pt            optimiser state and position, for going on; not needed for use
        digests.json           sha256 of each of these, written last

A folder is written under a temporary name, synced, and renamed. The newest whole one counts; a torn
one is passed over.
"""

import hashlib
import io
import json
import os
import re
import shutil
import uuid
from _pickle import UnpicklingError
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pipeline.atomic_files import sync_folder

_CHECKPOINT_VERSION = 1
_STEP_FOLDER, _TEMPORARY_FOLDER = re.compile(r"step-\d{8}"), re.compile(r"\.[0-9a-f]{32}\.tmp")
CONFIG_FILE, _TRAINING_FILE, DIGESTS_FILE = "config.json", "training.pt", "digests.json"


class Checkpoint(NamedTuple):
    """A whole checkpoint on disk."""

    folder: Path
    config: dict[str, Any]

    def load_weights(self, name: str) -> dict[str, Tensor]:
        """One state, on the CPU. Raises ValueError where there is none of that name, or a value is
        not finite.
        """
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            raise ValueError(f"{self.folder} has no {path.name}")
        try:
            found = load(path.read_bytes())
        except (KeyError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no safetensors file: {summarize_error(error)}") from error
        for key, tensor in found.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(f"{path} has values that are not finite in {key}")
        return found

    def load_training_state(self) -> dict[str, Any]:
        """Optimiser state and position."""
        path = self.folder / _TRAINING_FILE
        if not path.exists():
            raise ValueError(f"{self.folder} holds no training state, and cannot be gone on from")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError as error:  # torch's own words advise to load it none the less
            raise ValueError(
                f"{path} cannot be read: it holds other things than tensors and numbers"
            ) from error
        except (
            AttributeError,
            EOFError,
            IndexError,
            KeyError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise ValueError(f"{path} cannot be read: {summarize_error(error)}") from error


def summarize_error(error: Exception) -> str:
    """What an error says, or its name, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def write(
    out: Path,
    step: int,
    config: Mapping[str, Any],
    states: Mapping[str, Mapping[str, Tensor]],
    training: Mapping[str, Any],
    keep: int,
) -> Path:
    """Writes a checkpoint, and removes all older ones but the last, so that `keep` are left. A torn
    later one, which was passed over, does not count. Raises OSError, naming the file, where it
    cannot be written, and leaves nothing.
    """
    folder, temporary = out / f"step-{step:08d}", out / f".{uuid.uuid4().hex}.tmp"
    for left in out.glob(".*.tmp"):
        if _TEMPORARY_FOLDER.fullmatch(left.name):  # of a training that was killed while it wrote
            shutil.rmtree(left)
    temporary.mkdir(parents=True)
    try:
        digests = {
            name: _write_synced(temporary / name, data, folder / name)
            for name, data in _serialize_files(config, states, training)
        }
        _write_synced(
            temporary / DIGESTS_FILE,
            json.dumps(digests, indent=2, sort_keys=True).encode(),
            folder / DIGESTS_FILE,
        )
        sync_folder(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(out)
    older = [path for path in step_folders(out) if path.name < folder.name]
    for old in older[: max(0, len(older) + 1 - keep)]:
        shutil.rmtree(old)
    return folder


def _serialize_files(
    config: Mapping[str, Any],
    states: Mapping[str, Mapping[str, Tensor]],
    training: Mapping[str, Any],
) -> Iterator[tuple[str, bytes | memoryview]]:
    """The files of a checkpoint, by name, one after the other in memory."""
    yield (
        CONFIG_FILE,
        json.dumps(
            {"format": _CHECKPOINT_VERSION} | dict(config),
            indent=2,
            sort_keys=True,
            allow_nan=False,
        ).encode(),
    )
    for name, state in states.items():
        yield (
            f"{name}.safetensors",
            save({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}),
        )
    file = io.BytesIO()  # torch's own writer hides which error of the disk it met
    torch.save(dict(training), file)
    yield _TRAINING_FILE, file.getbuffer()


def digest_weights(weights: Mapping[str, Tensor]) -> str:
    """sha256 of weights by name; of none, of nothing."""
    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _write_synced(path: Path, data: bytes | memoryview, name: Path) -> str:
    """Returns the file's sha256. Raises OSError, which says its later `name`."""
    try:
        path.write_bytes(data)
        return sync_and_hash(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(name)) from error


def weights_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two states are the same, to the last bit."""
    return one.keys() == other.keys() and all(
        torch.equal(value.cpu(), other[name].cpu()) for name, value in one.items()
    )


def sync_and_hash(path: Path) -> str:
    """Makes a file durable; returns its sha256."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def step_folders(out: Path) -> list[Path]:
    """Folders of checkpoints, the oldest first."""
    return (
        sorted(path for path in out.glob("step-*") if _STEP_FOLDER.fullmatch(path.name))
        if out.is_dir()
        else []
    )


def read_newest(path: Path) -> tuple[Checkpoint, list[str]]:
    """The newest whole checkpoint of a training's folder, or the one that the folder is; and a
    sentence for each torn one that was passed over.

    Raises ValueError where there is none.
    """
    folders, passed = (step_folders(path) or [path])[::-1], []
    if folders == [path] and path.is_dir() and not (path / DIGESTS_FILE).exists():
        raise ValueError(f"{path} holds no checkpoint, expected the --out of a training")
    for folder in folders:
        try:
            return read(folder), passed
        except ValueError as error:
            passed.append(f"passed over {error}")
    raise ValueError(
        f"{path} holds no checkpoint"
        + (f": {passed[0].removeprefix('passed over ')}" if path.exists() else "")
    )


def read(folder: Path) -> Checkpoint:
    """Raises ValueError unless every file of it is the one that was written."""
    try:
        digests = json.loads((folder / DIGESTS_FILE).read_bytes())
        for name, digest in digests.items():
            _check_file(folder, name, digest)
        config = json.loads((folder / CONFIG_FILE).read_bytes())
        if config["format"] != _CHECKPOINT_VERSION or CONFIG_FILE not in digests:
            raise ValueError(f"format is {config['format']!r}, expected {_CHECKPOINT_VERSION}")
        if type(config["step"]) is not int:
            raise ValueError(f"step is {config['step']!r}, expected a whole number")
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: {error}") from error
    return Checkpoint(folder, config)


def _check_file(folder: Path, name: str, digest: str) -> None:
    """Raises ValueError where a file of a checkpoint is another."""
    if Path(name).name != name:
        raise ValueError(f"{name!r} is no file name")
    with open(folder / name, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise ValueError(f"{name} is not the file that was written")
