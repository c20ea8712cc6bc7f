"""A pretrained inpainting U-Net as a beginning: what it predicts is kept at the start, both stages
train, and a checkpoint does without it.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model import checkpoints
from model.prior.denoiser import DenoiserConfig
from model.prior.diffusers_modules import UNet2DConditionModel
from model.prior.diffusion import DIFFUSION_STEPS
from model.prior.frequency_attention import add_frequency_attention, build_denoiser
from model.prior.inference import ConditionedDenoiser, restore_denoiser
from model.prior.pretrained import build_meta_unet, inpainting_config
from model.prior.sampling import sample_latents
from tests.support.inpainting import (
    TEXT_CHANNELS,
    UNET_CONFIG_FILE,
    UNET_WEIGHTS_FILE,
    make_inpainting_denoiser,
    write_inpainting_network,
)
from tests.support.tiny import random_tensor, tiny_config

N = torch.tensor([10, 700])


def inputs(freq: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    return random_tensor(2, freq, 4, 8, 8), N, random_tensor(2, 16, 8, 8, seed=1)


def by_itself(network: Any, z: Tensor, n: Tensor) -> Tensor:
    """What the pretrained network makes of each slice, without mask, masked image and text."""
    batch, freq = z.shape[:2]
    x = torch.cat([z.flatten(0, 1), torch.zeros(batch * freq, 5, *z.shape[-2:])], dim=1)
    with torch.no_grad():
        made = network(
            x,
            n.repeat_interleave(freq),
            encoder_hidden_states=torch.zeros(len(x), 1, TEXT_CHANNELS),
        ).sample
    return made.unflatten(0, (batch, freq))


@pytest.fixture
def folder(tmp_path) -> Path:
    write_inpainting_network(tmp_path / "unet")
    return tmp_path


def learnt(network: Any, parameters: Any, steps: int) -> None:
    optimiser = torch.optim.AdamW(parameters, lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        image = random_tensor(2, 3, 32, 32, seed=3).clamp(-1, 1)
        (
            network(inputs()[0], N, network.features(image)) - inputs()[0].roll(1, dims=1)
        ).square().mean().backward()
        optimiser.step()


@pytest.mark.parametrize("heads", [4, 8, [2, 8]])
def test_it_starts_exactly_at_the_pretrained_network(tmp_path, heads):
    pretrained = write_inpainting_network(tmp_path, attention_head_dim=heads)
    denoiser = make_inpainting_denoiser(tmp_path)
    z, n, features = inputs()
    with torch.no_grad():
        for condition in (None, torch.zeros_like(features), features):
            assert torch.equal(denoiser(z, n, condition), by_itself(pretrained, z, n))
    assert by_itself(pretrained, z, n).std() > 0.1
    assert (denoiser.config.heads, denoiser.config.text_channels) == (
        tuple(heads) if isinstance(heads, list) else (heads, heads),
        TEXT_CHANNELS,
    )


def test_linear_projections_are_convolutions_of_one_pixel(tmp_path):
    """Stable Diffusion 2 has them. The same to rounding: another kernel adds up in another order."""
    pretrained = write_inpainting_network(tmp_path, use_linear_projection=True)
    z, n, _ = inputs()
    with torch.no_grad():
        torch.testing.assert_close(
            make_inpainting_denoiser(tmp_path)(z, n, None),
            by_itself(pretrained, z, n),
            atol=1e-5,
            rtol=1e-4,
        )


def test_half_precision_files_are_read(tmp_path):
    write_inpainting_network(tmp_path).half().save_pretrained(tmp_path)
    denoiser = make_inpainting_denoiser(tmp_path)
    assert {p.dtype for p in denoiser.parameters()} == {torch.float32}
    assert torch.equal(
        denoiser.unet.conv_out.weight.half(),
        load_file(tmp_path / UNET_WEIGHTS_FILE)["conv_out.weight"],
    )


def test_a_pipeline_s_folder_its_unet_s_and_links_are_the_same(folder):
    links = folder / "links"
    links.mkdir()
    for name in (UNET_CONFIG_FILE, UNET_WEIGHTS_FILE):
        (links / name).symlink_to(folder / "unet" / name)
    first = make_inpainting_denoiser(folder).state_dict()
    for path in (folder / "unet", links):
        assert all(
            torch.equal(value, first[name])
            for name, value in make_inpainting_denoiser(path).state_dict().items()
        )


def test_the_photograph_and_the_frequency_are_learnt(folder):
    denoiser = make_inpainting_denoiser(folder)
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    learnt(denoiser, denoiser.parameters(), steps=2)
    assert all(
        parameter.grad is not None for parameter in denoiser.parameters()
    )  # training in several processes wants that of each
    for name in (
        "encoder.enter.weight",
        "unet.class_embedding.linear_1.weight",
        "unet.conv_in.weight",
        "unet.down_blocks.0.attentions.0.proj_in.weight",
    ):
        assert not torch.equal(denoiser.state_dict()[name], before[name]), name
    z, n, features = inputs()
    with torch.no_grad():
        assert (denoiser(z, n, features) - denoiser(z, n, None)).abs().max() > 1e-3
        same = denoiser(z[:, :1].expand(-1, 3, -1, -1, -1), n, features)
    assert (same[:, 0] - same[:, 1]).abs().max() > 1e-4


def test_stage_2_starts_there_and_leaves_it_frozen(folder):
    slices = make_inpainting_denoiser(folder)
    learnt(slices, slices.parameters(), steps=1)
    eps = add_frequency_attention(slices)
    with torch.no_grad():
        for features in (inputs()[2], None):
            assert torch.equal(eps(inputs()[0], N, features), slices(inputs()[0], N, features))
        start = eps(*inputs())
    learnt(eps, eps.trainable_parameters(), steps=2)
    frozen = {
        name.replace(".block.", "."): value
        for name, value in eps.slices.state_dict().items()
        if ".attention." not in name
    }
    assert frozen.keys() == slices.state_dict().keys()
    assert all(torch.equal(frozen[name], value) for name, value in slices.state_dict().items())
    assert (eps(*inputs()) - start).abs().max() > 1e-3


def test_a_checkpoint_does_without_the_pretrained_folder(folder, tmp_path):
    eps = add_frequency_attention(make_inpainting_denoiser(folder, mode="coordinated"))
    learnt(eps, eps.trainable_parameters(), steps=1)
    fields = {name: getattr(eps.config, name) for name in DenoiserConfig.__dataclass_fields__}
    checkpoints.write(
        tmp_path / "out",
        1,
        {"denoiser": fields, "step": 1},
        {"ema": ConditionedDenoiser(eps).state_dict()},
        {},
        keep=1,
    )
    (folder / "unet").rename(folder / "away")
    again: Any = restore_denoiser(checkpoints.read_newest(tmp_path / "out")[0])
    features = inputs()[2]
    first, second = (
        sample_latents(network, features, (3, 4, 8, 8), [0, 1], steps=2)
        for network in (eps.eval(), again)
    )
    assert torch.equal(first, second) and torch.isfinite(first).all()


def test_autocast_takes_it(folder):
    denoiser = make_inpainting_denoiser(folder)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = denoiser(*inputs()).float()
    torch.testing.assert_close(
        rough,
        by_itself(UNet2DConditionModel.from_pretrained(folder / "unet"), *inputs()[:2]),
        atol=0.15,
        rtol=0.1,
    )


def test_four_levels_meet_the_latents_of_512_x_288():
    levels: dict[str, Any] = dict(
        channels=(8, 8, 8, 8),
        attention_levels=(3,),
        text_channels=TEXT_CHANNELS,
        heads=(1, 1, 1, 1),
        image_channels=(4, 4, 4),
    )
    eps = build_denoiser(tiny_config(**levels, frequencies=1))
    with torch.no_grad():
        features = eps.features(torch.zeros(1, 3, 288, 512))
        assert eps(random_tensor(1, 1, 4, 72, 128), torch.tensor([5]), features).shape == (
            1,
            1,
            4,
            72,
            128,
        )


@pytest.mark.parametrize("mode", ["independent", "coordinated", "volume"])
def test_every_mode_can_have_text(mode):
    eps = build_denoiser(tiny_config(mode=mode, text_channels=TEXT_CHANNELS))
    z, n, features = inputs()
    assert eps(z, n, features).shape == z.shape


def test_the_numbers_of_stable_diffusion_are_taken(tmp_path):
    """Its configuration as it is published; 859 million weights in our U-Net, counted without
    making them.
    """
    fields = dict(
        attention_head_dim=8,
        block_out_channels=[320, 640, 1280, 1280],
        layers_per_block=2,
        norm_num_groups=32,
        cross_attention_dim=768,
    )
    cross, plain = (
        ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    )
    rest = dict(
        act_fn="silu",
        center_input_sample=False,
        downsample_padding=1,
        flip_sin_to_cos=True,
        freq_shift=0,
        mid_block_scale_factor=1,
    )
    rest |= dict(
        norm_eps=1e-05,
        in_channels=9,
        out_channels=4,
        sample_size=64,
        _class_name="UNet2DConditionModel",
        _diffusers_version="0.6.0.dev0",
    )
    with torch.device("meta"):
        tensors = {
            name: list(tensor.shape)
            for name, tensor in UNet2DConditionModel(**fields, in_channels=9).state_dict().items()
        }
    header_only(tmp_path / UNET_WEIGHTS_FILE, tensors)
    (tmp_path / UNET_CONFIG_FILE).write_text(
        json.dumps(fields | rest | dict(down_block_types=cross, up_block_types=plain))
    )
    config = inpainting_config(tmp_path, DenoiserConfig())
    assert (config.channels, config.attention_levels, config.heads, config.head_channels) == (
        (320, 640, 1280, 1280),
        (0, 1, 2),
        (8, 8, 8, 8),
        64,
    )
    assert (
        859e6 < sum(p.numel() for p in build_meta_unet(config).parameters()) < 862e6
        and config.mode == "coordinated"
        and DIFFUSION_STEPS == 1000
    )


def header_only(path: Path, tensors: dict[str, list[int]]) -> None:
    """A safetensors file whose numbers are a hole, which takes no space on the disk."""
    header, end = {}, 0
    for name, shape in tensors.items():
        size = 4 * int(torch.Size(shape).numel())
        header[name] = dict(dtype="F32", shape=shape, data_offsets=[end, end + size])
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
