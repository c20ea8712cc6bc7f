"""The renderer: what moves, what has a part in a frame, that it learns, and that its measures are
the known ones.
"""

from dataclasses import replace
from math import log10

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.backbones import VGG16, ResNet34, load_torchvision_weights
from model.data.augment import NO_AUGMENT
from model.data.order import SampleDraw
from model.data.pairs import PairBatch, PairDataset
from model.evaluate.image_quality import psnr, ssim
from model.render.renderer import NeuralRenderer, Renderer, RendererConfig
from model.render.splatting import splat
from model.train.renderer_task import RendererTask, RenderingLoss
from pipeline import torchvision_import  # mends the import of torchvision, so it comes first
from pipeline.dataset.commit import ShardDraft
from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import open_dataset
from pipeline.dataset.scales import compute_statistics
from pipeline.extract.config import to_contract
from schemas.outcome import FilterMeasures
from tests.support.datasets import CONFIG, PASSING_MEASURES, judge_window, make_plan_row
from tests.support.tiny import random_tensor

TINY = dict(encoder_width=4, widths=(6, 6, 8, 8, 8), noise_channels=4, style_channels=8)


def renderer(**fields) -> Renderer:
    torch.manual_seed(0)
    return Renderer(RendererConfig(**(TINY | fields)))


