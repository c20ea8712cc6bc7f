"""SpectrumDataset against the samples that were written; the order against itself, however it is
shared, stopped and resumed.
"""

import os
import pickle
import random
import shutil
import signal
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.augment import AugmentConfig
from model.data.loader import load_batches
from model.data.order import EpochOrder, Position, SampleDraw
from model.data.shard_reader import FileCache
from model.data.spectra import SpectrumConfig, SpectrumDataset
from pipeline.dataset.open import DatasetView, iter_samples, open_dataset
from pipeline.dataset.scales import ScaleConfig, compute_statistics
from pipeline.dataset.views import refilter
from pipeline.filters import Thresholds
from pipeline.motion.normalize import channel_scales, normalize
from tests.support.datasets import PASSING_MEASURES, write_dataset

SHARDS = {
    "train-000000": [PASSING_MEASURES] * 4,
    "train-000001": [
        PASSING_MEASURES,
        PASSING_MEASURES | dict(mean_motion_px=0.1),
        PASSING_MEASURES | dict(moving_share=0.2),
    ],
    "test-000000": [PASSING_MEASURES] * 2,
}
ONE = SpectrumConfig(drawn=1, augment=AugmentConfig())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("batches") / "a", SHARDS)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return write_dataset(
        tmp_path_factory.mktemp("batches") / "b",
        {"train-000000": [PASSING_MEASURES] * 3, "test-000000": [PASSING_MEASURES]},
        seed=9,
    )


def stored(*selections: DatasetView) -> dict:
    """Every kept sample by key, as the plain reader reads it."""
    return {
        sample.key: sample
        for selection in selections
        for shard in selection.read_index().shards
        for sample in iter_samples(selection, shard)
    }


def examples(selections, config=None, **kwargs):
    return SpectrumDataset(selections, compute_statistics(selections), config, **kwargs)


def keys(found: SpectrumDataset) -> list[str]:
    return [found[i].key for i in range(len(found))]


@pytest.mark.slow
@pytest.mark.parametrize("normalisation", ["adaptive", "linear", "log", "resolution"])
@pytest.mark.parametrize("pool", ["components", "none"])
def test_an_example_is_the_sample_normalised_to_the_last_bit(dataset, normalisation, pool):
    statistics, samples = (
        compute_statistics([DatasetView(dataset)], ScaleConfig(pool=pool)),
        stored(DatasetView(dataset)),
    )
    found = SpectrumDataset(
        [DatasetView(dataset)], statistics, SpectrumConfig(normalisation=normalisation)
    )
    assert len(found) == 6
    for image, spectrum, frequency, believed, key in found:
        wanted = normalize(
            samples[key].spectrum.astype(np.float32),
            channel_scales(statistics, normalisation),
            normalisation,
        )
        np.testing.assert_array_equal(spectrum.numpy(), wanted)
        np.testing.assert_allclose(
            image.numpy().transpose(1, 2, 0), samples[key].image / 127.5 - 1, atol=1e-6
        )
        assert image.dtype == spectrum.dtype == torch.float32 and frequency.tolist() == [0, 1, 2, 3]
        assert torch.equal(believed, torch.ones(32, 40))  # the confidence is 255 everywhere


@pytest.mark.slow
@pytest.mark.parametrize("drawn", [1, 3, 9])
def test_fewer_frequencies_and_some_of_them_are_parts_of_the_whole(dataset, drawn):
    whole, two, some = (
        examples([DatasetView(dataset)], SpectrumConfig(**more))
        for more in ({}, dict(frequencies=2), dict(drawn=drawn))
    )
    seen = set()
    for i in range(len(whole)):
        assert torch.equal(two[i].spectrum, whole[i].spectrum[:2]) and two[
            i
        ].frequency_index.tolist() == [0, 1]
        for epoch in range(8):
            image, spectrum, frequency, _, key = some[SampleDraw(5, epoch, i)]
            assert torch.equal(spectrum, whole[i].spectrum[frequency]) and len(
                set(frequency.tolist())
            ) == len(spectrum) == min(drawn, 4)
            assert torch.equal(image, whole[i].image) and key == whole[i].key
            seen |= set(frequency.tolist())
    assert seen == {0, 1, 2, 3}


