"""The training loop, on a task small enough to follow: a resumed training takes the same steps, and
a bad one stops.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from model import checkpoints
from model.data.order import EpochOrder, Position
from model.prior.autoencoder import AutoencoderConfig, SliceAutoencoder
from model.prior.frequency_attention import build_denoiser
from model.prior.inference import ConditionedDenoiser
from model.render.renderer import Renderer, RendererConfig
from model.train.training_loop import (
    TrainConfig,
    TrainingDiverged,
    keep_fewer_activations,
    resolve_device,
    train,
)
from tests.support.tiny import perturb_weights, random_tensor, tiny_config

ROOT = Path(__file__).resolve().parents[3]
CONFIG = TrainConfig(
    steps=12,
    batch=2,
    learning_rate=0.05,
    warm_up=3,
    ema=0.5,
    device="cpu",
    save_every=4,
    log_every=2,
    picture_every=6,
    keep=2,
)


class Numbers(NamedTuple):
    x: Tensor
    keys: tuple[str, ...]


class Line:
    """y = 2 x, with noise from the step's generator."""

    def __init__(self, broken_at: float | None = None):
        torch.manual_seed(0)
        self.network, self.broken_at, self.prepared = nn.Linear(1, 1), broken_at, 0

    def keys(self, batch: Numbers) -> list[str]:
        return list(batch.keys)

    def config(self) -> dict:
        return {"kind": "line", "broken": self.broken_at}

    def constant_states(self) -> dict:
        return {}

    def loss(self, network, batch: Numbers, generator):
        x = batch.x + 0.01 * torch.randn(batch.x.shape, generator=generator)
        loss = (network(x) - 2 * x).square().mean()
        return loss * (float("nan") if self.broken_at in batch.x.flatten().tolist() else 1), {
            "error": loss
        }

    def evaluate(self, network, device):
        return {"weight": float(network.weight)}, {}

    def finalize_weights(self, network, device) -> None:
        self.prepared += 1


def batches(position: Position) -> Iterator[tuple[Numbers, Position]]:
    order = EpochOrder(count=5, seed=1, global_batch=2)
    for draws, after in order.batches(position):
        numbers = [float(draw.sample_index) for draw in draws]
        yield (
            Numbers(torch.tensor(numbers)[:, None], tuple(f"n{int(number)}" for number in numbers)),
            after,
        )


