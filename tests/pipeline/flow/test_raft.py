"""Our arrangement of RAFT against torchvision's own forward, and how often each part of it runs."""

from functools import partialmethod

import jaxtyping
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline import torchvision_import
from pipeline.flow.config import FlowConfig
from pipeline.flow.estimator import FlowEstimator, make_estimator
from pipeline.flow.raft_weights import load_network

MAKERS = {"raft_small": torchvision_import.raft_small, "raft_large": torchvision_import.raft_large}
TOLERANCE = 1e-3
"""Pixels; flow by random weights is of the order of 10."""


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """flow -> (torchvision's network with random weights, the file of those weights)."""
    torch.manual_seed(0)
    networks = {}
    for flow, make in MAKERS.items():
        network, path = make().eval(), tmp_path_factory.mktemp("weights") / f"{flow}.pth"
        torch.save(network.state_dict(), path)
        networks[flow] = network, path
    return networks


@pytest.fixture
def make(networks):
    def build(flow: str = "raft_small", **options):
        defaults = dict(flow=flow, weights=str(networks[flow][1]), device="cpu", updates=3)
        return make_estimator(FlowConfig(**(defaults | options)))

    return build


def pictures(count: int, width: int = 160, height: int = 128) -> list[np.ndarray]:
    """One smooth random picture, shifted by two pixels more each time."""
    noise = torch.from_numpy(
        np.random.default_rng(1).random((1, 3, height // 8 + 1, width // 8 + 8))
    )
    wide = (
        F.interpolate(noise, (height, width + 60), mode="bicubic")[0]
        .clamp(0, 1)
        .permute(1, 2, 0)
        .numpy()
    )
    return [
        np.ascontiguousarray((wide[:, 2 * i : 2 * i + width] * 255).astype(np.uint8))
        for i in range(count)
    ]


def by_torchvision(network, source: np.ndarray, target: np.ndarray, updates: int) -> torch.Tensor:
    height, width = source.shape[:2]
    across, down = -width % 8, -height % 8
    padding = across // 2, across - across // 2, down // 2, down - down // 2
    images = [
        F.pad(torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1, padding, mode="replicate")
        for image in (source, target)
    ]
    with torch.inference_mode():
        return network(*images, num_flow_updates=updates)[-1][
            0, :, down // 2 : down // 2 + height, across // 2 : across // 2 + width
        ]


def largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max())


def batch_sizes(estimator, part: str) -> list[int]:
    """A list to which each run of a part of the network appends its batch size."""
    sizes: list[int] = []
    getattr(estimator, part).register_forward_hook(
        lambda module, inputs, output: sizes.append(len(output))
    )
    return sizes


@pytest.mark.slow
@pytest.mark.parametrize("size", [(256, 160), (250, 155)], ids=str)
@pytest.mark.parametrize("flow", MAKERS)
def test_the_flow_is_torchvisions(networks, make, flow, size):
    images = pictures(3, *size)
    estimator = make(flow, updates=12)
    frames = estimator.prepare(images)
    pairs = [(0, 1), (0, 2), (2, 1)]
    flows = estimator.displace([(frames[source], frames[target]) for source, target in pairs])
    assert isinstance(estimator, FlowEstimator)
    assert flows.dtype == torch.float32 and flows.shape == (3, 2, size[1], size[0])
    for estimate, (source, target) in zip(flows, pairs, strict=True):
        expected = by_torchvision(networks[flow][0], images[source], images[target], 12)
        assert largest(expected) > 1
        assert largest(estimate - expected) < TOLERANCE


def test_the_flow_of_the_authors_weights(material, make):
    weights, images = str(material / "weights" / "raft-small.pth"), pictures(2, 256, 160)
    estimator = make(weights=weights, updates=12)
    flow = estimator.displace([tuple(estimator.prepare(images))])[0]
    network, _ = load_network(estimator.config)
    assert largest(flow - by_torchvision(network, *images, 12)) < TOLERANCE
    assert flow[:, 20:-20, 20:-20].mean((1, 2)).tolist() == pytest.approx([-2.0, 0.0], abs=0.2)


def test_padding_is_cropped_and_repeats_the_edge(make):
    estimator, images = make(), pictures(2, 157, 122)
    padded = [np.pad(image, ((3, 3), (1, 2), (0, 0)), "edge") for image in images]
    small, large = (
        estimator.displace([tuple(estimator.prepare(pair))]) for pair in (images, padded)
    )
    assert small.shape == (1, 2, 122, 157) and large.shape == (1, 2, 128, 160)
    assert largest(small - large[..., 3:125, 1:158]) == 0


def test_each_part_runs_once_for_what_shares_it(make):
    estimator = make("raft_large", pairs_per_batch=8, updates=2)
    features, contexts, upsamplings = (
        batch_sizes(estimator, part)
        for part in ("feature_encoder", "context_encoder", "mask_predictor")
    )
    frames = estimator.prepare(pictures(5))
    assert sum(features) == 5 and not contexts
    estimator.displace([(frames[0], target) for target in frames[1:]])
    assert contexts == [1] and upsamplings == [4]
    estimator.displace([(frames[0], target) for target in frames[3:]])
    estimator.displace([(frames[1], frames[0]), (frames[2], frames[0])])
    assert sum(features) == 5 and contexts == [1, 1, 1] and upsamplings == [4, 2, 2]


def test_a_large_request_is_worked_off_in_batches(make):
    estimator = make("raft_large", pairs_per_batch=2, updates=1)
    features, upsamplings = (
        batch_sizes(estimator, part) for part in ("feature_encoder", "mask_predictor")
    )
    frames = estimator.prepare(pictures(5))
    assert features == [2, 2, 1]
    assert estimator.displace([(frames[0], target) for target in frames]).shape[0] == 5
    assert upsamplings == [2, 2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("flow", MAKERS)
def test_the_batch_size_does_not_matter(make, flow):
    flows = []
    for size in (1, 4, 8):
        estimator = make(flow, pairs_per_batch=size)
        first, *later = estimator.prepare(pictures(6))
        pairs = [(first, frame) for frame in later] + [(frame, first) for frame in later]
        flows.append(estimator.displace(pairs))
    assert largest(flows[0] - flows[1]) < TOLERANCE and largest(flows[0] - flows[2]) < TOLERANCE


def test_the_same_frames_give_the_same_bits(make):
    def estimate() -> torch.Tensor:
        estimator = make()
        frames = estimator.prepare(pictures(4))
        return estimator.displace([(frames[0], target) for target in frames[1:]])

    assert torch.equal(estimate(), estimate())


def test_updates_refine(networks, make):
    images = pictures(2)
    for updates in (1, 5):
        estimator = make(updates=updates)
        flow = estimator.displace([tuple(estimator.prepare(images))])[0]
        expected = by_torchvision(networks["raft_small"][0], *images, updates)
        assert largest(flow - expected) < TOLERANCE


def test_a_warm_start_goes_on_where_the_batch_before_ended(make):
    cold, warm = make(updates=6), make(updates=3, warm_start=True)
    pair = tuple(warm.prepare(pictures(2)))
    first, second = warm.displace([pair]), warm.displace([pair])
    assert largest(first - second) > 1
    assert largest(second - cold.displace([pair])) < TOLERANCE


def test_a_warm_start_is_for_the_same_source_only(make):
    cold, warm = make(), make(warm_start=True, pairs_per_batch=2)
    a, b, c, again = warm.prepare([*pictures(3), pictures(1)[0]])
    expected = cold.displace([(a, b)])
    for pairs in ([(c, b)], [(again, b)], [(a, b), (c, b)]):
        warm.displace(pairs)
        assert largest(warm.displace([(a, b)]) - expected) < TOLERANCE
    warm.displace([(a, c)])
    assert largest(warm.displace([(a, b), (c, b)])[:1] - expected) < TOLERANCE
    warm.displace([(c, b), (a, c)])
    assert largest(warm.displace([(a, b)]) - expected) > 0.1


def test_a_cold_estimator_remembers_nothing(make):
    estimator = make()
    a, b, c = estimator.prepare(pictures(3))
    expected = estimator.displace([(a, b)])
    estimator.displace([(a, c)])
    assert torch.equal(estimator.displace([(a, b)]), expected)


def test_bfloat16_is_close(material, make):
    weights = str(material / "weights" / "raft-small.pth")
    flows = []
    for precision in ("float32", "bfloat16"):
        estimator = make(weights=weights, precision=precision, updates=6)
        flows.append(estimator.displace([tuple(estimator.prepare(pictures(2)))]))
    assert flows[1].dtype == torch.float32
    assert largest(flows[0] - flows[1]) > 1e-3
    assert float((flows[0] - flows[1]).abs().mean()) < 0.1


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_flow(make, monkeypatch):
    """The network is traced but not translated to machine code, which takes minutes; shapes are not
    checked meanwhile.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    pair = pictures(2)
    plain = make()
    expected = plain.displace([tuple(plain.prepare(pair))])
    compiled = []
    monkeypatch.setattr(
        nn.Module,
        "compile",
        partialmethod(
            lambda self, build: (compiled.append(self), build(self, backend="eager")),
            nn.Module.compile,
        ),
    )
    estimator = make(compile=True)
    assert len(compiled) == 3
    assert largest(estimator.displace([tuple(estimator.prepare(pair))]) - expected) < TOLERANCE


@pytest.mark.parametrize("size", [(120, 160), (160, 120), (64, 40)], ids=str)
def test_small_images_are_refused(make, size):
    with pytest.raises(
        ValueError, match=f"size is {size[0]}x{size[1]}, expected more than 120 pixels a side"
    ):
        make().prepare([np.zeros((size[1], size[0], 3), np.uint8)])


def test_the_smallest_image(make):
    estimator = make()
    frames = estimator.prepare([np.zeros((121, 121, 3), np.uint8)])
    assert estimator.displace([(frames[0], frames[0])]).isfinite().all()


def test_the_description_has_what_decides_the_result(make, networks):
    description = make(updates=5, pairs_per_batch=3).description()
    assert len(description.pop("weights")) == 64
    assert description == dict(
        flow="raft_small",
        networks="torchvision",
        updates=5,
        pairs_per_batch=3,
        device="cpu",
        precision="float32",
        compile=False,
        warm_start=False,
    )


def test_on_a_gpu(make):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    flows = []
    for device in ("cpu", "cuda"):
        estimator = make(device=device, updates=6)
        frames = estimator.prepare(pictures(3))
        flows.append(estimator.displace([(frames[0], target) for target in frames[1:]]))
    assert flows[1].device.type == "cuda"
    assert largest(flows[0] - flows[1].cpu()) < 0.05  # convolutions on the GPU round to TF32
