"""RAFT's networks and weights come from the places that are named; anything else is refused."""

import hashlib
import pickle
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline import torchvision_import
from pipeline.flow.config import FlowConfig
from pipeline.flow.estimator import make_estimator
from pipeline.flow.raft_weights import INSTALLED_HUB_FOLDER, load_network

MAKERS = {"raft_small": torchvision_import.raft_small, "raft_large": torchvision_import.raft_large}
ROOT = Path(__file__).parents[3]


def state_of(flow: str) -> dict[str, torch.Tensor]:
    """Random weights and random statistics of norms, in torchvision's layout."""
    torch.manual_seed(3)
    return {
        name: torch.rand_like(value) if value.is_floating_point() else value + 5
        for name, value in MAKERS[flow]().state_dict().items()
    }


def authors_layout(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The names in the code of RAFT's authors: conv1, norm1, layer1.0.conv1, ...,
    update_block.gru.convz1, update_block.mask.2
    """
    names = {
        "feature_encoder": "fnet",
        "context_encoder": "cnet",
        "motion_encoder": "encoder",
        "mask_predictor.convrelu.0": "update_block.mask.0",
        "mask_predictor.conv": "update_block.mask.2",
        "update_block.recurrent_block": "update_block.gru",
    }
    renamed = {}
    for name, value in state.items():
        new = name
        for ours, theirs in names.items():
            new = new.replace(ours, theirs)
        new = re.sub(r"^(.net)\.conv\.", r"\1.conv2.", new)
        new = re.sub(
            r"^(.net)\.convnormrelu\.([01])\.",
            lambda m: f"{m[1]}.{('conv1', 'norm1')[int(m[2])]}.",
            new,
        )
        new = re.sub(
            r"convnormrelu(\d)\.([01])\.", lambda m: f"{('conv', 'norm')[int(m[2])]}{m[1]}.", new
        )
        new = re.sub(r"conv(corr|flow)(\d)\.0", lambda m: f"conv{m[1][0]}{m[2]}", new)
        new = new.replace("update_block.encoder.conv.0.", "update_block.encoder.conv.")
        new = re.sub(
            r"gru\.convgru(\d)\.conv([zrq])",
            r"gru.conv\2\1" if "mask_predictor.conv.weight" in state else r"gru.conv\2",
            new,
        )
        renamed[prefix + new] = value
        if ".downsample.1." in new:  # the norm of a shortcut has two names there
            renamed[prefix + new.replace("downsample.1.", "norm3.")] = value
    return renamed


def load(flow: str, path: Path, **options):
    return load_network(FlowConfig(flow=flow, weights=str(path), device="cpu", **options))


def has_weights(network, state) -> bool:
    return all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("flow", MAKERS)
def test_both_layouts_fill_the_network(flow, prefix, tmp_path):
    state = state_of(flow)
    theirs = authors_layout(state, prefix)
    assert not {*theirs} & {*state}.difference({name for name in state if "flow_head" in name})
    for number, layout in enumerate([state, theirs]):
        path = tmp_path / f"{number}.pth"
        torch.save(layout, path)
        network, digest = load(flow, path)
        assert has_weights(network, state)
        assert not network.training
        assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_large_networks_names_are_its_authors():
    """A few names of the published raft-things.pth, spelled out."""
    theirs = authors_layout(state_of("raft_large"), "module.")
    for name in (
        "module.fnet.conv1.weight",
        "module.fnet.layer2.0.downsample.0.bias",
        "module.cnet.norm1.running_var",
        "module.cnet.norm1.num_batches_tracked",
        "module.cnet.layer2.0.norm3.weight",
        "module.cnet.layer2.0.downsample.1.weight",
        "module.cnet.layer3.1.conv2.weight",
        "module.cnet.conv2.bias",
        "module.update_block.encoder.convc2.weight",
        "module.update_block.encoder.convf1.weight",
        "module.update_block.encoder.conv.bias",
        "module.update_block.gru.convq2.weight",
        "module.update_block.flow_head.conv2.bias",
        "module.update_block.mask.0.weight",
        "module.update_block.mask.2.bias",
    ):
        assert name in theirs


def test_safetensors(tmp_path):
    state = state_of("raft_small")
    save_file(state, tmp_path / "a.safetensors")
    assert has_weights(load("raft_small", tmp_path / "a.safetensors")[0], state)


def test_published_weights_of_the_authors(material):
    network, digest = load("raft_small", material / "weights" / "raft-small.pth")
    assert digest.startswith("c7d41b9c")
    assert sum(value.numel() for value in network.parameters()) == 990_162


class Hostile:
    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def test_a_hostile_file_is_refused_and_runs_nothing(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Hostile(canary)))
    assert canary.exists()  # the bait works
    canary.unlink()
    torch.save({"a": Hostile(canary)}, tmp_path / "zip.pth")
    torch.save({"a": Hostile(canary)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Hostile(canary)))
    for name in ("zip.pth", "old.pth", "raw.pth"):
        with pytest.raises(ValueError, match=name + " is not a file of weights"):
            load("raft_small", tmp_path / name)
    assert not canary.exists()


def unusable_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that are no weights of raft_large, and a pattern of the error for each."""
    state = state_of("raft_large")
    cases = {
        "text": (b"hello, weights", "is not a file of weights"),
        "empty": (b"", "is not a file of weights"),
        "zeros": (bytes(5000), "is not a file of weights"),
        "tensor": (torch.zeros(3), "holds a Tensor"),
        "nested": ({"state": state}, "holds a dict"),
        "others": ({"a": torch.zeros(3)}, "holds no weights of raft_large"),
        "none": ({}, "holds no weights of raft_large"),
        "small": (state_of("raft_small"), "holds no weights of raft_large"),
        "shape": (
            state | {"update_block.flow_head.conv2.bias": torch.zeros(3)},
            "1 tensors are .*, update_block.flow_head.conv2.bias for one",
        ),
        "more": (state | {"more": torch.zeros(3)}, "1 tensors are .*, more for one"),
    }
    for name, (content, _) in cases.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            torch.save(content, folder / name)
    torch.save(state, folder / "cut")
    (folder / "cut").write_bytes((folder / "cut").read_bytes()[:-50_000])
    (folder / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    messages = {name: message for name, (_, message) in cases.items()}
    messages |= {
        "cut": "is not a file of weights",
        "cut.safetensors": "is not a file of weights",
        "gone": "expected default or a file that exists",
    }
    return {name: (folder / name, message) for name, message in messages.items()}


def test_other_files_are_refused_in_one_sentence(tmp_path):
    for path, message in unusable_files(tmp_path).values():
        with pytest.raises(ValueError, match=message) as caught:
            load("raft_large", path)
        sentence = str(caught.value)
        assert str(path) in sentence and "expected" in sentence and "\n" not in sentence


@pytest.mark.slow
def test_damaged_bytes_are_refused_whatever_torch_raises(tmp_path):
    torch.save({"a": torch.zeros(3, 2), "b": torch.ones(5)}, path := tmp_path / "a.pth")
    data, rng = np.frombuffer(path.read_bytes(), np.uint8), np.random.default_rng(0)
    for _ in range(100):
        damaged = data.copy()
        damaged[rng.integers(0, len(data), 5)] = rng.integers(0, 256, 5)
        path.write_bytes(
            damaged[: rng.integers(0, len(data) + 1)] if rng.random() < 0.5 else damaged
        )
        with pytest.raises(ValueError, match=r"a\.pth"):
            load("raft_small", path)


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Path:
    """The empty folder of torch.hub, without a network."""

    def refuse(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub"


def test_default_weights_without_cache_or_network(offline):
    with pytest.raises(
        ValueError,
        match=r"raft_small_.*\.pth and could not be downloaded from https.*no network.*"
        "--weights PATH",
    ):
        load_network(FlowConfig(flow="raft_small", device="cpu"))


def test_default_weights_are_downloaded_once_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    state = state_of("raft_small")
    torch.save(state, tmp_path / "a")
    digest = hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()
    published = (tmp_path / "a").rename(tmp_path / f"raft-{digest[:8]}.pth")
    monkeypatch.setattr(
        torchvision_import,
        "Raft_Small_Weights",
        SimpleNamespace(DEFAULT=SimpleNamespace(url=published.as_uri())),
    )
    config = FlowConfig(flow="raft_small", device="cpu")
    network, loaded_digest = load_network(config)
    assert has_weights(network, state) and loaded_digest == digest
    published.unlink()
    assert load_network(config)[1] == digest
    cached = tmp_path / "home" / "hub" / "checkpoints" / published.name
    torch.save(state_of("raft_large"), cached)
    with pytest.raises(
        ValueError, match=f"{published.name} is not the file that torchvision published"
    ):
        load_network(config)


def hubconf(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "hubconf.py").write_text(text)
    return folder


OWN = """
from torchvision.models.optical_flow import raft_small as theirs
def raft_small(**options):
    net = theirs(**options)
    net.own = 1
    return net
"""


def test_networks_come_from_where_they_are_named(tmp_path, offline):
    torch.save(state_of("raft_small"), path := tmp_path / "a.pth")
    assert not hasattr(load("raft_small", path)[0], "own")
    assert load("raft_small", path, networks=str(hubconf(tmp_path / "code", OWN)))[0].own == 1
    with pytest.raises(
        ValueError,
        match=r"no pytorch/vision: none in its cache .*hub, and it could not be downloaded .*"
        "--networks torchvision needs neither",
    ):
        load("raft_small", path, networks="hub")
    hubconf(offline / "pytorch_vision_main", OWN)
    assert load("raft_small", path, networks="hub")[0].own == 1


def test_folders_without_networks(tmp_path):
    torch.save(state_of("raft_small"), path := tmp_path / "a.pth")
    with pytest.raises(
        ValueError,
        match=r"networks is .*nowhere, expected torchvision, hub, or a folder with a hubconf.py",
    ):
        load("raft_small", path, networks=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"torch.hub found no raft_small in .*hubconf.py"):
        load("raft_small", path, networks=str(hubconf(tmp_path / "empty", "")))
    linear = hubconf(
        tmp_path / "linear",
        "import torch\ndef raft_small(**options):\n    return torch.nn.Linear(2, 2)\n",
    )
    with pytest.raises(
        ValueError,
        match=r"raft_small of networks .* is a Linear, expected a network with the parts",
    ):
        load("raft_small", path, networks=str(linear))


def test_the_hubconf_of_the_installed_networks_travels_with_the_package():
    """Its folder has no __init__.py, but counts as a package, since its name is included."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = ".".join(INSTALLED_HUB_FOLDER.relative_to(ROOT).parts)
    assert package.startswith("pipeline.") and "pipeline*" in setup["packages"]["find"]["include"]
    assert (INSTALLED_HUB_FOLDER / "hubconf.py").is_file()
    assert "hubconf.py" in setup["package-data"]["*"]


def fake_torchvision(folder: Path, first_line: str) -> Path:
    (folder / "torchvision" / "models").mkdir(parents=True)
    (folder / "torchvision" / "__init__.py").write_text(first_line)
    (folder / "torchvision" / "models" / "__init__.py").touch()
    names = "Raft_Large_Weights = Raft_Small_Weights = raft_large = raft_small = RAFT = 1"
    (folder / "torchvision" / "models" / "optical_flow.py").write_text(names)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first_line", "output"),
    [
        ("", "imported, hasattr False"),
        (
            "raise RuntimeError('operator torchvision::nms does not exist')",
            "RuntimeError: operator torchvision::nms",
        ),
        ("raise RuntimeError('something else')", "RuntimeError: something else"),
        (
            "import torch\n"
            "if not hasattr(torch.ops.torchvision, 'nms'):\n"
            "    raise RuntimeError('operator torchvision::nms does not exist')",
            "imported, hasattr True",
        ),
    ],
)
def test_missing_operators_are_declared_only_if_they_are_missed(tmp_path, first_line, output):
    code = (
        "import pipeline.torchvision_import, torch; "
        "print('imported, hasattr', hasattr(torch.ops.torchvision, 'nms'))"
    )
    path = {"PYTHONPATH": f"{fake_torchvision(tmp_path, first_line)}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=path, capture_output=True, text=True)
    assert output in done.stdout + done.stderr


def test_no_cuda_device(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    torch.save(state_of("raft_small"), path := tmp_path / "a.pth")
    with pytest.raises(
        ValueError, match="no CUDA device was found; --device cpu runs RAFT on the CPU"
    ):
        make_estimator(FlowConfig(flow="raft_small", weights=str(path)))
