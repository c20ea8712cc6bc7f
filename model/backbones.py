"""ResNet-34, VGG-16 and AlexNet, with torchvision's parameter names, so that its weight files fit.

Only the parts that are used exist: no classifiers, and not the last stage of ResNet-34, whose
stride is 32. All networks take RGB in -1 .. 1.
"""

from itertools import chain
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.flow.raft_weights import parse_weights, read_weights

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's RGB in 0 .. 1."""
_RESNET34_STAGE_BLOCKS = (3, 4, 6)
"""Blocks in each of ResNet-34's first three stages (He et al. 2016, table 1)."""
_VGG16_CONVOLUTIONS = (
    (3, 64),
    (64, 64),
    (64, 128),
    (128, 128),
    (128, 256),
    (256, 256),
    (256, 256),
    (256, 512),
    (512, 512),
    (512, 512),
)
"""Input and output channels of the convolutions of VGG-16 up to relu4_3 (Simonyan and Zisserman
2015, configuration D)."""
_VGG16_FEATURE_LAYERS = (1, 3, 6, 9)
"""The convolutions whose features are compared, counted from 0: relu1_2, relu2_2, relu3_3, relu4_3.
Pooling follows each but the last.
"""
_UNUSED_PREFIXES = (
    *("layer4.", "fc."),  # ResNet-34
    *("features.24.", "features.26.", "features.28."),  # VGG-16
    "classifier.",
)
"""Tensors in torchvision's files that belong to parts which are left out here."""


class _ImageNetNormalize(nn.Module):
    """RGB in -1 .. 1 to the mean 0 and deviation 1 that networks of ImageNet expect."""

    middle: Tensor
    width: Tensor

    def __init__(self):
        super().__init__()
        for name, value in (("middle", _IMAGENET_MEAN), ("width", _IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        return ((image + 1) / 2 - self.middle) / self.width


class _BasicBlock(nn.Module):
    """Two convolutions and a shortcut past them (He et al. 2016, figure 2)."""

    def __init__(self, width: int, out: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.downsample = (
            None
            if stride == 1
            else nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet34(nn.Module):
    """Returns features at strides 2, 4, 8 and 16 with 1, 1, 2 and 4 times `width` channels."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.widths = (width, width, 2 * width, 4 * width)
        self.normalize = _ImageNetNormalize()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(
                *(
                    _BasicBlock(width_in if block == 0 else out, out, stride if block == 0 else 1)
                    for block in range(depth)
                )
            )
            for width_in, out, stride, depth in zip(
                self.widths[:3], self.widths[1:], (1, 2, 2), _RESNET34_STAGE_BLOCKS, strict=True
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch _ _ _"]]:
        x = self.bn1(self.conv1(self.normalize(image))).relu()
        features = [x, self.layer1(nn.functional.max_pool2d(x, 3, 2, 1))]
        for layer in (self.layer2, self.layer3):
            features.append(layer(features[-1]))
        return features


class VGG16(nn.Module):
    """Frozen, for the perceptual loss: returns features at relu1_2, relu2_2, relu3_3 and relu4_3,
    of 64, 128, 256 and 512 channels.
    """

    def __init__(self):
        super().__init__()
        self.normalize, layers = _ImageNetNormalize(), []
        for number, (width, out) in enumerate(_VGG16_CONVOLUTIONS):
            layers += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU()] + (
                [nn.MaxPool2d(2)] if number in _VGG16_FEATURE_LAYERS[:-1] else []
            )
        self.features = nn.Sequential(*layers)
        self.requires_grad_(False)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch _ _ _"]]:
        x, features = self.normalize(image), []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                features.append(x)
            x = layer(x)
        return [*features, x]


class AlexNet(nn.Module):
    """Frozen, for LPIPS: returns the features after the ReLU of each of its five convolutions, of
    64, 192, 384, 256 and 256 channels.
    """

    def __init__(self):
        super().__init__()
        self.normalize = _ImageNetNormalize()
        convolutions = (
            nn.Conv2d(3, 64, 11, 4, 2),
            nn.Conv2d(64, 192, 5, 1, 2),
            nn.Conv2d(192, 384, 3, 1, 1),
            nn.Conv2d(384, 256, 3, 1, 1),
            nn.Conv2d(256, 256, 3, 1, 1),
        )
        first, second, *last_three = ([convolution, nn.ReLU()] for convolution in convolutions)
        pooled = [*first, nn.MaxPool2d(3, 2), *second, nn.MaxPool2d(3, 2)]
        self.features = nn.Sequential(*pooled, *chain.from_iterable(last_three))
        self.requires_grad_(False)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch _ _ _"]]:
        x, features = self.normalize(image), []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                features.append(x)
        return features


def load_torchvision_weights(network: nn.Module, path: Path, name: str) -> None:
    """Loads torchvision's weights of the complete network `name` from a file of torch.save or
    safetensors. No code in the file is executed.

    Raises ValueError if there is no such file, or if its tensors' names or shapes do not fit
    `network`.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file, expected torchvision's weights of {name}")
    # how many batches a norm has seen is not in older files, and not used
    expected = {
        key: value.shape
        for key, value in network.state_dict().items()
        if not key.endswith(".num_batches_tracked")
    }
    weights = {
        key: value
        for key, value in parse_weights(read_weights(path), path).items()
        if key in expected
        or not (key.startswith(_UNUSED_PREFIXES) or key.endswith(".num_batches_tracked"))
    }
    shapes = {key: value.shape for key, value in weights.items()}
    mismatches = sorted({key for key, _ in expected.items() ^ shapes.items()})
    if mismatches:
        raise ValueError(
            f"{path} holds no weights of {name}: {len(mismatches)} tensors are missing, unknown or "
            f"of another shape, {mismatches[0]} for one"
        )
    network.load_state_dict(weights, strict=False)
