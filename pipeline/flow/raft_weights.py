"""RAFT's networks, which torch.hub brings, and the weights that go into them.

Weights are read as tensors and nothing else. Two layouts of names are known: torchvision's, and
that of RAFT's authors (Teed and Deng, ECCV 2020).
"""

import hashlib
import io
import re
import struct
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline import torchvision_import
from pipeline.flow.config import FlowConfig

INSTALLED_HUB_FOLDER = Path(__file__).parent / "hub"
# torch.load raises whatever damaged bytes lead it into; pickle itself is not imported anywhere in
# the tree
_LOAD_ERRORS = (
    torch.serialization.pickle.UnpicklingError,  # pyright: ignore[reportPrivateImportUsage]
    *(
        RuntimeError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        EOFError,
        AssertionError,
        ArithmeticError,
    ),
    *(struct.error, safetensors.SafetensorError),
)
_NETWORK_PARTS = (
    "feature_encoder",
    "context_encoder",
    "update_block",
    "corr_block",
    "mask_predictor",
)
_RENAME_PATTERNS = [
    (r"^module\.", ""),
    (r"^fnet\.", "feature_encoder."),
    (r"^cnet\.", "context_encoder."),
    (r"(?<=encoder\.)conv1\.", "convnormrelu.0."),
    (r"(?<=encoder\.)norm1\.", "convnormrelu.1."),
    (r"(?<=encoder\.)conv2\.", "conv."),
    (r"(layer\d\.\d)\.conv(\d)\.", r"\1.convnormrelu\2.0."),
    (r"(layer\d\.\d)\.norm(\d)\.", r"\1.convnormrelu\2.1."),
    (r"^update_block\.encoder\.convc(\d)\.", r"update_block.motion_encoder.convcorr\1.0."),
    (r"^update_block\.encoder\.convf(\d)\.", r"update_block.motion_encoder.convflow\1.0."),
    (r"^update_block\.encoder\.conv\.", "update_block.motion_encoder.conv.0."),
    (r"^update_block\.gru\.conv([zrq])\.", r"update_block.recurrent_block.convgru1.conv\1."),
    (r"^update_block\.gru\.conv([zrq])(\d)\.", r"update_block.recurrent_block.convgru\2.conv\1."),
    (r"^update_block\.mask\.0\.", "mask_predictor.convrelu.0."),
    (r"^update_block\.mask\.2\.", "mask_predictor.conv."),
]
"""From the authors' names to torchvision's, in this order."""
_SHARED_NORM_PATTERN = re.compile(r"layer\d\.0\.norm[34]\.")
"""The authors' name the norm of a shortcut twice; the other name is downsample.1."""


def load_network(config: FlowConfig) -> tuple[nn.Module, str]:
    """The network that `config` names, with its weights, on the CPU, and the SHA-256 of the file of
    weights (hex).

    Raises ValueError where its code or its weights are missing, or are something else.
    """
    network = _build_network(config.flow, config.networks)
    path = (
        _fetch_default_weights(config.flow) if config.weights == "default" else Path(config.weights)
    )
    data = read_weights(path)
    _fill_network(network, parse_weights(data, path), path, config.flow)
    return network.eval().requires_grad_(False), hashlib.sha256(data).hexdigest()


def _build_network(flow: str, where: str) -> nn.Module:
    """torchvision's raft_small or raft_large, its weights at random; `where` as in
    FlowConfig.networks.

    Raises ValueError where there is no such code.
    """
    network: object = (
        _load_from_hub(flow)
        if where == "hub"
        else _load_from_folder(
            flow, INSTALLED_HUB_FOLDER if where == "torchvision" else Path(where)
        )
    )
    if not isinstance(network, nn.Module) or not all(
        hasattr(network, part) for part in _NETWORK_PARTS
    ):
        raise ValueError(
            f"{flow} of networks {where} is a {type(network).__name__}, expected a network with the parts of torchvision's RAFT"
        )
    return network


def _load_from_folder(flow: str, folder: Path) -> object:
    if not (folder / "hubconf.py").is_file():
        raise ValueError(
            f"networks is {folder}, expected torchvision, hub, or a folder with a hubconf.py"
        )
    try:
        return torch.hub.load(str(folder), flow, source="local", weights=None)
    except RuntimeError as error:
        raise ValueError(
            f"torch.hub found no {flow} in {folder / 'hubconf.py'}: {first_line(error)}"
        ) from error


