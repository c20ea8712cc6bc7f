"""The settings of an ablation, which are the options of `quiver ablate`, and their contract: the
folder of an ablation is resumed with the same settings alone.
"""

import hashlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import tyro

from jobs.ablation.variants import VARIANTS, TrainingCommands, Variant
from model.evaluate.extractors import NETWORK_SPECS
from pipeline.atomic_files import replace_file
from pipeline.dataset.folder import ContractMismatch
from pipeline.dataset.open import open_dataset
from schemas.run_contract import flatten, to_json_value
from schemas.seal import open_seal, seal

_CONTRACT_FILE = "ablation-run.json"
_VARIANT_NAMES = [variant.name for variant in VARIANTS]


@dataclass(frozen=True, kw_only=True)
class Ablate:
    out: Path
    """Folder for all results; created if missing, resumed otherwise."""
    clips: tuple[str, ...] = ()
    """Videos for training and evaluation, as in quiver extract-flow. Without --clips and --data
    clips are generated.
    """
    data: str | None = None
    """A dataset extracted with --frequencies 24 or more, instead of --clips."""
    filters: Literal["subtle", "paper", "none"] = "subtle"
    """For --clips: the filters that windows must pass."""
    test_fraction: float = 0.1
    """For --clips: share of the videos that are held out, unless a table says which."""
    photographs: int
    """Most held-out windows of which films are made, each of another clip as long as there are
    others.
    """
    steps: int
    """DDIM steps for each film."""
    seed: int = 0
    """Seed of the first film; each further one has the next seed."""
    imagenet: Path | None = None
    """File with torchvision's weights of ResNet-34, from which the renderers start."""
    inception: Path | None = None
    """Weights for FID and KID, as in quiver evaluate."""
    i3d: Path | None = None
    """Weights for FVD, as in quiver evaluate."""
    dt_i3d: Path | None = None
    """Weights for DT-FVD, as in quiver evaluate."""
    dt_i3d_32: Path | None = None
    """Weights for DT-FVD32, as in quiver evaluate."""
    device: Literal["cuda", "cpu"]
    """Device on which the networks run when films are made and measured."""
    only: tuple[str, ...] = ()
    """Names of some variants; by default all of the table."""
    preset: tyro.conf.Suppress[str]
    """Preset of the trainings."""
    more: tyro.conf.Suppress[dict[str, tuple[str, ...]]] = field(default_factory=dict)
    """Further options for each verb."""
    generated: tyro.conf.Suppress[tuple[int, float]] = (1, 7.0)
    """Sets of generated clips for training, and their length in seconds."""

    def __post_init__(self):
        if self.clips and self.data:
            raise ValueError(
                f"--clips is {' '.join(self.clips)} and --data is {self.data}, expected one of them"
            )
        for name, maximum in (("photographs", 100_000), ("steps", 1000)):
            if not 1 <= getattr(self, name) <= maximum:
                raise ValueError(f"--{name} is {getattr(self, name)}, expected 1 to {maximum}")
        if unknown := [name for name in self.only if name not in _VARIANT_NAMES]:
            raise ValueError(
                f"--only names {', '.join(map(repr, unknown))}, expected some of "
                f"{', '.join(_VARIANT_NAMES)}"
            )
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}, expected at least 0")

    @property
    def dataset(self) -> str:
        return self.data or str(self.out / "data")

    @property
    def variants(self) -> list[Variant]:
        return [variant for variant in VARIANTS if not self.only or variant.name in self.only]

    @property
    def training_commands(self) -> TrainingCommands:
        renderer = self.more.get("train-renderer", ()) + (
            ("--imagenet", str(self.imagenet)) if self.imagenet else ()
        )
        return TrainingCommands(
            preset=self.preset,
            data=self.dataset,
            out=self.out,
            extra_args=self.more | {"train-renderer": renderer},
        )


def write_or_check_contract(job: Ablate) -> None:
    """Writes the settings of a new ablation, or compares them with those in the folder. Raises
    ContractMismatch for an ablation with other settings, ValueError for a folder with other files.
    """
    path, contract = job.out / _CONTRACT_FILE, _make_contract(job)
    if not path.exists():
        names = sorted(file.name for file in job.out.iterdir() if not file.name.startswith("."))
        if names:
            raise ValueError(
                f"{job.out} holds other files ({', '.join(names[:3])}), expected a new or an empty "
                "folder, or an ablation"
            )
        replace_file(path, seal(contract, indent=2))
        return
    try:
        recorded = flatten(open_seal(path.read_bytes(), indent=2))
    except ValueError as error:
        raise ValueError(f"{path} {error}; use another --out") from error
    current = flatten(contract)
    different = [
        f"{name}: {recorded.get(name)} -> {current.get(name)}"
        for name in sorted(recorded.keys() | current.keys())
        if recorded.get(name) != current.get(name)
    ]
    if different:
        raise ContractMismatch(different, "an ablation")


def _make_contract(job: Ablate) -> dict[str, Any]:
    """The settings that decide the films. Which variants are made, and which networks measure the
    films, may change.
    """
    variable = {"out", "only", *(name.replace("-", "_") for name in NETWORK_SPECS)}
    settings = {
        field.name: getattr(job, field.name) for field in fields(job) if field.name not in variable
    }
    content = (
        hashlib.sha256(open_dataset(job.data).derived_path("index.json").read_bytes()).hexdigest()
        if job.data
        else None
    )
    return to_json_value(
        settings | dict(imagenet=job.imagenet and _sha256_of_file(job.imagenet), content=content)
    )


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
