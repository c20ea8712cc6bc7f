"""Training samples from shards, against webdataset with numpy, safetensors and Pillow: 256 x 160,
16 frequencies, normalized.

Both read the same members of the same samples, with the page cache warm, on one core and in one
process, and give float32: the picture from -1 to 1, and S' by the scales of the dataset. Once all
16 frequencies, once a single one of each sample. webdataset streams a shard from its beginning to
its end, which is what it is made for; Quiver reads in random order and checks what it reads. Both
give batches of 8, webdataset's stacked by numpy; what it takes without batches is shown too.
"""

import functools
import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from PIL import Image
from safetensors.numpy import load

from benchmarks.rounds import (
    arguments,
    interleaved,
    medians,
    one_cpu,
    report,
    speedup,
    table,
    timings_table,
)
from benchmarks.shards import make_samples
from model.data.augment import AugmentConfig
from model.data.loader import load_batches
from model.data.order import EpochOrder, Position
from model.data.spectra import SpectrumConfig, SpectrumDataset
from pipeline.dataset.commit import ShardDraft
from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import DatasetView, iter_samples
from pipeline.dataset.scales import compute_statistics
from pipeline.extract.config import BuildConfig, to_contract
from pipeline.motion.normalize import channel_scales
from schemas.outcome import FilterMeasures, Outcome, Stage
from schemas.sample import IMAGE_MEMBER, MOTION_MEMBER
from schemas.shard_record import RecordRow
from schemas.statistics import SpectrumStatistics
from tests.support.datasets import PASSING_MEASURES, make_plan_row

SAMPLES, BATCH, SHARD = 64, 8, "train-000000"


def main() -> None:
    parser = arguments(__doc__)
    options = parser.parse_args()
    one_cpu()
    torch.set_num_threads(1)
    count = BATCH if options.quick else SAMPLES
    with tempfile.TemporaryDirectory() as folder:
        selection = make_dataset(Path(folder) / "dataset", count)
        statistics = compute_statistics([selection])
        check_contenders_agree(selection, statistics)
        contenders = {
            name: functools.partial(use, make(), count)
            for name, make in all_contenders(selection, statistics).items()
        }
        timings = interleaved(contenders, 1 if options.quick else options.rounds)
    all_times, all_peer_times, one_times, one_peer_times, all_bare_times, one_bare_times, *_ = (
        timings.values()
    )
    targets = [
        speedup("all 16 frequencies: webdataset + numpy / Quiver", 4, all_times, all_peer_times),
        speedup("one frequency: webdataset + numpy / Quiver", 4, one_times, one_peer_times),
        speedup(
            "all 16 frequencies: webdataset + numpy without batches / Quiver",
            4,
            all_times,
            all_bare_times,
        ),
        speedup(
            "one frequency: webdataset + numpy without batches / Quiver",
            4,
            one_times,
            one_bare_times,
        ),
    ]
    rates = table(
        ("", "samples a second"),
        [(name, count / medians(times).clock) for name, times in timings.items()],
    )
    body = timings_table(timings, f"ms for {count} samples,", 1e3) + "\n\n" + rates
    report("loader", "Loader", __doc__, body, targets, keep=not options.quick)


