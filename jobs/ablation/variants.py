"""The variants of the paper's table 2, and the commands that train them and make their films.

What two variants have in common is one command, which runs once.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from jobs.train_denoiser import SLICE_FOLDER

DATASET_FREQUENCIES = 24
"""Frequencies of the dataset; a variant with a smaller K uses the first K."""
REAL_NAME = "real"
"""The name of the held-out windows themselves, beside the names of the variants."""
FULL_NAME = "full"
"""The name of the variant that the others are compared with."""
_AUTOENCODER_STAGE, _RENDERER_STAGE = "autoencoder", "renderer"
_SLICE_STAGE, _COORDINATION_STAGE, _VOLUME_STAGE = "one frequency", "coordination", "volume"
STAGE_NAMES = (
    _AUTOENCODER_STAGE,
    _SLICE_STAGE,
    _COORDINATION_STAGE,
    _VOLUME_STAGE,
    _RENDERER_STAGE,
)
"""The stages of the trainings, in their order."""
PAPER_COLUMNS = ("FID", "KID", "FVD", "FVD32", "DT-FVD", "DT-FVD32")
"""The columns of the paper's table 2; in each, less is better."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A row of the table: how it differs from the full method."""

    name: str
    """The name of its folders."""
    title: str
    """What the paper calls it."""
    paper: tuple[float | None, ...]
    """The paper's numbers, in the order of PAPER_COLUMNS."""
    frequencies: int = 16
    normalisation: Literal["adaptive", "resolution"] = "adaptive"
    mode: Literal["coordinated", "independent", "volume"] = "coordinated"
    renderer: Literal["pyramid", "single_scale"] = "pyramid"
    still: bool = False
    """Whether the photograph is shown without any motion."""


VARIANTS = (
    Variant(
        name="repeat", title="repeat I0", paper=(None, None, 237.5, 316.7, 5.30, 45.6), still=True
    ),
    Variant(name="k4", title="K = 4", paper=(3.92, 0.07, 60.3, 78.4, 3.12, 8.59), frequencies=4),
    Variant(name="k8", title="K = 8", paper=(3.95, 0.07, 52.1, 68.7, 2.71, 7.37), frequencies=8),
    Variant(name="k24", title="K = 24", paper=(4.09, 0.08, 48.2, 65.1, 2.50, 6.94), frequencies=24),
    Variant(
        name="resolution",
        title="no adaptive normalisation",
        paper=(4.53, 0.09, 62.7, 80.1, 3.16, 8.19),
        normalisation="resolution",
    ),
    Variant(
        name="independent",
        title="independent",
        paper=(4.00, 0.08, 52.5, 71.3, 2.70, 7.40),
        mode="independent",
    ),
    Variant(
        name="volume", title="volume", paper=(4.74, 0.09, 53.7, 71.1, 2.83, 7.79), mode="volume"
    ),
    Variant(
        name="splat",
        title="baseline splat",
        paper=(4.25, 0.09, 49.5, 66.8, 2.83, 7.27),
        renderer="single_scale",
    ),
    Variant(name=FULL_NAME, title="full (K = 16)", paper=(4.03, 0.08, 47.1, 62.9, 2.53, 6.75)),
)


class QuiverCommand(NamedTuple):
    """A command of quiver, and the file or folder that it makes."""

    verb: str
    args: tuple[str, ...]
    output: Path

    def __str__(self) -> str:
        """The command line."""
        return f"quiver {self.verb} {shlex.join(self.args)}"


def make_command(verb: str, output: Path, *args: object) -> QuiverCommand:
    """A command whose arguments are converted to strings."""
    return QuiverCommand(verb, tuple(map(str, args)), output)


