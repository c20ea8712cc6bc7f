"""The undisturbed run itself."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import DatasetView, iter_samples
from tests.faults.reference import (
    CLIP_COUNT,
    FRAMES,
    SHARDS,
    SIZE,
    clip_displacement,
    count_windows,
    envelope,
    harmonic,
)


def test_the_closed_form_is_what_the_reference_holds(reference):
    """Its clips sway as they say: S_k of the middle row is that of the sine, to a tenth."""
    found = [
        sample
        for shard in SHARDS
        for sample in iter_samples(DatasetView(Dataset(reference.root)), shard)
    ]
    assert len(found) == sum(harmonic(clip) > 0 for clip in range(CLIP_COUNT))
    for sample in found:
        clip, middle = int(sample.key.split("-")[1]), slice(SIZE // 2 - 8, SIZE // 2 + 8)
        expected = (
            np.fft.rfft(clip_displacement(clip, np.arange(FRAMES)))[harmonic(clip)]
            * envelope()[middle].mean()
        )
        channels = sample.spectrum[harmonic(clip), :2, middle, 8:-8].astype(float).mean(axis=(1, 2))
        assert abs(channels[0] + 1j * channels[1] - expected) < 0.1 * abs(expected), sample.key


def test_a_window_that_is_missing_or_there_twice_is_counted(reference, tmp_path):
    """So that the zeros of the table mean something."""
    root = tmp_path / "dataset"
    (root / "shards").mkdir(parents=True)
    rows = pq.read_table(reference.root / "manifest.parquet")
    pq.write_table(pa.concat_tables([rows.slice(1), rows.slice(2, 1)]), root / "manifest.parquet")
    assert count_windows(reference, root) == (1, 1)
    for name in ("a", "b"):
        shutil.copy(reference.root / "shards" / f"{SHARDS[0]}.tar", root / "shards" / f"{name}.tar")
    assert count_windows(reference, root).duplicates > 3