def _load_from_hub(flow: str) -> object:
    """The checkout's hubconf.py takes the parts it names from the torchvision that is imported
    already.
    """
    try:
        return torch.hub.load(
            "pytorch/vision", flow, weights=None, skip_validation=True, verbose=False
        )
    except (OSError, RuntimeError) as error:
        cache = torch.hub.get_dir()
        raise ValueError(
            f"torch.hub has no pytorch/vision: none in its cache {cache}, and it could not be downloaded ({first_line(error)}); "
            "--networks torchvision needs neither"
        ) from error


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _fetch_default_weights(flow: str) -> Path:
    """torchvision's own weights in torch.hub's cache, downloaded if they are not there. Raises
    ValueError where they cannot be had, or where the file is not the one that was published.
    """
    url, path = locate_default_weights(flow)
    if not path.exists():
        _download_weights(url, flow, path)
    check_published_digest(path)
    return path


def locate_default_weights(flow: str) -> tuple[str, Path]:
    """Where torchvision's own weights are published, and where torch.hub keeps them."""
    url = (
        torchvision_import.Raft_Small_Weights
        if flow == "raft_small"
        else torchvision_import.Raft_Large_Weights
    ).DEFAULT.url
    return url, Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def check_published_digest(path: Path) -> None:
    """Raises ValueError unless a cached file has the digest that its name says."""
    prefix = path.stem.rpartition("-")[2]
    if not hashlib.sha256(read_weights(path)).hexdigest().startswith(prefix):
        raise ValueError(
            f"{path} is not the file that torchvision published: its SHA-256 does not begin with {prefix}; delete it to download it again"
        )


def _download_weights(url: str, flow: str, path: Path) -> None:
    try:
        torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"the default weights of {flow} are not in torch.hub's cache as {path} and could not be downloaded from {url} ({first_line(error)}); "
            "name a file of weights with --weights PATH"
        ) from error


def read_weights(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"weights is {path}, expected default or a file that exists")
    return path.read_bytes()


def parse_weights(data: bytes, path: Path) -> dict[str, Tensor]:
    """Names and tensors of a file by torch.save or of a safetensors file; nothing in it is
    executed.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(data)
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except _LOAD_ERRORS as error:
        raise ValueError(
            f"{path} is not a file of weights: expected a state dict by torch.save, or safetensors"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise ValueError(
            f"{path} holds a {type(state).__name__}, expected a state dict: names with one tensor each"
        )
    return state


def _fill_network(network: nn.Module, state: dict[str, Tensor], path: Path, flow: str) -> None:
    """Loads the weights, every one of them. Raises ValueError where names or shapes are not the
    network's.
    """
    if any("fnet." in name for name in state):
        state = _rename_to_torchvision(state)
    expected = {name: value.shape for name, value in network.state_dict().items()}
    found = {name: value.shape for name, value in state.items()}
    wrong = sorted({name for name, _ in expected.items() ^ found.items()})
    if wrong:
        raise ValueError(
            f"{path} holds no weights of {flow}: {len(wrong)} tensors are missing, unknown or of another shape, {wrong[0]} for one; "
            "expected torchvision's layout or that of RAFT's authors"
        )
    network.load_state_dict(state, strict=True)


def _rename_to_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, renamed from the layout of RAFT's authors, with or without the prefix of
    DataParallel.
    """
    return {
        _torchvision_name(name): value
        for name, value in state.items()
        if not _SHARED_NORM_PATTERN.search(name) or not _has_shortcut(state, name)
    }


def _has_shortcut(state: dict[str, Tensor], name: str) -> bool:
    """Whether the norm of this name is also there as its shortcut's."""
    return re.sub(r"norm[34]\.", "downsample.1.", name) in state


def _torchvision_name(name: str) -> str:
    """torchvision's name of a tensor of this name by RAFT's authors."""
    for pattern, replacement in _RENAME_PATTERNS:
        name = re.sub(pattern, replacement, name)
    return name
