"""The variants of the paper's table 2, and the commands that make each: what two of them have in
common is one command, run once.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from jobs.train_denoiser import SLICE_FOLDER

DATASET_FREQUENCIES = 24
"""Of the data set: any smaller K is a prefix of it."""
REAL_NAME = "real"
"""The name of the held-out windows themselves, beside those of the variants."""
FULL_NAME = "full"
"""The name of the variant that the others are compared with."""
STAGE_NAMES = (
    _AUTOENCODER_STAGE,
    _SLICE_STAGE,
    _COORDINATION_STAGE,
    _VOLUME_STAGE,
    _RENDERER_STAGE,
) = "autoencoder", "one frequency", "coordination", "volume", "renderer"
"""Of the trainings, in their order."""
PAPER_COLUMNS = ("FID", "KID", "FVD", "FVD32", "DT-FVD", "DT-FVD32")
"""Of the paper's table 2; less is better in each."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A row of the table: in what it differs from the full method."""

    name: str
    """Of its folders."""
    title: str
    """As the paper calls it."""
    paper: tuple[float | None, ...]
    """The paper's numbers, in the order of PAPER_COLUMNS."""
    frequencies: int = 16
    normalisation: Literal["adaptive", "resolution"] = "adaptive"
    mode: Literal["coordinated", "independent", "volume"] = "coordinated"
    renderer: Literal["pyramid", "single_scale"] = "pyramid"
    still: bool = False
    """The photograph is shown again and again."""


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
    """A command of quiver, and what it makes."""

    verb: str
    args: tuple[str, ...]
    output: Path

    def __str__(self) -> str:
        """As it is typed."""
        return f"quiver {self.verb} {shlex.join(self.args)}"


def make_command(verb: str, makes: Path, *args: object) -> QuiverCommand:
    return QuiverCommand(verb, tuple(map(str, args)), makes)


@dataclass(frozen=True, kw_only=True)
class TrainingCommands:
    """The commands that train what the variants want."""

    preset: str
    """Of every training."""
    data: str
    """The data set."""
    out: Path
    extra_args: Mapping[str, tuple[str, ...]]
    """What each verb is told beside its preset."""

    def list_commands(self, variants: Iterable[Variant]) -> list[QuiverCommand]:
        """Each once, and after those that it builds on."""
        wanted = [
            one
            for variant in variants
            for one in (self.autoencoder(variant), self.denoiser(variant), self.renderer(variant))
        ]
        return list(dict.fromkeys(wanted))

    def autoencoder(self, variant: Variant) -> QuiverCommand:
        """Of all frequencies, whatever the variant's."""
        return self.training_command(
            "train-autoencoder",
            f"autoencoder-{variant.normalisation}",
            "--normalisation",
            variant.normalisation,
        )

    def denoiser(self, variant: Variant) -> QuiverCommand:
        """Of a variant whose frequencies are independent, that whose first stage it is."""
        mode = "volume" if variant.mode == "volume" else "coordinated"
        options = (
            "--autoencoder",
            self.autoencoder(variant).output,
            "--frequencies",
            variant.frequencies,
            "--mode",
            mode,
        )
        return self.training_command(
            "train-denoiser",
            f"prior-{mode}-{variant.normalisation}-{variant.frequencies}",
            *options,
        )

    def renderer(self, variant: Variant) -> QuiverCommand:
        return self.training_command(
            "train-renderer", f"renderer-{variant.renderer}", "--mode", variant.renderer
        )

    def checkpoint_folders(self, variant: Variant) -> dict[str, Path]:
        """Where the checkpoints of each stage are that its films come from; what is still comes
        from none.
        """
        if variant.still:
            return {}
        prior = self.denoiser(variant).output
        both = {_SLICE_STAGE: prior / SLICE_FOLDER, _COORDINATION_STAGE: prior}
        first = (
            {_VOLUME_STAGE: prior}
            if variant.mode == "volume"
            else both
            if variant.mode == "coordinated"
            else {_SLICE_STAGE: prior / SLICE_FOLDER}
        )
        return (
            {_AUTOENCODER_STAGE: self.autoencoder(variant).output}
            | first
            | {_RENDERER_STAGE: self.renderer(variant).output}
        )

    def training_command(self, verb: str, name: str, *options: object) -> QuiverCommand:
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
        """Where the variant's prior is."""
        out = self.denoiser(variant).output
        return out / SLICE_FOLDER if variant.mode == "independent" else out


def photograph_path(out: Path, key: str) -> Path:
    """The first frame of a held-out window."""
    return out / "photographs" / f"{key}.png"


def films_folder(out: Path, name: str) -> Path:
    """Folder of the films of a variant, or of REAL."""
    return out / "films" / name


def film_path(out: Path, name: str, key: str) -> Path:
    """That which begins with a photograph."""
    return films_folder(out, name) / f"{key}.mp4"


def film_commands(
    trainings: TrainingCommands,
    variant: Variant,
    keys: Sequence[str],
    options: Sequence[object],
    seed: int,
) -> list[QuiverCommand]:
    """A film for each photograph, as long as motion is recorded, with a seed of its own. What is
    still moves by no motion.
    """
    paint = (
        ("--magnify", 0) if variant.still else ("--renderer", trainings.renderer(variant).output)
    )
    made = []
    for number, key in enumerate(keys):
        path = film_path(trainings.out, variant.name, key)
        source = (
            photograph_path(trainings.out, key),
            "--checkpoint",
            trainings.prior_folder(variant),
            "--seed",
            seed + number,
        )
        made.append(
            make_command("animate", path, *source, *paint, *options, "--quiet", "--out", path)
        )
    return made