def test_the_augmented_stored_motion_is_near_where_it_was(dataset):
    """With mirroring only, the augmented sample is the mirrored sample: augmentation comes before
    normalization.
    """
    mirrored = AugmentConfig(
        flip=1.0, scale=1.0, rotation_deg=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0
    )
    plain, found = (
        examples([DatasetView(dataset)], config)
        for config in (None, SpectrumConfig(augment=mirrored))
    )
    for one, other in zip(plain, found, strict=True):
        assert torch.equal(other.image, one.image.flip(-1))
        torch.testing.assert_close(
            other.spectrum, one.spectrum.flip(-1) * torch.tensor([-1, -1, 1, 1])[:, None, None]
        )


def test_numbers_depend_on_no_folder_and_no_order(dataset, other, tmp_path):
    moved = write_dataset(tmp_path / "zzz", SHARDS)
    assert (
        moved.tar_path("train-000000").read_bytes() == dataset.tar_path("train-000000").read_bytes()
    )
    sets = (
        [DatasetView(dataset), DatasetView(other)],
        [DatasetView(other), DatasetView(dataset)],
        [DatasetView(other), DatasetView(moved)],
    )
    first, *rest = (keys(examples(selections)) for selections in sets)
    assert len(first) == 9 and rest == [first, first]


def test_a_view_is_a_part_of_the_whole_in_its_order(dataset, other):
    refilter(
        dataset,
        "strict",
        replace(Thresholds(), camera_motion=0.4),
        lambda function, items: ((item, function(item)) for item in items),
    )
    view = open_dataset(f"{dataset.root}:strict")
    kept = view.kept_windows(["key"])["key"].to_pylist()
    assert 0 < len(kept) < 6
    whole, part = (examples([one, DatasetView(other)]) for one in (DatasetView(dataset), view))
    assert len(part) == len(kept) + 3
    again = {key: number for number, key in enumerate(keys(whole))}
    assert [key for key in keys(part) if key in kept] == sorted(kept, key=again.__getitem__)
    shutil.rmtree(dataset.views)


def test_test_samples_are_never_trained_on(dataset, other):
    both = [DatasetView(dataset), DatasetView(other)]
    train, test = (set(map(str, keys(examples(both, split=split)))) for split in ("train", "test"))
    assert not train & test and len(test) == 2 and all(key.startswith("clip-test") for key in test)


@pytest.mark.slow
def test_a_video_held_out_elsewhere_is_refused(tmp_path):
    a = write_dataset(
        tmp_path / "a",
        {"train-000000": [PASSING_MEASURES], "test-000000": [PASSING_MEASURES]},
        seed=1,
    )
    b = write_dataset(
        tmp_path / "b",
        {"train-000000": [PASSING_MEASURES]},
        seed=2,
        sha256=a.planned_rows()[-1].sha256,
    )
    c = write_dataset(
        tmp_path / "c", {"train-000000": [PASSING_MEASURES]}, seed=3, source="the same"
    )
    d = write_dataset(
        tmp_path / "d",
        {"train-000001": [PASSING_MEASURES], "test-000000": [PASSING_MEASURES]},
        seed=4,
        source="the same",
    )
    for pair in ((a, b), (b, a), (c, d)):
        with pytest.raises(
            ValueError, match=r"1 videos are for training in .* and held out for test in"
        ):
            examples([DatasetView(one) for one in pair])


def test_statistics_of_other_shards_are_refused_and_nothing_to_learn_from(dataset, other, tmp_path):
    statistics = compute_statistics([DatasetView(dataset)])
    for selections in ([DatasetView(other)], [DatasetView(dataset), DatasetView(other)]):
        for split in ("train", "test"):
            with pytest.raises(ValueError, match="another set of training shards"):
                SpectrumDataset(selections, statistics, split=split)
    with pytest.raises(ValueError, match="there twice"):
        SpectrumDataset([DatasetView(dataset)] * 2, statistics)
    empty = write_dataset(tmp_path / "a", {"test-000000": [PASSING_MEASURES]})
    with pytest.raises(
        ValueError,
        match="has no training window: all 1 windows that were kept are held out for test",
    ):
        SpectrumDataset([DatasetView(empty)], statistics)
    for wanted in (0, 5):
        with pytest.raises(ValueError, match=f"frequencies is {wanted}, expected 1 to 4"):
            SpectrumDataset([DatasetView(dataset)], statistics, SpectrumConfig(frequencies=wanted))