def make_dataset(root: Path, count: int) -> DatasetView:
    """Creates a dataset of one shard of rendered frames and smooth spectra."""
    config, dataset = BuildConfig(), Dataset(root)
    rows = [make_plan_row(SHARD, i) for i in range(count)]
    root.mkdir()
    dataset.create_or_resume(rows, to_contract(config), {})
    draft, power = (
        ShardDraft(dataset, SHARD, config.frequencies),
        [0.0] * (config.plan.frames // 2 + 1),
    )
    for row, sample in zip(rows, make_samples(count), strict=True):
        result = RecordRow(
            key=row.window().key,
            outcome=Outcome.KEPT,
            stage=Stage.WRITE,
            measures=FilterMeasures(**PASSING_MEASURES),
            power_x=power,
            power_y=power,
            energy_x=1.0,
            energy_y=1.0,
        )
        draft.add(result, replace(sample, key=result.key), None)
    draft.commit()
    finalize(dataset)
    return DatasetView(dataset)


def all_contenders(
    selection: DatasetView, statistics: SpectrumStatistics
) -> dict[str, Callable[[], Iterator]]:
    """Returns by name what makes an endless iterator of samples, or of batches of them."""
    url, scale = str(selection.dataset.tar_path(SHARD)), channel_scales(statistics)
    make_quiver, make_webdataset = (
        functools.partial(quiver, selection, statistics),
        functools.partial(webdataset, url, scale),
    )
    stacked = functools.partial(batches, url, scale)
    return {
        "Quiver, all frequencies": functools.partial(make_quiver, SpectrumConfig()),
        "webdataset + numpy, all frequencies": functools.partial(stacked, None),
        "Quiver, one frequency": functools.partial(make_quiver, SpectrumConfig(drawn=1)),
        "webdataset + numpy, one frequency": functools.partial(stacked, np.random.default_rng(0)),
        "webdataset + numpy, all frequencies, no batches": functools.partial(make_webdataset, None),
        "webdataset + numpy, one frequency, no batches": functools.partial(
            make_webdataset, np.random.default_rng(0)
        ),
        "Quiver, all frequencies, augmented": functools.partial(
            make_quiver, SpectrumConfig(augment=AugmentConfig())
        ),
        "Quiver, one frequency, augmented": functools.partial(
            make_quiver, SpectrumConfig(drawn=1, augment=AugmentConfig())
        ),
    }


def quiver(
    selection: DatasetView, statistics: SpectrumStatistics, config: SpectrumConfig
) -> Iterator[list]:
    examples = SpectrumDataset([selection], statistics, config)
    for batch, _ in load_batches(
        examples, EpochOrder(count=len(examples), seed=0, global_batch=BATCH), Position()
    ):
        yield list(zip(batch.image, batch.spectrum, batch.keys, strict=True))


def webdataset(url: str, scale: np.ndarray, rng: np.random.Generator | None) -> Iterator[list]:
    """Selects all frequencies, or one that `rng` draws."""
    while True:
        for sample in wds.WebDataset(url, shardshuffle=False):
            picture = np.asarray(Image.open(io.BytesIO(sample[IMAGE_MEMBER])))
            image = picture.transpose(2, 0, 1).astype(np.float32) / np.float32(127.5) - np.float32(
                1
            )
            part = slice(None) if rng is None else slice(k := int(rng.integers(len(scale))), k + 1)
            ratio = load(sample[MOTION_MEMBER])["spectrum"][part].astype(np.float32) / scale[part]
            yield [(image, np.sign(ratio) * np.sqrt(np.abs(ratio)), sample["__key__"])]


def batches(url: str, scale: np.ndarray, rng: np.random.Generator | None) -> Iterator[list]:
    """Yields the same samples in stacks of BATCH."""
    stream = webdataset(url, scale, rng)
    while True:
        image, spectrum, keys = zip(
            *(sample for single in islice(stream, BATCH) for sample in single), strict=True
        )
        yield list(zip(np.stack(image), np.stack(spectrum), keys, strict=True))


def use(stream: Iterator[list], count: int) -> None:
    """Takes the next `count` samples."""
    while count > 0:
        count -= len(next(stream))


def check_contenders_agree(selection: DatasetView, statistics: SpectrumStatistics) -> None:
    """Checks that both give the same of each sample."""
    contenders = all_contenders(selection, statistics)
    count = len(list(iter_samples(selection, SHARD)))
    quiver_samples = {
        key: (image.numpy(), spectrum.numpy())
        for batch in islice(contenders["Quiver, all frequencies"](), count // BATCH)
        for image, spectrum, key in batch
    }
    peer_samples = {
        key: (image, spectrum)
        for batch in islice(contenders["webdataset + numpy, all frequencies"](), count // BATCH)
        for image, spectrum, key in batch
    }
    assert quiver_samples.keys() == peer_samples.keys() and len(quiver_samples) == count
    for key, (image, spectrum) in peer_samples.items():
        assert np.abs(quiver_samples[key][0] - image).max() < 1e-6 and np.array_equal(
            quiver_samples[key][1], spectrum
        )


if __name__ == "__main__":
    main()