def photograph(batch: int = 2, height: int = 32, width: int = 48, seed: int = 0) -> Tensor:
    """Smooth, within -0.5 and 0.5."""
    coarse = random_tensor(batch, 3, height // 4, width // 4, seed=seed)
    return 0.5 * nn.functional.interpolate(coarse, (height, width), mode="bilinear").tanh()


def shift(image: Tensor, x: float, y: float = 0.0) -> tuple[Tensor, Tensor]:
    """A flow that is the same everywhere, and W."""
    flow = (
        torch.tensor([x, y], dtype=torch.float32)
        .view(1, 2, 1, 1)
        .expand(len(image), 2, *image.shape[-2:])
        .contiguous()
    )
    return flow, flow.square().sum(1, keepdim=True).sqrt()


@pytest.mark.parametrize("mode", ["pyramid", "single_scale", "average_rgb"])
@pytest.mark.parametrize(("height", "width"), [(32, 48), (33, 45)])
def test_without_motion_it_begins_as_the_photograph(mode, height, width):
    network, image = renderer(mode=mode), photograph(height=height, width=width)
    with torch.no_grad():
        made = network(image, *shift(image, 0), random_tensor(2, 4))
    assert made.shape == image.shape
    torch.testing.assert_close(made, image, atol=0.05, rtol=0)


@pytest.mark.parametrize("mode", ["pyramid", "single_scale"])
def test_it_begins_near_the_splatted_photograph(mode):
    network, image = renderer(mode=mode), photograph()
    with torch.no_grad():
        made = network(image, *shift(image, 3, 2), random_tensor(2, 4))
    torch.testing.assert_close(made[..., 2:, 3:], image[..., :-2, :-3], atol=0.05, rtol=0)
    assert (made[..., 2:, 3:] - image[..., 2:, 3:]).abs().mean() > 0.05


@pytest.mark.parametrize("mode", ["pyramid", "single_scale"])
def test_what_splatting_smooths_away_is_given_back(mode):
    """Of waves of 8 pixels, moved by half a pixel, splatting leaves cos^2(pi / 16); half of what
    one back projection finds missing is added at the start.
    """
    network = renderer(mode=mode)
    x = torch.arange(48.0) + torch.zeros(1, 3, 32, 1)
    image, true = (0.5 * torch.sin(2 * torch.pi * at / 8) for at in (x, x - 0.5))
    flow, weight = shift(image, 0.5)
    with torch.no_grad():
        warped = network.warp(image, network.encode(image), flow, weight)
        made = network.synthesize(warped, random_tensor(1, 4))
    left, again = (float((one - true)[..., 4:-4].norm()) for one in (warped.picture, made))
    assert again < 0.6 * left


def test_the_flow_becomes_smaller_with_the_level():
    """16 pixels are 16, 8, 4, 2 and 1 at the strides 1 to 16."""
    network, image = renderer(), photograph()
    with torch.no_grad():
        features = network.encode(image)
        warped = network.warp(image, features, *shift(image, 16))
    for level, (before, after, hole) in enumerate(
        zip(features, warped.features, warped.holes, strict=True)
    ):
        moved = 16 >> level
        torch.testing.assert_close(after[..., moved:], before[..., :-moved], atol=1e-4, rtol=1e-4)
        assert hole[..., :moved].all() and not hole[..., moved:].any()


def test_what_moves_most_is_in_front():
    """Two pixels come together at a third."""
    network, image = renderer(alpha=4.0), photograph(1)
    flow, weight = shift(image, 0)
    flow[0, 0, 9, 10], flow[0, 0, 9, 20] = 5, -5
    weight[0, 0, 9, 10] = 5
    with torch.no_grad():
        picture = network.warp(image, network.encode(image), flow, weight).picture
    torch.testing.assert_close(picture[0, :, 9, 15], image[0, :, 9, 10], atol=1e-4, rtol=0)


@pytest.mark.parametrize("level", range(5))
def test_every_level_has_a_part(level):
    network, image, noise = renderer(), photograph(), random_tensor(2, 4)
    with torch.no_grad():
        warped = network.warp(image, network.encode(image), *shift(image, 2))
        features = list(warped.features)
        features[level] = torch.zeros_like(features[level])
        assert not torch.equal(
            network.synthesize(warped, noise),
            network.synthesize(warped._replace(features=tuple(features)), noise),
        )
        holes = list(warped.holes)
        holes[level] = ~holes[level]
        assert not torch.equal(
            network.synthesize(warped, noise),
            network.synthesize(warped._replace(holes=tuple(holes)), noise),
        )


def test_the_noise_has_a_part():
    network, image = renderer(), photograph()
    with torch.no_grad():
        warped = network.warp(image, network.encode(image), *shift(image, 2))
        assert not torch.equal(
            network.synthesize(warped, random_tensor(2, 4)),
            network.synthesize(warped, random_tensor(2, 4, seed=1)),
        )


@pytest.mark.parametrize("mode", ["pyramid", "single_scale"])
def test_gradients_reach_every_weight(mode):
    network, image = renderer(mode=mode), photograph()
    flow = random_tensor(2, 2, 32, 48, seed=3)
    network(
        image, flow, flow.abs().mean(1, keepdim=True), random_tensor(2, 4)
    ).square().mean().backward()
    without = [
        name
        for name, one in network.named_parameters()
        if one.grad is None or not one.grad.isfinite().all() or not one.grad.any()
    ]
    assert without == []


def test_the_mean_of_splatted_photographs_has_its_holes_filled():
    image = photograph()
    flow, weight = shift(image, 3)
    made = renderer(mode="average_rgb")(image, flow, weight, random_tensor(2, 4))
    assert torch.equal(made[..., :3], image[..., :3])
    torch.testing.assert_close(made[..., 3:], splat(image, flow, "average").features[..., 3:])


@pytest.mark.slow
def test_two_pairs_are_learnt():
    """Brightening is nothing that splatting alone can make."""
    image = photograph()
    flow, weight = shift(image, 2)
    true = (1.3 * image.roll(2, dims=-1) + 0.2).clamp(-1, 1)
    task = RendererTask(RendererConfig(**TINY), RenderingLoss(), None)
    optimiser = torch.optim.Adam(task.network.parameters(), 5e-3)
    losses = []
    for step in range(60):
        optimiser.zero_grad()
        loss, _ = task.loss(
            task.network,
            PairBatch(image, true, flow, weight, ("a", "b")),
            torch.Generator().manual_seed(step),
        )
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """A data set of one sample whose later frames are noise, and whose flow is (3, 1) and (6, 2)
    pixels.
    """
    dataset, rng = Dataset(tmp_path_factory.mktemp("moving") / "data"), np.random.default_rng(0)
    dataset.root.mkdir()
    row = make_plan_row("train-000000", 0)
    dataset.create_or_resume([row], to_contract(CONFIG), {"python": "3"})
    outcome, made, reason = judge_window(row, FilterMeasures(**PASSING_MEASURES), rng, CONFIG)
    flow = (
        np.ones((2, 2, 32, 40), np.float16)
        * np.array([[3, 1], [6, 2]], np.float16)[:, :, None, None]
    )
    made = replace(
        made, pair_image=rng.integers(0, 255, made.pair_image.shape, np.uint8), pair_flow=flow
    )
    draft = ShardDraft(dataset, "train-000000", CONFIG.frequencies)
    draft.add(outcome, made, reason)
    draft.commit()
    finalize(dataset)
    selection = open_dataset(str(dataset.root))
    return (
        made,
        lambda augment: PairDataset([selection], compute_statistics([selection]), augment).batch,
    )


def test_pairs_are_those_of_the_shard(moving):
    """Which of the later frames is drawn changes with the epoch; its flow is that of the same
    frame.
    """
    made, pairs = moving
    batch_of, seen = pairs(NO_AUGMENT), set()
    for epoch in range(12):
        batch = batch_of([SampleDraw(0, epoch, 0)])
        which = int(batch.flow[0, 0, 0, 0]) // 3 - 1
        seen.add(which)
        torch.testing.assert_close(
            batch.image[0], torch.from_numpy(made.image / 127.5 - 1).permute(2, 0, 1).float()
        )
        torch.testing.assert_close(
            batch.later_image[0],
            torch.from_numpy(made.pair_image[which] / 127.5 - 1).permute(2, 0, 1).float(),
        )
        torch.testing.assert_close(batch.flow[0], torch.from_numpy(made.pair_flow[which]).float())
        torch.testing.assert_close(batch.weight[0, 0], torch.from_numpy(made.weight).float())
        assert all(part.is_contiguous() for part in batch[:4])
    assert seen == {0, 1}


def test_augmented_pairs_still_fit(moving):
    """The mirror of a motion to the right is one to the left; zoomed, it is longer, and so is W."""
    _, pairs = moving
    plain, mirrored, zoomed = (
        pairs(augment)([SampleDraw(0, 0, 0)])
        for augment in (NO_AUGMENT, replace(NO_AUGMENT, flip=1.0), replace(NO_AUGMENT, scale=2.0))
    )
    for name in ("image", "later_image", "weight"):
        torch.testing.assert_close(
            getattr(mirrored, name), getattr(plain, name).flip(-1), atol=1e-3, rtol=0
        )
    torch.testing.assert_close(mirrored.flow, plain.flow * torch.tensor([-1.0, 1]).view(2, 1, 1))
    zoom = float(zoomed.flow.mean() / plain.flow.mean())
    assert 1 < zoom < 2
    torch.testing.assert_close(zoomed.flow, zoom * plain.flow)
    assert zoomed.weight.mean() == pytest.approx(zoom * float(plain.weight.mean()), rel=0.1)


@pytest.mark.slow
def test_a_loss_of_features_is_learnt_from(tmp_path):
    """It alone: nothing of the true frame itself, and VGG stays as it is."""
    torch.manual_seed(0)
    torch.save(VGG16().state_dict(), tmp_path / "vgg16.pth")
    only = RenderingLoss(
        gradient_weight=0.0,
        ssim_weight=0.0,
        perceptual_weight=100.0,
        vgg=str(tmp_path / "vgg16.pth"),
    )
    task, image = RendererTask(RendererConfig(**TINY), only, None), photograph()
    assert task.rendering_loss(image, image)[1]["perceptual"] == 0
    flow, weight = shift(image, 2)
    batch, optimiser, losses = (
        PairBatch(image, image.flip(-1), flow, weight, ("a", "b")),
        torch.optim.Adam(task.network.parameters(), 1e-3),
        [],
    )
    for _ in range(8):
        optimiser.zero_grad()
        loss, parts = task.loss(task.network, batch, torch.Generator().manual_seed(0))
        loss.backward()
        optimiser.step()
        losses.append(parts["perceptual"].item())
    assert losses[-1] < losses[0]
    assert task.vgg is not None and all(one.grad is None for one in task.vgg.parameters())


def test_a_painter_makes_the_networks_frames_of_a_photograph():
    """Of pixels and of numpy's arrays; the noise is the seed's."""
    network, pixels = (
        renderer().eval(),
        np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8),
    )
    nn.init.normal_(network.head.weight)
    flow, weight = (
        np.random.default_rng(1).normal(size=(2, 40, 56)).astype(np.float32),
        np.ones((40, 56), np.float32),
    )
    image, noise = (
        torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None].float(),
        network.sample_noise(1, torch.Generator().manual_seed(3)),
    )
    with torch.no_grad():
        made = network(
            image, torch.from_numpy(flow)[None], torch.from_numpy(weight)[None, None], noise
        )
    paint = NeuralRenderer(network, pixels, seed=3)
    expected = ((made[0] + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(paint(flow, weight), expected)
    assert not np.array_equal(NeuralRenderer(network, pixels, seed=4)(flow, weight), expected)
    with pytest.raises(ValueError, match="56x31, expected at least 32x32 for the renderer"):
        NeuralRenderer(network, pixels[:31])


@pytest.mark.parametrize(("difference", "decibels"), [(0.1, 20.0), (0.5, -20 * log10(0.5))])
def test_psnr_of_a_constant_difference(difference, decibels):
    true = torch.full((2, 3, 16, 16), 0.3)
    torch.testing.assert_close(
        psnr(true + difference, true), torch.full((2,), decibels), atol=1e-3, rtol=0
    )


def test_ssim_of_constants_and_of_itself():
    """Of two greys only the term of light is left."""
    true = torch.full((2, 3, 16, 20), 0.5)
    expected = (2 * 0.5 * 0.7 + 1e-4) / (0.25 + 0.49 + 1e-4)
    torch.testing.assert_close(
        ssim(true + 0.2, true), torch.full((2,), expected), atol=1e-4, rtol=0
    )
    noise = torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ssim(noise, noise), torch.ones(2))
    assert (ssim(1 - noise, noise) < 0).all()


def test_what_cannot_be_is_named(tmp_path):
    with pytest.raises(ValueError, match="30x40, expected at least 32x32"):
        image = torch.zeros(1, 3, 40, 30)
        renderer()(image, *shift(image, 0), random_tensor(1, 4))
    with pytest.raises(ValueError, match="vgg is missing, expected the file"):
        RenderingLoss(perceptual_weight=1.0)
    with pytest.raises(ValueError, match="widths are"):
        RendererConfig(widths=(8, 8))
    with pytest.raises(ValueError, match="encoder width is 4, expected 64"):
        renderer(imagenet="weights.pth")
    with pytest.raises(ValueError, match="is no file, expected torchvision's weights of ResNet-34"):
        renderer(encoder_width=64, imagenet=str(tmp_path / "none.pth"))
    with pytest.raises(ValueError, match="which has nothing to learn"):
        RendererTask(RendererConfig(mode="average_rgb"), RenderingLoss(), None)


def test_torchvisions_weights_fit_and_give_its_features(tmp_path):
    torch.manual_seed(1)
    assert torchvision_import
    from torchvision.models import resnet34

    theirs = resnet34(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet34.pth")
    ours = ResNet34().eval()
    load_torchvision_weights(ours, tmp_path / "resnet34.pth", "ResNet-34")
    image = photograph(1)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(ours.normalize(image)))))
        torch.testing.assert_close(ours(image)[-1], theirs.layer3(theirs.layer2(theirs.layer1(x))))
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="holds no weights of ResNet-34"):
        load_torchvision_weights(ours, tmp_path / "other.pth", "ResNet-34")
