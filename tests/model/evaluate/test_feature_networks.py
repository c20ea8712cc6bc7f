"""Feature networks: tiny TorchScript files that are called as the real ones are, and files that are
something else.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from torch import Tensor, nn

from model.evaluate.distributions import frechet, sliding_distances
from model.evaluate.feature_networks import (
    DT_I3D,
    DT_I3D_32,
    I3D,
    INCEPTION,
    NetworkSpec,
    load_network,
)
from model.evaluate.pairs import cut_excerpts, iter_feature_windows

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Inception(nn.Module):
    """Takes bytes, whatever their size; brings them to its own. Its features are a grid of the
    picture's colours.
    """

    def forward(
        self,
        img: Tensor,
        return_features: bool = False,
        use_fp16: bool = False,
        no_output_bias: bool = False,
    ) -> Tensor:
        assert img.dtype == torch.uint8
        features = nn.functional.interpolate(img.float(), (32, 22), mode="bilinear").flatten(1)[
            :, :2048
        ]
        if not return_features:
            return features[:, :1008]
        return features


class Video(nn.Module):
    """Takes excerpts of 224 x 224 in -1 to 1; its features are of how the picture changes from
    frame to frame, in a grid.
    """

    def forward(
        self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> Tensor:
        assert (
            x.shape[3:] == (224, 224) and float(x.abs().max()) <= 1 and not rescale and not resize
        )
        step = (x[:, :, 1:] - x[:, :, :-1]).abs().mean(dim=(1, 2))
        return nn.functional.adaptive_avg_pool2d(step[:, None], [20, 20]).flatten(1)


class Texture(nn.Module):
    """Takes one excerpt of as many frames as it was made for, as the authors' networks do; gives
    the beginning of its first line.
    """

    def __init__(self, frames: int):
        super().__init__()
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == (3, self.frames, 224, 224) and float(x.abs().max()) <= 1
        return x.transpose(3, 4)[:, 0, 0].flatten(1)[:, :1024]


class Plain(nn.Module):
    """A user's own: one argument, any excerpt."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(
            [x.mean(dim=(1, 2, 3, 4)), x.amax(dim=(1, 2, 3, 4)), x.amin(dim=(1, 2, 3, 4))], dim=1
        )


class Pair(nn.Module):
    def forward(self, img: Tensor, return_features: bool) -> tuple[Tensor, Tensor]:
        return img, img


class Broken(nn.Module):
    """Of 2048 numbers, none of which is one."""

    def forward(self, img: Tensor, return_features: bool) -> Tensor:
        return torch.zeros(img.shape[0], 2048) / 0


def saved(network: nn.Module, path: Path) -> Path:
    torch.jit.script(network).save(str(path))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("networks")


@pytest.fixture(scope="module")
def inception(folder) -> Path:
    return saved(Inception(), folder / "inception-2015-12-05.pt")


@pytest.fixture(scope="module")
def i3d(folder) -> Path:
    return saved(Video(), folder / "i3d_torchscript.pt")


def films(seed: int, count: int = 24) -> np.ndarray:
    """Pictures of one colour each that sway in brightness, every film in its own way, bytes
    [videos, 32, 32, 48, 3].
    """
    rng, t = default_rng(seed), np.arange(32)
    course = np.sin(2 * np.pi * t / 32 + rng.uniform(0, 6, (count, 1))) * rng.uniform(
        30, 60, (count, 1)
    )
    grain = rng.normal(0, 5, (count, 1, 32, 48, 3))
    return np.clip(128 + course[:, :, None, None, None] + grain, 0, 255).astype(np.uint8)


def test_pictures_go_to_inception_as_bytes(inception):
    pictures = default_rng(0).integers(0, 256, (11, 32, 22, 3), dtype=np.uint8)
    found = load_network(inception, INCEPTION, batch=4).extract(pictures)
    assert found.dtype == np.float32 and found.shape == (11, 2048)
    np.testing.assert_array_equal(found, np.moveaxis(pictures, -1, 1).reshape(11, -1)[:, :2048])


def test_what_a_network_wants_is_what_it_gets(folder):
    """Black is -1 and white is 1, or 0 and 255."""
    path = saved(Plain(), folder / "own.pt")
    excerpt = np.zeros((1, 16, 32, 48, 3), np.uint8)
    excerpt[:, :8] = 255
    for low, high in ((-1.0, 1.0), (0.0, 255.0)):
        call = NetworkSpec(kind="video", dimensions=3, low=low, high=high)
        assert load_network(path, call).extract(excerpt).tolist() == [[(low + high) / 2, high, low]]


def test_a_batch_changes_nothing(i3d):
    excerpts_of = films(0, 5)[:, :16]
    one, four = (load_network(i3d, I3D, batch=size).extract(excerpts_of) for size in (1, 4))
    assert one.shape == (5, 400)
    np.testing.assert_allclose(one, four, rtol=1e-5)
    assert load_network(i3d, I3D).extract(excerpts_of[:0]).shape == (0, 400)


def test_enlarging_is_that_of_torch(folder):
    """Bilinear, frame by frame, without regard to the shape."""
    call = NetworkSpec(kind="video", dimensions=3, size=24, low=0.0, high=1.0)
    picture = default_rng(0).integers(0, 256, (1, 2, 8, 12, 3), dtype=np.uint8)
    large = [
        nn.functional.interpolate(
            torch.from_numpy(one / 255).permute(2, 0, 1)[None], (24, 24), mode="bilinear"
        )
        for one in picture[0]
    ]
    together = torch.stack(large)
    expected = [[float(together.mean()), float(together.max()), float(together.min())]]
    np.testing.assert_allclose(
        load_network(saved(Plain(), folder / "own.pt"), call).extract(picture), expected, rtol=1e-5
    )


