"""Reads a dataset: python examples/read_dataset.py demo/dataset

DATASET:VIEW names a view of it.
"""

import sys

import numpy as np

from pipeline.dataset import open_dataset


def main(path: str) -> None:
    """Prints the strongest frequency and the largest displacement of each sample."""
    dataset = open_dataset(path)
    print(f"{len(dataset)} samples in {dataset}")
    for sample in dataset:
        amplitude = np.abs(sample.spectrum[1:]).mean(axis=(1, 2, 3))  # without the mean offset
        strongest = (1 + int(amplitude.argmax())) * sample.fps / sample.frames
        length = np.linalg.norm(sample.motion(), axis=1)
        print(f"{sample.key}: {strongest:.1f} Hz, up to {length.max():.1f} px")
    normalized = dataset.normalizer().normalize(dataset[0].spectrum)
    share = (np.abs(normalized) <= 1).mean()
    print(f"{share:.0%} of the normalized coefficients of the first sample are within -1 to 1")


if __name__ == "__main__":
    main(*sys.argv[1:])
