"""What a trained prior's samples are worth: against no motion, the mean motion of the training set,
and another photograph's sample.

    python -m benchmarks.prior CHECKPOINT --data DATASET --split test

Distances are of amplitudes, which know no phase (docs/design/maths.md, 12): of the truth to a
scene's own sample, to no motion, to the mean amplitude of the training clips, and to the samples of
the other scenes. A mean is nearer to anything than a single draw is, so the last line but one gives
the distance to the mean amplitude of all seeds, which is to be compared with that of the training
clips. Correlations are of normalized coefficients, which know the phase: they tell something of
samples that were memorized alone. Coherence and rest (13, 14) stand beside those of the truth. Only
the first window of each clip is used. Prints a table.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.evaluate.spectral import (
    amplitude_distance,
    initial_motion_ratio,
    normalized_amplitude,
    shape_coherence,
)
from model.prior.inference import Prior, load_prior, sample_motion
from pipeline.dataset.open import DatasetView, iter_samples, open_dataset
from pipeline.motion.normalize import normalize


class Scene(NamedTuple):
    name: str
    image: np.ndarray
    channels: np.ndarray
    """[K, 4, H, W] in pixels."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--split", choices=("train", "test"), default="test")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=0.0)
    parser.add_argument("--most", type=int, default=8, help="clips, at most")
    options = parser.parse_args()
    prior = load_prior(options.checkpoint)
    selections = [open_dataset(text) for text in options.data]
    scenes = list(first_of_each(read(selections, options.split), prior.normalizer.frequencies))[
        : options.most
    ]
    mean = np.mean(
        [
            lengths(prior, scene.channels)
            for scene in first_of_each(read(selections, "train"), prior.normalizer.frequencies)
        ],
        axis=0,
    )
    print(
        f"{len(scenes)} clips of the {options.split} split, {options.steps} steps, "
        f"guidance {options.guidance:g}"
    )
    print(
        f"{'seed':<6}{'own':>8}{'zero':>8}{'mean':>8}{'other':>8} | {'own r':>8}{'other r':>8} | "
        f"{'coherence':>10}{'rest':>8}"
    )
    samples = [
        [
            sample_motion(
                prior, [scene.image], [seed], steps=options.steps, guidance=options.guidance
            )[0]
            for scene in scenes
        ]
        for seed in range(options.seeds)
    ]
    rows = [measure_samples(prior, scenes, mean, sample) for sample in samples]
    for name, row in [
        *((str(seed), row) for seed, row in enumerate(rows)),
        ("mean", np.mean(rows, axis=0)),
    ]:
        print(
            f"{name:<6}{row[0]:8.4f}{row[1]:8.4f}{row[2]:8.4f}{row[3]:8.4f} | "
            f"{row[4]:8.3f}{row[5]:8.3f} | {row[6]:10.3f}{row[7]:8.3f}",
            flush=True,
        )
    means = np.mean([[lengths(prior, sample) for sample in of_seed] for of_seed in samples], axis=0)
    apart = distances([lengths(prior, scene.channels) for scene in scenes], means)
    print(f"{'of mean':<8}{apart[0]:6.4f}{'':>16}{apart[1]:8.4f} | {'':>16} |")
    truth = np.mean([motion_measures(prior, scene.channels) for scene in scenes], axis=0)
    print(f"{'truth':<6}{'':>32} | {'':>16} | {truth[0]:10.3f}{truth[1]:8.3f}")


def read(selections: Sequence[DatasetView], split: str) -> Iterator[Scene]:
    """Reads all kept windows of a split."""
    for selection in selections:
        for shard, entry in selection.read_index().shards.items():
            for sample in iter_samples(selection, shard) if entry.split == split else ():
                yield Scene(sample.key, sample.image, sample.spectrum.astype(np.float32))


def first_of_each(scenes: Iterator[Scene], frequencies: int) -> Iterator[Scene]:
    """Selects the first window of each clip; keys are CLIP-FRAME."""
    seen: set[str] = set()
    for scene in scenes:
        clip = scene.name.rpartition("-")[0]
        if clip not in seen:
            seen.add(clip)
            yield scene._replace(channels=scene.channels[:frequencies])


def measure_samples(
    prior: Prior, scenes: Sequence[Scene], mean: np.ndarray, samples: Sequence[np.ndarray]
) -> list[float]:
    """Measures one sample of each scene."""
    true, sample_lengths = (
        [lengths(prior, channels) for channels in fields]
        for fields in ([scene.channels for scene in scenes], samples)
    )
    own, other = distances(true, sample_lengths)
    baselines = [
        float(np.mean([amplitude_distance(base, truth) for truth in true]))
        for base in (np.zeros_like(mean), mean)
    ]
    alike = own_and_other(
        np.array(
            [[correlation(prior, sample, scene.channels) for sample in samples] for scene in scenes]
        )
    )
    return [
        own,
        *baselines,
        other,
        *alike,
        *np.mean([motion_measures(prior, sample) for sample in samples], axis=0),
    ]


def distances(true: Sequence[np.ndarray], samples: Sequence[np.ndarray]) -> tuple[float, float]:
    """Returns the mean distance of each scene's truth to its own sample, and to the others'."""
    return own_and_other(
        np.array([[amplitude_distance(sample, truth) for sample in samples] for truth in true])
    )


def own_and_other(table: np.ndarray) -> tuple[float, float]:
    """Returns the means on the diagonal and off it."""
    diagonal = np.eye(len(table)) > 0
    return float(table[diagonal].mean()), float(table[~diagonal].mean())


def as_complex(channels: np.ndarray) -> np.ndarray:
    """Returns complex [K, 2, H, W] from channels (re x, im x, re y, im y)."""
    return channels[:, ::2] + 1j * channels[:, 1::2]


def lengths(prior: Prior, channels: np.ndarray) -> np.ndarray:
    return normalized_amplitude(
        as_complex(channels), prior.normalizer.scale_tensor().numpy()[:, ::2]
    )


def correlation(prior: Prior, sample: np.ndarray, true: np.ndarray) -> float:
    """Returns Pearson's correlation over all normalized coefficients."""
    scale = prior.normalizer.scale_tensor().numpy()
    sampled, truth = (
        normalize(channels, scale, prior.normalizer.normalisation).ravel()
        for channels in (sample, true)
    )
    return float(np.corrcoef(sampled, truth)[0, 1])


def motion_measures(prior: Prior, channels: np.ndarray) -> tuple[float, float]:
    spectrum = as_complex(channels)
    return float(shape_coherence(spectrum).mean()), initial_motion_ratio(
        spectrum, prior.normalizer.frames
    )


if __name__ == "__main__":
    main()