def weights(out: Path) -> dict[str, Tensor]:
    found = checkpoints.load_checkpoint(out)
    assert found.config["step"] == 12
    return found.load_weights("network") | {
        f"ema {name}": value for name, value in found.load_weights("ema").items()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    out, task = tmp_path_factory.mktemp("training"), Line()
    logged = list(train(task, batches, CONFIG, out))
    assert [one.step for one in logged] == [2, 4, 6, 8, 10, 12] and task.prepared == len([4, 8, 12])
    return out


def test_it_writes_a_log_and_the_last_checkpoints(undisturbed):
    lines = [json.loads(line) for line in (undisturbed / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert all(
        0 <= line["waiting_share"] <= 1
        and line["samples_a_second"] > 0
        and line["loss"] == pytest.approx(line["error"])
        for line in lines
    )
    assert "test_weight" in lines[2] and "test_weight" not in lines[1]
    assert [path.name for path in checkpoints.step_folders(undisturbed)] == [
        "step-00000008",
        "step-00000012",
    ] and list(undisturbed.glob("events.*"))


@pytest.mark.parametrize("stop", [1, 3, 5, 6])
def test_a_stopped_training_takes_the_steps_that_it_would_have_taken(undisturbed, tmp_path, stop):
    for number, _ in enumerate(train(Line(), batches, CONFIG, tmp_path), 1):
        if number == stop:
            break
    list(train(Line(), batches, CONFIG, tmp_path))
    for name, value in weights(undisturbed).items():
        assert torch.equal(weights(tmp_path)[name], value), name


@pytest.mark.slow
def test_a_killed_one_too(undisturbed, tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from tests.model.train.test_training_loop import CONFIG, Line, batches, train
for logged in train(Line(), batches, CONFIG, Path(sys.argv[1])):
    if logged.step == 10:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (
        done.returncode == -signal.SIGKILL
        and checkpoints.load_checkpoint(tmp_path).config["step"] == 8
    )
    list(train(Line(), batches, CONFIG, tmp_path))
    assert all(
        torch.equal(weights(tmp_path)[name], value) for name, value in weights(undisturbed).items()
    )


def test_a_loss_that_is_no_number_stops_it_and_names_the_samples(tmp_path):
    with pytest.raises(TrainingDiverged, match=r"the loss is nan at step \d+, on the samples .*n3"):
        list(train(Line(broken_at=3.0), batches, CONFIG, tmp_path))


def test_another_training_in_the_same_folder_is_refused(undisturbed):
    with pytest.raises(ValueError, match=r"another training \(learning_rate differ"):
        list(train(Line(), batches, replace(CONFIG, learning_rate=0.1), undisturbed))
    with pytest.raises(ValueError, match=r"another training \(broken differ"):
        list(train(Line(broken_at=9.0), batches, CONFIG, undisturbed))
    assert (
        list(train(Line(), batches, replace(CONFIG, log_every=5, save_every=1), undisturbed)) == []
    )


def test_a_gpu_that_is_not_there_is_a_sentence():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="device is cuda and there is no GPU"):
        resolve_device(replace(CONFIG, device="cuda"))


@pytest.mark.parametrize(
    "wrong", [dict(steps=0), dict(batch=0), dict(learning_rate=0.0), dict(ema=1.0), dict(clip=0.0)]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        replace(CONFIG, **wrong)


def test_gradients_added_up_over_parts_of_a_batch_are_those_of_the_batch(tmp_path):
    """To rounding: a line without noise, whose batch of four is one, two or four parts."""

    class Exact(Line):
        def loss(self, network, batch: Numbers, generator):
            error = (network(batch.x) - 2 * batch.x).square().mean()
            return error, {"error": error}

    def train_with(accumulate: int) -> tuple[float, list[dict[str, float]]]:
        task = Exact()
        config = replace(CONFIG, batch=4, accumulate=accumulate)
        order = EpochOrder(count=5, seed=1, global_batch=4)

        def stream(position: Position) -> Iterator[tuple[Numbers, Position]]:
            for draws, after in order.batches(position):
                numbers = [float(draw.sample_index) for draw in draws]
                yield Numbers(torch.tensor(numbers)[:, None], tuple(map(str, numbers))), after

        out = tmp_path / str(accumulate)
        logged = [entry.scalars for entry in train(task, stream, config, out)]
        return float(task.network.weight.detach()), logged

    weight, logged = train_with(1)
    for accumulate in (2, 4):
        other_weight, other_logged = train_with(accumulate)
        assert other_weight == pytest.approx(weight, rel=1e-5)
        for entry, other in zip(logged, other_logged, strict=True):
            for name in ("loss", "error", "gradient"):
                assert other[name] == pytest.approx(entry[name], rel=1e-4)
    with pytest.raises(ValueError, match="accumulate is 3, expected a divisor of the 4 samples"):
        train_with(3)


@pytest.mark.parametrize("network", ["denoiser", "coordinated", "autoencoder", "renderer"])
def test_activations_that_are_computed_again_give_the_same_gradients(network):
    torch.manual_seed(0)
    z, n = random_tensor(1, 3, 4, 8, 12), torch.tensor([3])
    image, flow = random_tensor(1, 3, 32, 48), random_tensor(1, 2, 32, 48)
    if network == "renderer":
        settings = dict(encoder_width=4, widths=(4,) * 5, noise_channels=2, style_channels=4)
        module: nn.Module = Renderer(RendererConfig(**settings))
        inputs = image, flow, flow[:, :1], torch.ones(1, 2)
    elif network == "autoencoder":
        config = AutoencoderConfig(channels=(8, 8), norm_groups=4, layers_per_block=1)
        module, inputs = SliceAutoencoder(config), (random_tensor(1, 4, 32, 48),)
    else:
        mode = "coordinated" if network == "coordinated" else "independent"
        module = ConditionedDenoiser(build_denoiser(tiny_config(mode=mode)))
        inputs = z, n, image, torch.tensor([True]), None
    perturb_weights(module)

    def gradients() -> list[Tensor]:
        module.zero_grad()
        output = module(*inputs)
        (output[0] if isinstance(output, tuple) else output).square().sum().backward()
        return [weight.grad for weight in module.parameters() if weight.grad is not None]

    kept = gradients()
    keep_fewer_activations(module)
    assert kept
    for gradient, again in zip(kept, gradients(), strict=True):
        torch.testing.assert_close(again, gradient, rtol=1e-4, atol=1e-5)


def test_a_network_that_cannot_keep_fewer_activations_says_so(tmp_path):
    config = replace(CONFIG, checkpoint_activations=True)
    with pytest.raises(ValueError, match="the network keeps all of its activations"):
        list(train(Line(), batches, config, tmp_path))


def test_dropout_is_a_function_of_the_step_too(tmp_path):
    """A training with dropout that was stopped comes to the same weights."""

    class Dropping(Line):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))

        def evaluate(self, network, device):
            return {}, {}

    def weights(out: Path, *stops: int) -> Tensor:
        for steps in (*stops, 12):
            task = Dropping()
            list(train(task, batches, replace(CONFIG, steps=steps), out))
        return task.network[0].weight.detach()

    whole = weights(tmp_path / "whole")
    assert torch.equal(whole, weights(tmp_path / "stopped", 4, 8))


def test_checkpoints_keep_the_scenes_that_a_training_began_with(tmp_path):
    for steps, scenes in ((4, ("b", "a")), (8, ("c",))):
        list(train(Line(), batches, replace(CONFIG, steps=steps), tmp_path, scenes=scenes))
    assert checkpoints.load_checkpoint(tmp_path).scenes == {"a", "b", "c"}
    assert checkpoints.load_checkpoint(tmp_path).config["scenes"] == ["a", "b", "c"]