def test_a_split_with_nothing_in_it_is_empty(tmp_path):
    found = examples(
        [DatasetView(write_dataset(tmp_path / "a", {"train-000000": [PASSING_MEASURES]}))],
        split="test",
    )
    assert len(found) == 0
    with pytest.raises(ValueError, match="count is 0, expected at least 1"):
        EpochOrder(count=len(found), seed=0, global_batch=1)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 40),
    batch=st.integers(1, 12),
    seed=st.integers(0, 9),
    stop=st.integers(0, 20),
    world=st.sampled_from([1, 2, 3]),
)
def test_epochs_are_permutations_whatever_the_ranks_and_the_stops(count, batch, seed, stop, world):
    order = EpochOrder(count=count, seed=seed, global_batch=batch * world)
    steps = list(islice(order.batches(Position()), 21))
    stream = [draw for draws, _ in steps for draw in draws]
    for begin in range(0, len(stream) - count, count):
        epoch = stream[begin : begin + count]
        assert {draw.sample_index for draw in epoch} == set(range(count)) and {
            draw.epoch for draw in epoch
        } == {begin // count}
    ranks = [list(islice(order.batches(Position(), rank, world), 21)) for rank in range(world)]
    shared = [
        draw
        for parts in zip(*ranks, strict=True)
        for together in zip(*(draws for draws, _ in parts), strict=True)
        for draw in together
    ]
    assert shared == stream
    assert list(islice(order.batches(steps[stop][1]), 20 - stop)) == steps[stop + 1 :]


def test_seeds_and_epochs_differ():
    order, another = (EpochOrder(count=100, seed=seed, global_batch=10) for seed in (0, 1))
    orders = [
        order.epoch_samples(0).tolist(),
        order.epoch_samples(1).tolist(),
        another.epoch_samples(0).tolist(),
    ]
    assert len({tuple(one) for one in orders}) == 3
    assert order.epoch_samples(0)[:8].tolist() == [11, 92, 3, 20, 13, 2, 59, 53], (
        "a training that goes on with another version must see the same order"
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: EpochOrder(count=5, seed=0, global_batch=3).batches(Position(), 0, 2),
            "rank 0 of 2 has no even share of a global batch of 3",
        ),
        (
            lambda: EpochOrder(count=5, seed=0, global_batch=4).batches(Position(), 2, 2),
            "rank 2 of 2",
        ),
        (
            lambda: EpochOrder(count=5, seed=0, global_batch=4).batches(Position(1, 5)),
            "5 samples of epoch 1 were consumed, expected 0 to 4",
        ),
        (lambda: EpochOrder(count=5, seed=-1, global_batch=4), "seed is -1, expected at least 0"),
    ],
)
def test_what_cannot_be_ordered_is_refused_at_once(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.fixture(scope="module")
def undisturbed(dataset):
    """Batches of 4 in one process of one rank, and the positions after them."""
    found = examples([DatasetView(dataset)], ONE)
    return list(
        islice(load_batches(found, EpochOrder(count=6, seed=3, global_batch=4), Position()), 12)
    )


@pytest.mark.sample(3)
@pytest.mark.slow
@pytest.mark.promise("P18")
@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("world", [1, 2])
def test_any_number_of_workers_and_ranks_gives_the_same_batches(
    dataset, undisturbed, record_property, workers, world
):
    record_property("injections", 0)
    found, order = (
        examples([DatasetView(dataset)], ONE),
        EpochOrder(count=6, seed=3, global_batch=4),
    )
    cv2.setNumThreads(4)
    cv2.GaussianBlur(
        np.zeros((2000, 2000, 3), np.uint8), (0, 0), 3
    )  # OpenCV's own threads are running now
    for rank in range(world):
        batches = load_batches(found, order, Position(), rank=rank, world=world, workers=workers)
        for (batch, after), (whole, there) in zip(islice(batches, 12), undisturbed, strict=True):
            assert after == there and batch.keys == whole.keys[rank::world]
            for mine, all_of_them in zip(batch[:3], whole[:3], strict=True):
                assert torch.equal(mine, all_of_them[rank::world])
        batches.close()


def learn(found: SpectrumDataset, begin: Position, log: Path, stop: int, workers: int) -> None:
    """A training that records what it read and where it is, and is killed in its `stop`-th step."""
    for step, (batch, after) in enumerate(
        load_batches(found, EpochOrder(count=6, seed=3, global_batch=4), begin, workers=workers)
    ):
        if step == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        with log.open("a") as file:
            file.write(
                f"{after.epoch} {after.consumed} {' '.join(batch.keys)} "
                f"{float(batch.spectrum.sum())}\n"
            )


@pytest.mark.promise("P18")
def test_a_training_that_is_killed_goes_on_with_the_next_sample(
    dataset, undisturbed, tmp_path, record_property
):
    found, log, rng, position, kills = (
        examples([DatasetView(dataset)], ONE),
        tmp_path / "log",
        random.Random(0),
        Position(),
        0,
    )
    log.touch()
    while (done := len(log.read_text().splitlines())) < 12:
        process = get_context("fork").Process(
            target=learn,
            args=(found, position, log, min(rng.randint(1, 3), 12 - done), rng.choice([0, 0, 1])),
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        epoch, consumed = log.read_text().splitlines()[-1].split()[:2]
        position = Position(int(epoch), int(consumed))
    record_property("injections", kills)
    wanted = [
        f"{after.epoch} {after.consumed} {' '.join(batch.keys)} {float(batch.spectrum.sum())}"
        for batch, after in undisturbed
    ]
    assert log.read_text().splitlines() == wanted


def test_the_loader_leaves_torchs_own_numbers_alone(dataset):
    found = examples([DatasetView(dataset)])
    before = torch.get_rng_state()
    next(load_batches(found, EpochOrder(count=6, seed=0, global_batch=2), Position()))
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="the order is of 5 samples, expected 6"):
        load_batches(found, EpochOrder(count=5, seed=0, global_batch=2), Position())


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_is_one_sentence_from_any_process(tmp_path, workers):
    dataset = write_dataset(tmp_path / "a", {"train-000000": [PASSING_MEASURES] * 2})
    found = examples([DatasetView(dataset)])
    dataset.tar_path("train-000000").unlink()
    with pytest.raises(
        ValueError,
        match=r"^sample 'clip-\S+' of \S+/train-000000.tar cannot be read: "
        r"[^\n]* No such file[^\n]*$",
    ):
        next(
            load_batches(
                found, EpochOrder(count=2, seed=0, global_batch=2), Position(), workers=workers
            )
        )


@pytest.mark.slow
def test_a_copy_in_another_process_reads_the_same(dataset):
    found = examples([DatasetView(dataset)], ONE)
    first = found[0]
    copy = pickle.loads(pickle.dumps(found))
    assert not copy.files.open_files and torch.equal(copy[0].spectrum, first.spectrum)


def test_few_files_are_kept_open(tmp_path):
    def opened() -> int:
        return sum(
            str(tmp_path) in os.readlink(one)
            for one in Path("/proc/self/fd").iterdir()
            if one.is_symlink()
        )

    files, paths = FileCache(3), [tmp_path / str(i) for i in range(8)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i]))
    for _ in range(2):
        assert [files[path].read(0, np.zeros(1, np.uint8))[0] for path in paths] == list(
            range(8)
        ) and opened() == 3
    held = files[paths[0]]
    for path in paths[1:]:
        files[path].read(0, np.zeros(1, np.uint8))
    assert held.read(0, np.zeros(1, np.uint8))[0] == 0 and opened() == 4
    del files, held
    assert opened() == 0


def test_a_mixture_does_not_depend_on_the_order_of_the_datasets(dataset, other):
    views = [DatasetView(dataset), DatasetView(other)]
    epochs = []
    for order in (views, views[::-1]):
        found = SpectrumDataset(order, compute_statistics(order))
        mixture = found.mixture(["a=1", "b=2"], windows_per_scene=2)
        samples = mixture.draw(np.arange(len(found)))
        epochs.append([found.shard_index[int(i)].tar_path.parent.parent.name for i in samples])
    assert epochs[0] == epochs[1] and {*epochs[0]} == {"a", "b"}
