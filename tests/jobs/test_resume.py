"""P18: a training that is killed resumes exactly: with the next samples, to the same weights."""

import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from jobs.cli.training import run_task
from model import checkpoints
from model.data.augment import AugmentConfig
from model.data.spectra import SpectrumConfig, SpectrumDataset
from model.normalizer import normalizer_from_statistics
from model.prior.autoencoder import AutoencoderConfig
from model.train.autoencoder_task import AutoencoderTask
from model.train.distributed import current_group, distributed_group
from model.train.training_loop import TrainConfig
from model.train.warm_start import seed_weights
from pipeline.dataset.open import open_dataset
from pipeline.dataset.scales import compute_statistics
from tests.support.attempts import checkpoint_bytes, kill_self, run_ranks
from tests.support.datasets import write_dataset

SHARDS = {"train-000000": [{}] * 4, "train-000001": [{}] * 3, "test-000000": [{}]}
WINDOWS, STEPS, BATCH = 7, 24, 4
NETWORK = AutoencoderConfig(
    channels=(8, 16), layers_per_block=1, norm_groups=4, middle_attention=False
)
SEED = int(os.environ.get("QUIVER_KILL_SEED", "0"))
KILLS = int(os.environ.get("QUIVER_KILLS", "0"))
"""Of each training; without it, 20 are spread over all of them."""
SETUPS = {
    (workers, ranks): kills
    for (workers, ranks), kills in zip(
        [(w, r) for r in (1, 2) for w in (0, 1, 4)], (5, 4, 3, 3, 3, 2), strict=True
    )
}


class Kill(NamedTuple):
    step: int
    rank: int


class Watched(AutoencoderTask):
    """Writes down which samples each step learns from, and is killed in one."""

    def __init__(self, *args, seen: Path, step: int, kill: Kill | None, **more):
        super().__init__(*args, **more)
        self.seen, self.step, self.kill = seen, step, kill

    def loss(self, network, batch, generator):
        rank = current_group().rank
        with self.seen.open("a") as file:
            file.write(json.dumps([self.step, rank, batch.keys]) + "\n")
        if self.kill == (self.step, rank):
            kill_self()
        self.step += 1
        return super().loss(network, batch, generator)


def learn(data: Path, out: Path, workers: int, kill: Kill | None) -> None:
    """What jobs.train_autoencoder does, of a smaller network."""
    config = TrainConfig(
        steps=STEPS,
        batch=BATCH,
        learning_rate=1e-2,
        warm_up=3,
        decay=0.5,
        ema=0.8,
        device="cpu",
        save_every=4,
        log_every=1,
        picture_every=10,
        loader_workers=workers,
        seed=5,
    )
    selections = [open_dataset(str(data))]
    statistics = compute_statistics(selections)
    training = SpectrumDataset(
        selections, statistics, SpectrumConfig(drawn=1, augment=AugmentConfig())
    )
    test = SpectrumDataset(selections, statistics, split="test")
    begun = checkpoints.load_checkpoint(out).config["step"] if checkpoints.step_folders(out) else 0
    seed_weights(config)
    task = Watched(
        NETWORK,
        normalizer_from_statistics(statistics, "adaptive"),
        training,
        test,
        crop=(24, 16),
        seen=out / "seen",
        step=begun,
        kill=kill,
    )
    with distributed_group("cpu"):
        run_task(task, training, config, out, "autoencoder", lambda *_: None)


def ended(data: Path, out: Path, workers: int, ranks: int, kills: list[int], seed: int = 0) -> Path:
    """A training that is killed in each of these steps, one after the other, and begun again; then
    left in peace.
    """
    rng = random.Random(seed)
    out.mkdir()
    for kill in [*(Kill(step, rng.randrange(ranks)) for step in kills), None]:
        codes = run_ranks(learn, data, out, workers, kill, output=out / "output", ranks=ranks)
        assert codes[kill.rank] == -signal.SIGKILL if kill else codes == [0] * ranks, (
            out / "output"
        ).read_text()
    return out


def learnt(out: Path) -> list[tuple[str, ...]]:
    """Samples of each step, by the last attempt that took it, as all ranks together had them."""
    steps: dict[int, dict[int, list[str]]] = {}
    for line in (out / "seen").read_text().splitlines():
        step, rank, keys = json.loads(line)
        steps.setdefault(step, {})[rank] = keys
    assert list(range(STEPS)) == sorted(steps)
    return [
        tuple(
            key
            for together in zip(*(found[rank] for rank in sorted(found)), strict=True)
            for key in together
        )
        for _, found in sorted(steps.items())
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("resume") / "data", SHARDS).root


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> dict[int, Path]:
    """By the number of ranks."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return {ranks: ended(data, folder / str(ranks), 0, ranks, []) for ranks in (1, 2)}


@pytest.mark.thorough
@pytest.mark.promise("P18")
@pytest.mark.parametrize(("workers", "ranks"), SETUPS)
def test_a_killed_training_learns_from_the_same_samples_to_the_same_weights(
    data, undisturbed, tmp_path, record_property, workers, ranks
):
    """P18: SIGKILL at random steps, for 0, 1 and 4 loader workers and 1 and 2 ranks at one global
    batch.
    """
    seed = SEED + 10 * workers + ranks
    kills = sorted(random.Random(seed).choices(range(STEPS), k=KILLS or SETUPS[workers, ranks]))
    out = ended(data, tmp_path / "out", workers, ranks, kills, seed)
    record_property("injections", len(kills))
    assert learnt(out) == learnt(undisturbed[1]), kills
    assert checkpoint_bytes(out) == checkpoint_bytes(undisturbed[ranks]), kills


@pytest.mark.promise("P18")
def test_each_sample_is_learnt_from_once_an_epoch(undisturbed, record_property):
    """P18."""
    record_property("injections", 0)
    stream = [key for keys in learnt(undisturbed[1]) for key in keys]
    epochs = [stream[begin : begin + WINDOWS] for begin in range(0, len(stream) - WINDOWS, WINDOWS)]
    assert len(epochs) > 10 and all(
        set(epoch) == set(epochs[0]) and len(set(epoch)) == WINDOWS for epoch in epochs
    )
    assert len({tuple(epoch) for epoch in epochs}) > 10 and all(
        len(keys) == BATCH for keys in learnt(undisturbed[1])
    )


def lines(out: Path) -> Iterator[int]:
    yield from (json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines())


@pytest.mark.slow
def test_the_log_of_a_killed_training_has_each_step_once(data, tmp_path):
    """Also after a line that was not written to its end."""
    out = ended(data, tmp_path / "out", 0, 1, [2, 9, 22])
    assert list(lines(out)) == list(range(1, STEPS + 1))
