"""Checkpoint folders: written whole or not at all, verified when they are loaded.

    OUT/step-00001000/
        config.json            the network's settings, the scales of the coefficients and the digest
                               of the statistics that it was trained with
        NAME.safetensors       one file of weights for each state: network, ema, ...
        training.pt            optimizer state and position in the data, needed to resume only
        digests.json           sha256 of each of these files, written last

A folder is written under a temporary name, synced to disk, and renamed. `load_checkpoint` takes the
newest complete one and skips damaged ones. Using a checkpoint needs no dataset.
"""

import hashlib
import io
import json
import os
import re
import shutil
import uuid
import warnings
from _pickle import UnpicklingError
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from model.normalizer import SpectrumNormalizer, normalizer_from_config
from pipeline.atomic_files import sync_folder

CONFIG_FILE, DIGESTS_FILE = "config.json", "digests.json"
_TRAINING_FILE = "training.pt"
_CHECKPOINT_VERSION = 1
_STEP_FOLDER, _TEMPORARY_FOLDER = re.compile(r"step-\d{8}"), re.compile(r"\.[0-9a-f]{32}\.tmp")

Config = TypeVar("Config")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder whose files were all verified; weights are read when they are asked for,
    since a folder holds several networks and the optimizer state.
    """

    folder: Path
    config: dict[str, Any]
    """The content of config.json."""

    @property
    def kind(self) -> Any:
        """What network it holds: autoencoder, denoiser or renderer."""
        return self.config.get("kind")

    @property
    def step(self) -> int:
        """Number of optimizer steps taken."""
        return self.config["step"]

    @property
    def normalizer(self) -> SpectrumNormalizer:
        """The scales of the coefficients. Raises ValueError if there are none, as in a renderer."""
        try:
            return normalizer_from_config(self.config.get("units"))
        except ValueError as error:
            raise ValueError(f"{self.folder}: {error}") from error

    @property
    def scenes(self) -> frozenset[str]:
        """The digests of the scenes that it was trained on (model/data/scenes.py); empty if an
        earlier version wrote it. Raises ValueError if they are no digests.
        """
        scenes = self.config.get("scenes", [])
        if not isinstance(scenes, list) or not all(isinstance(scene, str) for scene in scenes):
            raise ValueError(f"{self.folder}: scenes is no list of digests")
        return frozenset(scenes)

    def network_config(self, name: str, config_type: Callable[..., Config]) -> Config:
        """The settings of the network `name`, as `config_type`. Raises ValueError if they are
        missing.
        """
        try:
            # JSON has no tuples, so they come back as lists
            fields = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in dict(self.config[name]).items()
            }
            return config_type(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self.folder} does not say what its {name} is: {error}") from error

    def load_weights(self, name: str) -> dict[str, Tensor]:
        """The tensors of one state, on the CPU. Raises ValueError if there is no state of that
        name, or if a value is not finite.
        """
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            raise ValueError(f"{self.folder} has no {path.name}")
        try:
            weights = load(path.read_bytes())
        except (KeyError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no safetensors file: {summarize_error(error)}") from error
        for key, tensor in weights.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(f"{path} has values that are not finite in {key}")
        return weights

    def load_into(self, network: nn.Module, name: str) -> None:
        """Gives `network` the weights of one state. Raises ValueError as `load_weights` does, and
        if they belong to another network.
        """
        weights = self.load_weights(name)
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"{self.folder}: the weights of {name} do not fit the network that {CONFIG_FILE} "
                f"describes: {summarize_error(error)}"
            ) from error

    def load_training_state(self) -> dict[str, Any]:
        """The optimizer state and the position in the data. Raises ValueError if there are none, or
        if the file holds anything but tensors and numbers.
        """
        path = self.folder / _TRAINING_FILE
        if not path.exists():
            raise ValueError(f"{self.folder} has no training state and cannot be resumed")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError as error:  # torch's own message advises to load it all the same
            raise ValueError(
                f"{path} cannot be read: it holds other things than tensors and numbers"
            ) from error
        except (
            AttributeError,
            EOFError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise ValueError(f"{path} cannot be read: {summarize_error(error)}") from error


def load_checkpoint(
    path: Path, kind: str | None = None, warn: Callable[[str], object] = warnings.warn
) -> Checkpoint:
    """The newest complete checkpoint in the --out folder of a training, or the one in `path`.

    `warn` is called with a sentence for each damaged newer one, which is skipped. Raises ValueError
    if there is none, or if it is not of that `kind`.
    """
    folders = step_folders(path)[::-1]
    if not folders:
        if path.is_dir() and not (path / DIGESTS_FILE).exists():
            raise ValueError(f"{path} holds no checkpoint, expected the --out of a training")
        folders = [path]
    failures: list[ValueError] = []
    for folder in folders:
        try:
            checkpoint = read(folder)
        except ValueError as error:
            failures.append(error)
            continue
        if kind is not None and checkpoint.kind != kind:
            raise ValueError(
                f"{path} holds a checkpoint of kind {checkpoint.kind!r}, expected {kind!r}"
            )
        for failure in failures:
            warn(f"skipped {failure}")
        return checkpoint
    raise ValueError(f"{path} holds no checkpoint" + (f": {failures[0]}" if path.exists() else ""))


def read(folder: Path) -> Checkpoint:
    """The checkpoint in one folder. Raises ValueError unless every file is the one that was
    written.
    """
    try:
        digests = json.loads((folder / DIGESTS_FILE).read_bytes())
        for name, digest in digests.items():
            if Path(name).name != name:
                raise ValueError(f"{name!r} is no file name")
            with open(folder / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise ValueError(f"{name} is not the file that was written")
        config = json.loads((folder / CONFIG_FILE).read_bytes())
        if config["format"] != _CHECKPOINT_VERSION or CONFIG_FILE not in digests:
            raise ValueError(f"format is {config['format']!r}, expected {_CHECKPOINT_VERSION}")
        if type(config["step"]) is not int:
            raise ValueError(f"step is {config['step']!r}, expected a whole number")
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: {error}") from error
    return Checkpoint(folder, config)


def step_folders(out: Path) -> list[Path]:
    """The checkpoint folders of a training, oldest first, damaged ones included."""
    if not out.is_dir():
        return []
    return sorted(path for path in out.glob("step-*") if _STEP_FOLDER.fullmatch(path.name))


def write(
    out: Path,
    step: int,
    config: Mapping[str, Any],
    states: Mapping[str, Mapping[str, Tensor]],
    training: Mapping[str, Any],
    keep: int,
) -> Path:
    """Writes the checkpoint of a step and removes the oldest ones, so that `keep` remain; returns
    its folder.

    Later ones do not count: resuming has found them damaged. Raises OSError naming the file if it
    cannot be written, and then leaves nothing behind.
    """
    folder, temporary = out / f"step-{step:08d}", out / f".{uuid.uuid4().hex}.tmp"
    for leftover in out.glob(".*.tmp"):
        if _TEMPORARY_FOLDER.fullmatch(leftover.name):  # its training was killed while it wrote
            shutil.rmtree(leftover)
    temporary.mkdir(parents=True)
    try:
        digests = {
            name: _write_synced(temporary / name, data, folder / name)
            for name, data in _serialize_files(config, states, training)
        }
        digests_json = json.dumps(digests, indent=2, sort_keys=True).encode()
        _write_synced(temporary / DIGESTS_FILE, digests_json, folder / DIGESTS_FILE)
        sync_folder(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(out)
    older = [path for path in step_folders(out) if path.name < folder.name]
    for surplus in older[: max(0, len(older) + 1 - keep)]:
        shutil.rmtree(surplus)
    return folder


def _serialize_files(
    config: Mapping[str, Any],
    states: Mapping[str, Mapping[str, Tensor]],
    training: Mapping[str, Any],
) -> Iterator[tuple[str, bytes | memoryview]]:
    """The name and content of each file of a checkpoint, only one of them in memory at a time."""
    fields = {"format": _CHECKPOINT_VERSION} | dict(config)
    yield CONFIG_FILE, json.dumps(fields, indent=2, sort_keys=True, allow_nan=False).encode()
    for name, state in states.items():
        yield (
            f"{name}.safetensors",
            save({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}),
        )
    file = io.BytesIO()  # if torch wrote to the disk itself, it would hide which error occurred
    torch.save(dict(training), file)
    yield _TRAINING_FILE, file.getbuffer()


def _write_synced(path: Path, data: bytes | memoryview, final_path: Path) -> str:
    """Writes a file durably; returns its sha256. Raises OSError naming `final_path`."""
    try:
        path.write_bytes(data)
        return sync_and_hash(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(final_path)) from error


def sync_and_hash(path: Path) -> str:
    """Syncs a file to disk; returns its sha256."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_weights(weights: Mapping[str, Tensor]) -> str:
    """The sha256 of named tensors, independent of their order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def weights_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two states are equal to the last bit."""
    return first.keys() == second.keys() and all(
        torch.equal(value.cpu(), second[name].cpu()) for name, value in first.items()
    )


def summarize_error(error: Exception) -> str:
    """The message of an error in one line, or its type if it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__
