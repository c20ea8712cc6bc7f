"""Checkpoints: folders that are there whole or not at all, and need no data set to be used.

    OUT/step-00001000/
        config.json            what the network is, and the scales and the digest of the statistics that it was trained with
        NAME.safetensors       weights, one file for each state: network, ema, ...
        training.pt            optimiser state and position, for going on; not needed for use
        digests.json           sha256 of each of these, written last

A folder is written under a temporary name, synced, and renamed. The newest whole one counts; a torn one is passed over.
"""

import hashlib
import json
import os
import re
import shutil
import uuid
from _pickle import UnpicklingError
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pipeline.shards import sync_folder

CHECKPOINT_VERSION = 1
STEP = re.compile(r"step-\d{8}")
CONFIG, TRAINING, DIGESTS = "config.json", "training.pt", "digests.json"


class Checkpoint(NamedTuple):
    """A whole checkpoint on disk."""

    folder: Path
    config: dict[str, Any]

    def weights(self, name: str) -> dict[str, Tensor]:
        """One state, on the CPU. Raises ValueError where there is none of that name, or a value is not finite."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            raise ValueError(f"{self.folder} has no {path.name}")
        try:
            found = load(path.read_bytes())
        except SafetensorError as error:
            raise ValueError(f"{path} is no safetensors file: {error}") from error
        for key, tensor in found.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(f"{path} has values that are not finite in {key}")
        return found

    def training(self) -> dict[str, Any]:
        """Optimiser state and position."""
        path = self.folder / TRAINING
        if not path.exists():
            raise ValueError(f"{self.folder} holds no training state, and cannot be gone on from")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError, KeyError) as error:
            raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error


def write(out: Path, step: int, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]], training: Mapping[str, Any], keep: int) -> Path:
    """Writes a checkpoint, and removes all but the last `keep`. Raises OSError where it cannot be written, and leaves nothing."""
    folder, temporary = out / f"step-{step:08d}", out / f".{uuid.uuid4().hex}.tmp"
    temporary.mkdir(parents=True)
    try:
        parts = {CONFIG: json.dumps({"format": CHECKPOINT_VERSION} | dict(config), indent=2, sort_keys=True, allow_nan=False).encode()}
        for name, state in states.items():
            parts[f"{name}.safetensors"] = save({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()})
        digests = {name: write_synced(temporary / name, data) for name, data in parts.items()}
        torch.save(dict(training), temporary / TRAINING)
        digests[TRAINING] = sync(temporary / TRAINING)
        write_synced(temporary / DIGESTS, json.dumps(digests, indent=2, sort_keys=True).encode())
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(out)
    for old in steps(out)[:-keep]:
        shutil.rmtree(old)
    return folder


def write_synced(path: Path, data: bytes) -> str:
    """Returns the file's sha256."""
    path.write_bytes(data)
    return sync(path)


def sync(path: Path) -> str:
    """Makes a file durable; returns its sha256."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def steps(out: Path) -> list[Path]:
    """Folders of checkpoints, the oldest first."""
    return sorted(path for path in out.glob("step-*") if STEP.fullmatch(path.name)) if out.is_dir() else []


def newest(path: Path) -> tuple[Checkpoint, list[str]]:
    """The newest whole checkpoint of a training's folder, or the one that the folder is; and a sentence for each torn one
    that was passed over.

    Raises ValueError where there is none.
    """
    folders, passed = (steps(path) or [path])[::-1], []
    for folder in folders:
        try:
            return read(folder), passed
        except ValueError as error:
            passed.append(f"passed over {error}")
    raise ValueError(f"{path} holds no checkpoint" + (f": {passed[0].removeprefix('passed over ')}" if path.exists() else ""))


def read(folder: Path) -> Checkpoint:
    """Raises ValueError unless every file of it is the one that was written."""
    try:
        digests = json.loads((folder / DIGESTS).read_bytes())
        for name, digest in digests.items():
            check_file(folder, name, digest)
        config = json.loads((folder / CONFIG).read_bytes())
        if config["format"] != CHECKPOINT_VERSION or CONFIG not in digests:
            raise ValueError(f"format is {config['format']!r}, expected {CHECKPOINT_VERSION}")
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: {error}") from error
    return Checkpoint(folder, config)


def check_file(folder: Path, name: str, digest: str) -> None:
    """Raises ValueError where a file of a checkpoint is another."""
    if Path(name).name != name:
        raise ValueError(f"{name!r} is no file name")
    with open(folder / name, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise ValueError(f"{name} is not the file that was written")