@pytest.mark.parametrize(("call", "frames"), [(DT_I3D, 16), (DT_I3D_32, 32)])
def test_the_network_of_dynamic_textures_gets_aligned_corners_and_its_own_length(
    folder, call, frames
):
    """Published: 224 x 224, corners aligned, -1 to 1, and the 1024 numbers before the logits."""
    network = load_network(saved(Texture(frames), folder / f"texture{frames}.pt"), call)
    picture = default_rng(0).integers(0, 256, (1, frames, 8, 12, 3), dtype=np.uint8)
    first = torch.from_numpy(picture[0, 0] / 255 * 2 - 1).permute(2, 0, 1)[None]
    expected = nn.functional.interpolate(first, (224, 224), mode="bilinear", align_corners=True)[
        0, 0
    ].T.flatten()[:1024]
    np.testing.assert_allclose(network.extract(picture), expected[None].numpy(), atol=1e-6)
    with pytest.raises(ValueError, match="cannot be called with"):
        load_network(network.path, DT_I3D if frames == 32 else DT_I3D_32)


@pytest.mark.slow
def test_shuffled_frames_are_far_for_a_video_network_and_near_for_a_picture_network(inception, i3d):
    """As FVD and FID are: 24 films against 24 others, and against the others with their frames
    shuffled.
    """
    real, other = films(1), films(2)
    shuffled = other[:, default_rng(3).permutation(32)]
    network = load_network(i3d, I3D)
    seen = [
        network.extract(np.concatenate([cut_excerpts(film, 16, 16) for film in videos]))
        for videos in (real, other, shuffled)
    ]
    assert frechet(seen[0], seen[2]) > 10 * frechet(seen[0], seen[1])
    pictures = load_network(inception, INCEPTION)
    seen = [
        pictures.extract(np.concatenate(videos[:, ::8])) for videos in (real, other, other[:, ::-1])
    ]
    assert frechet(seen[0], seen[2]) < 2 * frechet(seen[0], seen[1])


def test_pictures_that_fade_are_farther_in_each_later_window(inception):
    network, real, other = load_network(inception, INCEPTION), films(1, 6), films(2, 6)
    faded = (other * np.linspace(1, 0.3, 32)[:, None, None, None]).astype(np.uint8)
    seen = [np.stack([network.extract(film) for film in videos]) for videos in (real, faded)]
    found = sliding_distances(frechet, *(iter_feature_windows(one, 10, 10) for one in seen))
    assert len(found) == 3 and found == sorted(found)


def test_a_protocol_says_which_network_and_how_it_was_called(i3d):
    network = load_network(i3d, I3D)
    assert network.protocol() == {
        "file": "i3d_torchscript.pt",
        "sha256": hashlib.sha256(i3d.read_bytes()).hexdigest(),
        "device": "cpu",
        "kind": "video",
        "dimensions": 400,
        "frames": 16,
        "size": 224,
        "align_corners": False,
        "low": -1.0,
        "high": 1.0,
        "as_bytes": False,
        "options": {"rescale": False, "resize": False, "return_features": True},
    }
    assert load_network(i3d, I3D, sha256=network.sha256.upper()).sha256 == network.sha256


def test_a_file_that_is_not_there_or_no_network_is_named(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"none.pt is not a file, expected a TorchScript network; it is not downloaded",
    ):
        load_network(tmp_path / "none.pt", INCEPTION)
    (tmp_path / "text.pt").write_text("no network")
    torch.save({"a": torch.ones(3)}, tmp_path / "weights.pt")
    for name in ("text.pt", "weights.pt"):
        with pytest.raises(ValueError, match=rf"{name} is no TorchScript network: \S"):
            load_network(tmp_path / name, INCEPTION)


@pytest.mark.parametrize(
    ("network", "call", "sentence"),
    [
        (
            Video(),
            INCEPTION,
            r"cannot be called with \(picture of bytes, \[2, 64, 64, 3\], return_features=True\): \S",
        ),
        (
            Plain(),
            I3D,
            r"cannot be called with \(video of floats, .*rescale=False, resize=False, return_features=True\): \S",
        ),
        (
            Inception(),
            replace(INCEPTION, options={}),
            r"gives \[2, 1008\], expected \[2, 2048\]: it is another network than was expected",
        ),
        (
            Video(),
            replace(I3D, dimensions=512),
            r"gives \[2, 400\], expected \[2, 512\]: it is another network",
        ),
        (Pair(), INCEPTION, r"gives tuple, expected \[2, 2048\]: it is another network"),
        (Broken(), INCEPTION, r"gives numbers that are not finite"),
    ],
)
def test_another_network_is_refused_when_it_is_loaded(tmp_path, network, call, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        load_network(saved(network, tmp_path / "other.pt"), call)
    assert "\n" not in str(caught.value)


class Hostile(nn.Module):
    """Makes a file as soon as it is loaded."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path, self.training = state
        self.training = bool(torch.from_file(self.path, True, 16, dtype=torch.uint8).sum() > 0)

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_file_of_another_digest_is_not_run(tmp_path):
    """That it is a program is shown: without a digest it does what it wants."""
    canary = tmp_path / "canary"
    path = saved(Hostile(str(canary)), tmp_path / "hostile.pt")
    canary.unlink(missing_ok=True)
    with pytest.raises(
        ValueError, match=r"hostile.pt has the SHA-256 [0-9a-f]{64}, expected 0{64}"
    ):
        load_network(path, INCEPTION, sha256="0" * 64)
    assert not canary.exists()
    with pytest.raises(ValueError):
        load_network(path, INCEPTION)
    assert canary.exists()
