"""A pretrained inpainting U-Net in the files of diffusers: what it predicts is kept at the start, and what does not fit is a sentence."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save_file
from tiny import as_if_trained, random, tiny
from torch import Tensor

from model import checkpoints
from model.coordination import coordinate, denoiser_of
from model.denoiser import DenoiserConfig, SliceDenoiser
from model.diffusion import STEPS
from model.parts import UNet2DConditionModel
from model.pretrained import begin_with_inpainting, inpainting_config, skeleton
from model.prior import load_denoiser
from model.sampling import sample
from model.tasks import Conditioned

TEXT = 8
N = torch.tensor([10, 700])
NETWORK: dict[str, Any] = dict(
    in_channels=9,
    out_channels=4,
    block_out_channels=(16, 32),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=4,
    cross_attention_dim=TEXT,
    sample_size=8,
)
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"


def inpainting(folder: Path, **fields: Any) -> Any:
    """A network of random weights, written as diffusers writes it."""
    torch.manual_seed(1)
    network = as_if_trained(UNet2DConditionModel(**(NETWORK | fields)))
    network.save_pretrained(folder)
    return network.eval()


def begun(path: Path, **fields: Any) -> SliceDenoiser:
    torch.manual_seed(2)
    denoiser = SliceDenoiser(inpainting_config(path, tiny(**fields)))
    begin_with_inpainting(denoiser, path)
    return denoiser


def inputs(freq: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    return random(2, freq, 4, 8, 8), N, random(2, 16, 8, 8, seed=1)


def by_itself(network: Any, z: Tensor, n: Tensor) -> Tensor:
    """What the pretrained network makes of each slice, without mask, masked image and text."""
    batch, freq = z.shape[:2]
    x = torch.cat([z.flatten(0, 1), torch.zeros(batch * freq, 5, *z.shape[-2:])], dim=1)
    with torch.no_grad():
        made = network(x, n.repeat_interleave(freq), encoder_hidden_states=torch.zeros(len(x), 1, TEXT)).sample
    return made.unflatten(0, (batch, freq))


@pytest.fixture
def folder(tmp_path) -> Path:
    inpainting(tmp_path / "unet")
    return tmp_path


def learnt(network: Any, parameters: Any, steps: int) -> None:
    optimiser = torch.optim.AdamW(parameters, lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        image = random(2, 3, 32, 32, seed=3).clamp(-1, 1)
        (network(inputs()[0], N, network.features(image)) - inputs()[0].roll(1, dims=1)).square().mean().backward()
        optimiser.step()


@pytest.mark.parametrize("heads", [4, 8, [2, 8]])
def test_it_starts_exactly_at_the_pretrained_network(tmp_path, heads):
    pretrained = inpainting(tmp_path, attention_head_dim=heads)
    denoiser = begun(tmp_path)
    z, n, features = inputs()
    with torch.no_grad():
        for condition in (None, torch.zeros_like(features), features):
            assert torch.equal(denoiser(z, n, condition), by_itself(pretrained, z, n))
    assert by_itself(pretrained, z, n).std() > 0.1
    assert (denoiser.config.heads, denoiser.config.text_channels) == (tuple(heads) if isinstance(heads, list) else (heads, heads), TEXT)


def test_linear_projections_are_convolutions_of_one_pixel(tmp_path):
    """Stable Diffusion 2 has them. The same to rounding: another kernel adds up in another order."""
    pretrained = inpainting(tmp_path, use_linear_projection=True)
    z, n, _ = inputs()
    with torch.no_grad():
        torch.testing.assert_close(begun(tmp_path)(z, n, None), by_itself(pretrained, z, n), atol=1e-5, rtol=1e-4)


def test_half_precision_files_are_read(tmp_path):
    inpainting(tmp_path).half().save_pretrained(tmp_path)
    denoiser = begun(tmp_path)
    assert {p.dtype for p in denoiser.parameters()} == {torch.float32}
    assert torch.equal(denoiser.unet.conv_out.weight.half(), load_file(tmp_path / WEIGHTS)["conv_out.weight"])


def test_a_pipeline_s_folder_its_unet_s_and_links_are_the_same(folder):
    links = folder / "links"
    links.mkdir()
    for name in (CONFIG, WEIGHTS):
        (links / name).symlink_to(folder / "unet" / name)
    first = begun(folder).state_dict()
    for path in (folder / "unet", links):
        assert all(torch.equal(value, first[name]) for name, value in begun(path).state_dict().items())


def test_the_photograph_and_the_frequency_are_learnt(folder):
    denoiser = begun(folder)
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    learnt(denoiser, denoiser.parameters(), steps=2)
    assert all(parameter.grad is not None for parameter in denoiser.parameters())  # training in several processes wants that of each
    for name in ("encoder.enter.weight", "unet.class_embedding.linear_1.weight", "unet.conv_in.weight", "unet.down_blocks.0.attentions.0.proj_in.weight"):
        assert not torch.equal(denoiser.state_dict()[name], before[name]), name
    z, n, features = inputs()
    with torch.no_grad():
        assert (denoiser(z, n, features) - denoiser(z, n, None)).abs().max() > 1e-3
        same = denoiser(z[:, :1].expand(-1, 3, -1, -1, -1), n, features)
    assert (same[:, 0] - same[:, 1]).abs().max() > 1e-4


def test_stage_2_starts_there_and_leaves_it_frozen(folder):
    slices = begun(folder)
    learnt(slices, slices.parameters(), steps=1)
    eps = coordinate(slices)
    with torch.no_grad():
        for features in (inputs()[2], None):
            assert torch.equal(eps(inputs()[0], N, features), slices(inputs()[0], N, features))
        start = eps(*inputs())
    learnt(eps, eps.trainable_parameters(), steps=2)
    frozen = {name.replace(".block.", "."): value for name, value in eps.slices.state_dict().items() if ".attention." not in name}
    assert frozen.keys() == slices.state_dict().keys()
    assert all(torch.equal(frozen[name], value) for name, value in slices.state_dict().items())
    assert (eps(*inputs()) - start).abs().max() > 1e-3


def test_a_checkpoint_does_without_the_pretrained_folder(folder, tmp_path):
    eps = coordinate(begun(folder, mode="coordinated"))
    learnt(eps, eps.trainable_parameters(), steps=1)
    fields = {name: getattr(eps.config, name) for name in DenoiserConfig.__dataclass_fields__}
    checkpoints.write(tmp_path / "out", 1, {"denoiser": fields}, {"ema": Conditioned(eps).state_dict()}, {}, keep=1)
    (folder / "unet").rename(folder / "away")
    again: Any = load_denoiser(checkpoints.newest(tmp_path / "out")[0])
    features = inputs()[2]
    first, second = (sample(network, features, (3, 4, 8, 8), [0, 1], steps=2) for network in (eps.eval(), again))
    assert torch.equal(first, second) and torch.isfinite(first).all()


def test_autocast_takes_it(folder):
    denoiser = begun(folder)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = denoiser(*inputs()).float()
    torch.testing.assert_close(rough, by_itself(UNet2DConditionModel.from_pretrained(folder / "unet"), *inputs()[:2]), atol=0.15, rtol=0.1)


def test_four_levels_meet_the_latents_of_512_x_288():
    levels: dict[str, Any] = dict(channels=(8, 8, 8, 8), attention_levels=(3,), text_channels=TEXT, heads=(1, 1, 1, 1), image_channels=(4, 4, 4))
    eps = denoiser_of(tiny(**levels, frequencies=1))
    with torch.no_grad():
        features = eps.features(torch.zeros(1, 3, 288, 512))
        assert eps(random(1, 1, 4, 72, 128), torch.tensor([5]), features).shape == (1, 1, 4, 72, 128)


@pytest.mark.parametrize("mode", ["independent", "coordinated", "volume"])
def test_every_mode_can_have_text(mode):
    eps = denoiser_of(tiny(mode=mode, text_channels=TEXT))
    z, n, features = inputs()
    assert eps(z, n, features).shape == z.shape


def test_the_numbers_of_stable_diffusion_are_taken(tmp_path):
    """Its configuration as it is published; 859 million weights in our U-Net, counted without making them."""
    fields = dict(attention_head_dim=8, block_out_channels=[320, 640, 1280, 1280], layers_per_block=2, norm_num_groups=32, cross_attention_dim=768)
    cross, plain = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
    rest = dict(act_fn="silu", center_input_sample=False, downsample_padding=1, flip_sin_to_cos=True, freq_shift=0, mid_block_scale_factor=1)
    rest |= dict(norm_eps=1e-05, in_channels=9, out_channels=4, sample_size=64, _class_name="UNet2DConditionModel", _diffusers_version="0.6.0.dev0")
    with torch.device("meta"):
        tensors = {name: list(tensor.shape) for name, tensor in UNet2DConditionModel(**fields, in_channels=9).state_dict().items()}
    header_only(tmp_path / WEIGHTS, tensors)
    (tmp_path / CONFIG).write_text(json.dumps(fields | rest | dict(down_block_types=cross, up_block_types=plain)))
    config = inpainting_config(tmp_path, DenoiserConfig())
    assert (config.channels, config.attention_levels, config.heads, config.head_channels) == ((320, 640, 1280, 1280), (0, 1, 2), (8, 8, 8, 8), 64)
    assert 859e6 < sum(p.numel() for p in skeleton(config).parameters()) < 862e6 and config.mode == "coordinated" and STEPS == 1000


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


HOSTILE = [
    (dict(_class_name="UNet2DModel"), "_class_name is 'UNet2DModel', expected 'UNet2DConditionModel'"),
    (dict(in_channels=4), "in_channels is 4, expected 9"),
    (dict(out_channels=8), "out_channels is 8, expected 4"),
    (dict(block_out_channels=[16, 10**9]), "block_out_channels has 1000000000, expected a whole number from 1 to 4096"),
    (dict(block_out_channels=[16, True]), "block_out_channels has True"),
    (dict(block_out_channels=[16, -32]), "block_out_channels has -32"),
    (dict(block_out_channels=[16, 30]), "expected multiples of the 4 norm groups"),
    (dict(block_out_channels=[16] * 100_000), "block_out_channels is [16, 16, 16, 16, 16, 16, ...], expected a list of 1 to 6"),
    (dict(block_out_channels="16, 32"), "block_out_channels is '16, 32'"),
    (dict(block_out_channels=None), "block_out_channels is None"),
    (dict(layers_per_block=10**9), "layers_per_block has 1000000000, expected a whole number from 1 to 4"),
    (dict(layers_per_block=[1, 1]), "layers_per_block has [1, 1]"),
    (dict(norm_num_groups=None), "norm_num_groups has None"),
    (dict(cross_attention_dim=1e300), "cross_attention_dim has 1e+300"),
    (dict(cross_attention_dim={"a": [[]]}), "cross_attention_dim has {'a': [[]]}"),
    (dict(attention_head_dim=[4] * 100_000), "expected some for each of 2 levels"),
    (dict(attention_head_dim=[4, 0]), "attention_head_dim has 0"),
    (dict(attention_head_dim=5), "heads are (5, 5), expected divisors of the channels (16, 32)"),
    (dict(down_block_types=["CrossAttnDownBlock2D", "KDownBlock2D"]), "expected CrossAttnDownBlock2D or DownBlock2D for each of 2 levels"),
    (dict(down_block_types=["DownBlock2D"]), "for each of 2 levels"),
    (dict(down_block_types=[{}, []]), "for each of 2 levels"),
    (dict(up_block_types=["UpBlock2D", "UpBlock2D"]), "up_block_types is ['UpBlock2D', 'UpBlock2D']"),
    (dict(mid_block_type=None), "mid_block_type is None, expected 'UNetMidBlock2DCrossAttn'"),
    (dict(transformer_layers_per_block=10**9), "transformer_layers_per_block is 1000000000, expected 1"),
    (dict(class_embed_type="identity"), "class_embed_type is 'identity', expected None"),
    (dict(flip_sin_to_cos=False), "flip_sin_to_cos is False, expected True"),
    (dict(only_in_the_future=3), "only_in_the_future is 3, expected None"),
    (dict(layers_per_block=2), "there is no down_blocks.0.attentions.1."),
    (dict(block_out_channels=[16, 64]), "is [32, 16, 3, 3] of F32, expected [64, 16, 3, 3]"),
    (dict(block_out_channels=[4096] * 6, down_block_types=["DownBlock2D"] * 6, up_block_types=["UpBlock2D"] * 6), "expected [4096, 9, 3, 3]"),
    (dict(cross_attention_dim=16), "is [16, 8] of F32, expected [16, 16]"),
]


@pytest.mark.parametrize(("fields", "words"), HOSTILE, ids=lambda value: value[:60] if isinstance(value, str) else "")
def test_settings_that_do_not_fit_are_named(folder, fields, words):
    path = folder / "unet" / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(ValueError) as found:
        inpainting_config(folder, tiny())
    assert words in str(found.value) and str(folder / "unet") in str(found.value)
    assert len(str(found.value)) < 500 + len(str(folder)) and "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "holds [1], expected an object"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b"\xff\xfe\xff", "is not JSON"),
        (b" " * (2 << 20), "has 2097152 bytes, expected settings of at most 1048576"),
    ],
    ids=["empty", "deep", "list", "digits", "bytes", "long"],
)
def test_settings_that_are_none_are_named(folder, content, words):
    (folder / "unet" / CONFIG).write_bytes(content)
    with pytest.raises(ValueError, match=CONFIG) as found:
        inpainting_config(folder, tiny())
    assert words in str(found.value)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def boastful(path: Path) -> None:
    """A header of 2^60 bytes."""
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")


def pickled(path: Path) -> None:
    """As older models are."""
    torch.save(load(path.read_bytes()), path.with_name("diffusion_pytorch_model.bin"))
    path.unlink()


def disguised(path: Path) -> None:
    torch.save(load(path.read_bytes()), path)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("gone")


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def waiting(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def foreign(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)


def richer(path: Path) -> None:
    save_file(load(path.read_bytes()) | {"lora.down": torch.zeros(3)}, path)


def whole_numbers(path: Path) -> None:
    save_file(load(path.read_bytes()) | {"conv_out.bias": torch.zeros(4, dtype=torch.int64)}, path)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (emptied, "safetensors: "),
        (truncated, "safetensors: "),
        (boastful, "safetensors: "),
        (disguised, "safetensors: "),
        (pickled, "is no file, expected a folder with config.json and diffusion_pytorch_model.safetensors (a .bin is a pickle, which is not opened)"),
        (dangling, "is no file"),
        (endless, "is no file"),
        (waiting, "is no file"),
        (foreign, "there is no conv_in.weight, expected one of [16, 9, 3, 3]"),
        (richer, "'lora.down' has no place in the U-Net that config.json describes"),
        (whole_numbers, "conv_out.bias is [4] of I64, expected [4] of F32, F16, BF16"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_weights_that_do_not_fit_are_named(folder, harm, words):
    denoiser = begun(folder)
    harm(folder / "unet" / WEIGHTS)
    for attempt in (lambda: inpainting_config(folder, tiny()), lambda: begin_with_inpainting(denoiser, folder)):
        with pytest.raises(ValueError, match=WEIGHTS) as found:
            attempt()
        assert words in str(found.value) and "\n" not in str(found.value)


def test_weights_that_are_no_numbers_are_named(folder):
    path = folder / "unet" / WEIGHTS
    broken = load(path.read_bytes())
    broken["mid_block.resnets.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    save_file(broken, path)
    with pytest.raises(ValueError, match=r"safetensors: mid_block.resnets.0.conv1.weight has values that are not finite"):
        begun(folder)


def test_what_is_not_there_is_named(folder):
    (folder / "unet" / CONFIG).unlink()
    for path in (folder, folder / "gone", folder / "unet" / WEIGHTS):
        with pytest.raises(ValueError, match=r"is no file, expected a folder with config\.json"):
            inpainting_config(path, tiny())


def test_a_network_that_does_not_predict_noise_is_refused(folder):
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.parent.mkdir()
    for kind, fits in (("epsilon", True), ("v_prediction", False), ([], False)):
        scheduler.write_text(json.dumps({"prediction_type": kind}))
        if fits:
            assert inpainting_config(folder, tiny()).text_channels == TEXT
            continue
        with pytest.raises(ValueError, match=r"scheduler_config\.json: prediction_type is .*expected 'epsilon'"):
            inpainting_config(folder / "unet", tiny())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(text_channels=-1), "text channels are -1"),
        (dict(heads=(2, 2)), "of a network with text"),
        (dict(text_channels=8, heads=(2,)), "expected some for each of 2 levels"),
        (dict(text_channels=8, heads=(2, 5)), "expected divisors of the channels"),
        (dict(image_channels=(8, 9)), r"image channels are \(8, 9\)"),
    ],
)
def test_wrong_numbers_of_a_network_with_text_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny(**fields)
