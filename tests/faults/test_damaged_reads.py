"""P6: whatever storage did to a data set, no reader gives a sample that is not the one written.

Every reader of the product is given every mutation, as it is called by its verb: each read raises
an error that it documents before it gives anything, or gives what the sound data set gives.
QUIVER_MUTATIONS says how many mutations there are (QUIVER_FAULTS=full: 500).
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.cli.motion_source import dataset_motion
from jobs.cli.training import TrainingOptions
from model.data.loader import ShardDataset
from model.data.order import SampleDraw
from model.data.pairs import PairDataset
from model.evaluate.pairs import find_real
from pipeline.dataset.open import iter_samples, open_dataset
from pipeline.decode.config import DecodeConfig
from pipeline.decode.pool import shared_pool
from pipeline.preview.reconstruct import read_manifest, reconstruct
from tests.support import damage

LONGEST_S = max(300, 10 * damage.MUTATION_COUNT)
pytestmark = [pytest.mark.promise("P6"), pytest.mark.slow, pytest.mark.timeout(LONGEST_S)]
REFUSED = (OSError, ValueError)
"""What readers document; every verb makes a sentence of it."""
Reads = Iterator[tuple[Any, Callable[[], Any]]]
"""What is read, and how."""


def iterate_samples(windows: ShardDataset) -> Reads:
    """Every sample, as the second epoch of seed 3 draws it, alone in its batch."""
    for number in range(len(windows)):
        yield (
            windows.shard_index[number].key,
            lambda number=number: windows.batch([SampleDraw(3, 1, number)]),
        )


def trained(root: Path, statistics: Path | None, **more: Any) -> Reads:
    """Samples of both splits, as train-denoiser and train-autoencoder open them."""
    data = TrainingOptions(
        data=(str(root),), out=root / "out", statistics=statistics, augment=False
    )
    selections = data.open_datasets()
    scales = data.load_statistics(selections)
    for windows in data.make_train_and_test(
        selections, scales, "adaptive", damage.CONFIG.frequencies, **more
    ):
        yield from iterate_samples(windows) if windows else ()


def denoiser(root: Path) -> Reads:
    return trained(root, None)


def autoencoder(root: Path) -> Reads:
    return trained(root, root / "statistics.json", all_frequencies=True)


def renderer(root: Path) -> Reads:
    data = TrainingOptions(data=(str(root),), out=root / "out")
    selections = data.open_datasets()
    for split in ("train", "test"):
        yield from iterate_samples(
            PairDataset(selections, data.load_statistics(selections), split=split)
        )


def evaluation(root: Path) -> Reads:
    """The windows of which the real videos are read; the videos have digests of their own."""
    found = find_real(str(root), shared_pool(DecodeConfig(), 1))
    rows = {row.key: row for row in read_manifest(open_dataset(str(root)), None)}
    for key in found:
        yield key, lambda key=key: rows[key]
    yield "all", lambda: sorted(found)


def preview(root: Path) -> Reads:
    for key in KEYS:
        yield key, lambda key=key: _parts(reconstruct(open_dataset(str(root)), key))


def _parts(shown: Any) -> Any:
    sample = shown.sample
    return shown.row, shown.settings, shown.motion, sample.image, sample.weight, sample.confidence


def animate(root: Path) -> Reads:
    for key in (None, *KEYS):
        yield key, lambda key=key: dataset_motion(str(root), key)


def whole(root: Path) -> Reads:
    """As report-statistics --exact, refilter and the report's pictures read them."""
    for shard in damage.SHARDS:
        yield shard, lambda shard=shard: list(iter_samples(open_dataset(str(root)), shard))


READERS = (denoiser, autoencoder, renderer, evaluation, preview, animate, whole)
KEYS: list[str] = []


def content(value: Any) -> str:
    """A digest of what was read; of arrays and tensors, their bytes."""
    return hashlib.sha256(repr(_plain(value)).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if hasattr(value, "numpy"):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def read_all(reader: Callable[[Path], Reads], root: Path) -> tuple[dict[Any, str], int]:
    """What a reader gives of a data set, by what was asked for, and how often it refused."""
    found: dict[Any, str] = {}
    refused = 0
    try:
        for name, read in reader(root):
            try:
                value = read()
            except REFUSED:
                refused += 1
                continue
            found[len(found) + refused, name] = content(value)
    except REFUSED:  # to open it at all
        refused += 1
    return found, refused


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    root = damage.make_dataset(tmp_path_factory.mktemp("sound"))
    kept = read_manifest(open_dataset(str(root)), filters=[("outcome", "=", "kept")])
    KEYS[:] = sorted(row.window().key for row in kept)[::3]
    return root


@pytest.mark.thorough
def test_no_mutation_is_read_silently(sound, tmp_path, record_property, capsys):
    root = damage.copy_dataset(sound, tmp_path)
    expected = {reader.__name__: read_all(reader, root) for reader in READERS}
    shutil.rmtree(root)
    assert all(reads and not refused for reads, refused in expected.values())
    refusals: Counter[str] = Counter()
    silent, noticed = [], 0
    for mutation in damage.make_random_mutations(damage.MUTATION_COUNT):
        root = damage.copy_dataset(sound, tmp_path)
        mutation.apply(root)
        before = refusals.total()
        for reader in READERS:
            reads, refused = read_all(reader, root)
            sound_reads, _ = expected[reader.__name__]
            refusals[reader.__name__] += refused > 0
            if not reads.items() <= sound_reads.items() or (
                len(reads) < len(sound_reads) and not refused
            ):
                silent.append((mutation.name, reader.__name__))
        noticed += refusals.total() > before
        shutil.rmtree(root)
    record_property("injections", damage.MUTATION_COUNT)
    with capsys.disabled():
        counts = ", ".join(f"{name} refused {number}" for name, number in sorted(refusals.items()))
        summary = f"{len(silent)} read silently; {noticed} noticed by a reader ({counts})"
        print(f"\n{damage.MUTATION_COUNT} mutations of a dataset: {summary}")
    assert not silent and all(refusals[reader.__name__] for reader in READERS)
