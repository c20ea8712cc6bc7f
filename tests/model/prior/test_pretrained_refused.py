"""A pretrained folder that does not fit, or means harm, is one sentence naming the file and what
was expected.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from model.prior.pretrained import inpainting_config, load_inpainting_weights
from tests.support.inpainting import (
    TEXT_CHANNELS,
    UNET_CONFIG_FILE,
    UNET_WEIGHTS_FILE,
    make_inpainting_denoiser,
    write_inpainting_network,
)
from tests.support.tiny import tiny_config


@pytest.fixture
def folder(tmp_path) -> Path:
    write_inpainting_network(tmp_path / "unet")
    return tmp_path


HOSTILE = [
    (
        dict(_class_name="UNet2DModel"),
        "_class_name is 'UNet2DModel', expected 'UNet2DConditionModel'",
    ),
    (dict(in_channels=4), "in_channels is 4, expected 9"),
    (dict(out_channels=8), "out_channels is 8, expected 4"),
    (
        dict(block_out_channels=[16, 10**9]),
        "block_out_channels has 1000000000, expected a whole number from 1 to 4096",
    ),
    (dict(block_out_channels=[16, True]), "block_out_channels has True"),
    (dict(block_out_channels=[16, -32]), "block_out_channels has -32"),
    (dict(block_out_channels=[16, 30]), "expected multiples of the 4 norm groups"),
    (
        dict(block_out_channels=[16] * 100_000),
        "block_out_channels is [16, 16, 16, 16, 16, 16, ...], expected a list of 1 to 6",
    ),
    (dict(block_out_channels="16, 32"), "block_out_channels is '16, 32'"),
    (dict(block_out_channels=None), "block_out_channels is None"),
    (
        dict(layers_per_block=10**9),
        "layers_per_block has 1000000000, expected a whole number from 1 to 4",
    ),
    (dict(layers_per_block=[1, 1]), "layers_per_block has [1, 1]"),
    (dict(norm_num_groups=None), "norm_num_groups has None"),
    (dict(cross_attention_dim=1e300), "cross_attention_dim has 1e+300"),
    (dict(cross_attention_dim={"a": [[]]}), "cross_attention_dim has {'a': [[]]}"),
    (dict(attention_head_dim=[4] * 100_000), "expected some for each of 2 levels"),
    (dict(attention_head_dim=[4, 0]), "attention_head_dim has 0"),
    (dict(attention_head_dim=5), "heads are (5, 5), expected divisors of the channels (16, 32)"),
    (
        dict(down_block_types=["CrossAttnDownBlock2D", "KDownBlock2D"]),
        "expected CrossAttnDownBlock2D or DownBlock2D for each of 2 levels",
    ),
    (dict(down_block_types=["DownBlock2D"]), "for each of 2 levels"),
    (dict(down_block_types=[{}, []]), "for each of 2 levels"),
    (
        dict(up_block_types=["UpBlock2D", "UpBlock2D"]),
        "up_block_types is ['UpBlock2D', 'UpBlock2D']",
    ),
    (dict(mid_block_type=None), "mid_block_type is None, expected 'UNetMidBlock2DCrossAttn'"),
    (
        dict(transformer_layers_per_block=10**9),
        "transformer_layers_per_block is 1000000000, expected 1",
    ),
    (dict(class_embed_type="identity"), "class_embed_type is 'identity', expected None"),
    (dict(flip_sin_to_cos=False), "flip_sin_to_cos is False, expected True"),
    (dict(only_in_the_future=3), "only_in_the_future is 3, expected None"),
    (dict(layers_per_block=2), "there is no down_blocks.0.attentions.1."),
    (dict(block_out_channels=[16, 64]), "is [32, 16, 3, 3] of F32, expected [64, 16, 3, 3]"),
    (
        dict(
            block_out_channels=[4096] * 6,
            down_block_types=["DownBlock2D"] * 6,
            up_block_types=["UpBlock2D"] * 6,
        ),
        "expected [4096, 9, 3, 3]",
    ),
    (dict(cross_attention_dim=16), "is [16, 8] of F32, expected [16, 16]"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "words"), HOSTILE, ids=lambda value: value[:60] if isinstance(value, str) else ""
)
def test_settings_that_do_not_fit_are_named(folder, fields, words):
    path = folder / "unet" / UNET_CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(ValueError) as found:
        inpainting_config(folder, tiny_config())
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
        (b" " * (2 << 20), "has 2.1 MB, expected settings of at most 1.05 MB"),
    ],
    ids=["empty", "deep", "list", "digits", "bytes", "long"],
)
def test_settings_that_are_none_are_named(folder, content, words):
    (folder / "unet" / UNET_CONFIG_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=UNET_CONFIG_FILE) as found:
        inpainting_config(folder, tiny_config())
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (emptied, "safetensors: "),
        (truncated, "safetensors: "),
        (boastful, "safetensors: "),
        (disguised, "safetensors: "),
        (
            pickled,
            "is no file, expected a folder with config.json and diffusion_pytorch_model.safetensors (a .bin is a pickle, which is not opened)",
        ),
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
    denoiser = make_inpainting_denoiser(folder)
    harm(folder / "unet" / UNET_WEIGHTS_FILE)
    for attempt in (
        lambda: inpainting_config(folder, tiny_config()),
        lambda: load_inpainting_weights(denoiser, folder),
    ):
        with pytest.raises(ValueError, match=UNET_WEIGHTS_FILE) as found:
            attempt()
        assert words in str(found.value) and "\n" not in str(found.value)


def test_weights_that_are_no_numbers_are_named(folder):
    path = folder / "unet" / UNET_WEIGHTS_FILE
    broken = load(path.read_bytes())
    broken["mid_block.resnets.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    save_file(broken, path)
    with pytest.raises(
        ValueError,
        match=r"safetensors: mid_block.resnets.0.conv1.weight has values that are not finite",
    ):
        make_inpainting_denoiser(folder)


def test_what_is_not_there_is_named(folder):
    (folder / "unet" / UNET_CONFIG_FILE).unlink()
    for path in (folder, folder / "gone", folder / "unet" / UNET_WEIGHTS_FILE):
        with pytest.raises(ValueError, match=r"is no file, expected a folder with config\.json"):
            inpainting_config(path, tiny_config())


def test_a_network_that_does_not_predict_noise_is_refused(folder):
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.parent.mkdir()
    for kind, fits in (("epsilon", True), ("v_prediction", False), ([], False)):
        scheduler.write_text(json.dumps({"prediction_type": kind}))
        if fits:
            assert inpainting_config(folder, tiny_config()).text_channels == TEXT_CHANNELS
            continue
        with pytest.raises(
            ValueError, match=r"scheduler_config\.json: prediction_type is .*expected 'epsilon'"
        ):
            inpainting_config(folder / "unet", tiny_config())


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
        tiny_config(**fields)