@dataclass(frozen=True, kw_only=True)
class TrainingCommands:
    """The commands that train the networks of the variants."""

    preset: str
    """Preset of every training."""
    data: str
    """The dataset."""
    out: Path
    """Folder of the ablation."""
    extra_args: Mapping[str, tuple[str, ...]]
    """Options of each verb besides its preset."""

    def list_commands(self, variants: Iterable[Variant]) -> list[QuiverCommand]:
        """All commands, each once, and after those that it builds on."""
        commands: list[QuiverCommand] = []
        for variant in variants:
            commands += (self.autoencoder(variant), self.denoiser(variant), self.renderer(variant))
        return list(dict.fromkeys(commands))

    def autoencoder(self, variant: Variant) -> QuiverCommand:
        """Trains the autoencoder, on all frequencies whatever K the variant has."""
        name = f"autoencoder-{variant.normalisation}"
        options = ("--normalisation", variant.normalisation)
        return self._training_command("train-autoencoder", name, *options)

    def denoiser(self, variant: Variant) -> QuiverCommand:
        """Trains the denoiser. Independent frequencies are the first stage of coordinated ones, so
        both variants share a training.
        """
        mode = "volume" if variant.mode == "volume" else "coordinated"
        options = (
            "--autoencoder",
            self.autoencoder(variant).output,
            "--frequencies",
            variant.frequencies,
            "--mode",
            mode,
        )
        name = f"prior-{mode}-{variant.normalisation}-{variant.frequencies}"
        return self._training_command("train-denoiser", name, *options)

    def renderer(self, variant: Variant) -> QuiverCommand:
        """Trains the renderer."""
        name = f"renderer-{variant.renderer}"
        return self._training_command("train-renderer", name, "--mode", variant.renderer)

    def checkpoint_folders(self, variant: Variant) -> dict[str, Path]:
        """The folder of the checkpoints of each stage that the variant's films come from; none for
        a still variant.
        """
        if variant.still:
            return {}
        prior = self.denoiser(variant).output
        folders = {_AUTOENCODER_STAGE: self.autoencoder(variant).output}
        if variant.mode == "volume":
            folders[_VOLUME_STAGE] = prior
        else:
            folders[_SLICE_STAGE] = prior / SLICE_FOLDER
        if variant.mode == "coordinated":
            folders[_COORDINATION_STAGE] = prior
        folders[_RENDERER_STAGE] = self.renderer(variant).output
        return folders

    def _training_command(self, verb: str, name: str, *options: object) -> QuiverCommand:
        out = self.out / "trained" / name
        return make_command(
            verb,
            out,
            self.preset,
            "--data",
            self.data,
            *options,
            *self.extra_args.get(verb, ()),
            "--out",
            out,
        )

    def prior_folder(self, variant: Variant) -> Path:
        """The folder of the variant's prior."""
        out = self.denoiser(variant).output
        return out / SLICE_FOLDER if variant.mode == "independent" else out


def photograph_path(out: Path, key: str) -> Path:
    """The file with the first frame of a held-out window."""
    return out / "photographs" / f"{key}.png"


def films_folder(out: Path, name: str) -> Path:
    """The folder of the films of a variant, or of the real films."""
    return out / "films" / name


def film_path(out: Path, name: str, key: str) -> Path:
    """The film that begins with the photograph of that key."""
    return films_folder(out, name) / f"{key}.mp4"


def film_commands(
    trainings: TrainingCommands,
    variant: Variant,
    keys: Sequence[str],
    options: Sequence[object],
    seed: int,
) -> list[QuiverCommand]:
    """The commands that make a film of each photograph, each with its own seed, as long as recorded
    motion. The motion of a still variant is magnified by 0.
    """
    rendering = (
        ("--magnify", 0) if variant.still else ("--renderer", trainings.renderer(variant).output)
    )
    commands = []
    for number, key in enumerate(keys):
        path = film_path(trainings.out, variant.name, key)
        prior = ("--checkpoint", trainings.prior_folder(variant), "--seed", seed + number)
        options_of_film = (*prior, *rendering, *options, "--quiet", "--out", path)
        commands.append(
            make_command("animate", path, photograph_path(trainings.out, key), *options_of_film)
        )
    return commands
