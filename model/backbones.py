"""Networks of torchvision's that look at pictures, under torchvision's names, so that its files of
weights fit: ResNet-34, VGG-16 and AlexNet.

Here is no more of them than is used: no classifier, and of ResNet-34 no last stage, whose stride is
32.
"""

from itertools import chain
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.flow.raft_weights import parse_weights, read_weights

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's RGB, 0 to 1."""
_RESNET34_STAGE_BLOCKS = (3, 4, 6)
"""Blocks of ResNet-34's first three stages (He et al. 2016, table 1)."""
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
"""Convolutions of VGG-16 up to relu4_3 (Simonyan and Zisserman 2015, configuration D)."""
_VGG16_FEATURE_LAYERS = (1, 3, 6, 9)
"""After which of them features are compared: relu1_2, relu2_2, relu3_3, relu4_3; a pooling follows
each but the last.
"""
_UNUSED = ("layer4.", "fc.")


class _ImageNetNormalize(nn.Module):
    """RGB of -1 to 1 as networks of ImageNet want it."""

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
    """Two convolutions beside a shortcut."""

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
    """Features at strides 2, 4, 8 and 16, of 1, 1, 2 and 4 times `width` channels."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.widths = (width, width, 2 * width, 4 * width)
        self.normalize = _ImageNetNormalize()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(
                *(
                    _BasicBlock(before if block == 0 else out, out, stride if block == 0 else 1)
                    for block in range(depth)
                )
            )
            for before, out, stride, depth in zip(
                self.widths[:3], self.widths[1:], (1, 2, 2), _RESNET34_STAGE_BLOCKS, strict=True
            )
        )
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch _ _ _"]]:
        x = self.bn1(self.conv1(self.normalize(image))).relu()
        found = [x, self.layer1(nn.functional.max_pool2d(x, 3, 2, 1))]
        for layer in (self.layer2, self.layer3):
            found.append(layer(found[-1]))
        return found


class VGG16(nn.Module):
    """Frozen, for comparing pictures."""

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
        x, found = self.normalize(image), []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                found.append(x)
            x = layer(x)
        return [*found, x]


class AlexNet(nn.Module):
    """Frozen, for LPIPS: features of its five convolutions, after their ReLUs, of 64, 192, 384, 256
    and 256 channels.
    """

    def __init__(self):
        super().__init__()
        self.normalize = _ImageNetNormalize()
        convolutions = (
            nn.Conv2d(3, 64, 11, 4, 2),
            nn.Conv2d(64, 192, 5, 1, 2),
            *(nn.Conv2d(*of, 3, 1, 1) for of in ((192, 384), (384, 256), (256, 256))),
        )
        first, second, *others = ([convolution, nn.ReLU()] for convolution in convolutions)
        self.features = nn.Sequential(
            *first, nn.MaxPool2d(3, 2), *second, nn.MaxPool2d(3, 2), *chain.from_iterable(others)
        )
        self.requires_grad_(False)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch _ _ _"]]:
        x, found = self.normalize(image), []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x)
        return found


def load_torchvision_weights(network: nn.Module, path: Path, name: str) -> None:
    """Loads torchvision's weights of the whole network from a file of torch.save or safetensors, in
    which nothing is executed.

    Raises ValueError where there is none, or where names or shapes are not those of `network`.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file, expected torchvision's weights of {name}")
    expected = {
        key: value.shape
        for key, value in network.state_dict().items()
        if not _is_batch_counter(key)
    }
    found = {
        key: value
        for key, value in parse_weights(read_weights(path), path).items()
        if key in expected or not (_is_unused(key) or _is_batch_counter(key))
    }
    wrong = sorted(
        {
            key
            for key, _ in expected.items()
            ^ {key: value.shape for key, value in found.items()}.items()
        }
    )
    if wrong:
        raise ValueError(
            f"{path} holds no weights of {name}: {len(wrong)} tensors are missing, unknown or of another shape, {wrong[0]} for one"
        )
    network.load_state_dict(found, strict=False)


def _is_unused(key: str) -> bool:
    """Whether a tensor is of the parts that are left out here."""
    return key.startswith((*_UNUSED, "classifier.", "features.24.", "features.26.", "features.28."))


def _is_batch_counter(key: str) -> bool:
    """Whether it counts the batches that a norm has seen, which older files do not have."""
    return key.endswith(".num_batches_tracked")
