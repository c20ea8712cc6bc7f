"""Loads RAFT's networks through torch.hub, and their weights from a file.

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
# damaged bytes make torch.load raise any of these; pickle itself is not imported anywhere here
_LOAD_ERRORS = (
    torch.serialization.pickle.UnpicklingError,  # pyright: ignore[reportPrivateImportUsage]
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    EOFError,
    AssertionError,
    ArithmeticError,
    struct.error,
    safetensors.SafetensorError,
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
"""Substitutions, in this order, that turn the authors' names of tensors into torchvision's."""
_SHARED_NORM_PATTERN = re.compile(r"layer\d\.0\.norm[34]\.")
"""A name of the norm of a shortcut, which the authors' layout has twice; the other name is
downsample.1.
"""


def load_network(config: FlowConfig) -> tuple[nn.Module, str]:
    """The network that `config` names, with its weights, on the CPU; and the SHA-256 (hex) of the
    file of weights.

    Raises ValueError if its code or its weights are missing or unusable.
    """
    network = _build_network(config.flow, config.networks)
    if config.weights == "default":
        path = _fetch_default_weights(config.flow)
    else:
        path = Path(config.weights)
    data = read_weights(path)
    _fill_network(network, parse_weights(data, path), path, config.flow)
    return network.eval().requires_grad_(False), hashlib.sha256(data).hexdigest()


def _build_network(flow: str, networks: str) -> nn.Module:
    """torchvision's raft_small or raft_large with random weights; `networks` is that of FlowConfig.

    Raises ValueError if there is no such code.
    """
    network: object
    if networks == "hub":
        network = _load_from_hub(flow)
    else:
        folder = INSTALLED_HUB_FOLDER if networks == "torchvision" else Path(networks)
        network = _load_from_folder(flow, folder)
    if not isinstance(network, nn.Module) or not all(
        hasattr(network, part) for part in _NETWORK_PARTS
    ):
        raise ValueError(
            f"{flow} of networks {networks} is a {type(network).__name__}, "
            "expected a network with the parts of torchvision's RAFT"
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
            f"torch.hub found no {flow} in {folder / 'hubconf.py'}: {_first_line(error)}"
        ) from error


def _load_from_hub(flow: str) -> object:
    """The network of that name in torch.hub's checkout of pytorch/vision.

    The hubconf.py there takes the parts that it names from the torchvision that is already
    imported.
    """
    try:
        return torch.hub.load(
            "pytorch/vision", flow, weights=None, skip_validation=True, verbose=False
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"torch.hub has no pytorch/vision: none in its cache {torch.hub.get_dir()}, and it "
            f"could not be downloaded ({_first_line(error)}); --networks torchvision needs neither"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _fetch_default_weights(flow: str) -> Path:
    """File of torchvision's own weights in torch.hub's cache, downloaded if it is missing.

    Raises ValueError if it cannot be downloaded, or is not the file that was published.
    """
    url, path = locate_default_weights(flow)
    if not path.exists():
        try:
            torch.hub.load_state_dict_from_url(
                url, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"the default weights of {flow} are not in torch.hub's cache as {path} and could "
                f"not be downloaded from {url} ({_first_line(error)}); "
                "name a file of weights with --weights PATH"
            ) from error
    check_published_digest(path)
    return path


def locate_default_weights(flow: str) -> tuple[str, Path]:
    """URL of torchvision's own weights, and the path at which torch.hub caches them."""
    small, large = torchvision_import.Raft_Small_Weights, torchvision_import.Raft_Large_Weights
    url = (small if flow == "raft_small" else large).DEFAULT.url
    return url, Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def check_published_digest(path: Path) -> None:
    """Raises ValueError unless a cached file has the digest that its name ends with."""
    prefix = path.stem.rpartition("-")[2]
    if not hashlib.sha256(read_weights(path)).hexdigest().startswith(prefix):
        raise ValueError(
            f"{path} is not the file that torchvision published: its SHA-256 does not begin with "
            f"{prefix}; delete it to download it again"
        )


def read_weights(path: Path) -> bytes:
    """Content of a file of weights. Raises ValueError if there is no such file."""
    if not path.is_file():
        raise ValueError(f"weights is {path}, expected default or a file that exists")
    return path.read_bytes()


def parse_weights(data: bytes, path: Path) -> dict[str, Tensor]:
    """Names and tensors of a file that torch.save wrote, or of a safetensors file. Nothing in it is
    executed.

    Raises ValueError if it holds anything else; `path` tells the format and goes into the message.
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
            f"{path} holds a {type(state).__name__}, "
            "expected a state dict: names with one tensor each"
        )
    return state


def _fill_network(network: nn.Module, state: dict[str, Tensor], path: Path, flow: str) -> None:
    """Loads all weights into the network. Raises ValueError unless names and shapes are exactly the
    network's.
    """
    if any("fnet." in name for name in state):
        state = _rename_to_torchvision(state)
    expected = {name: value.shape for name, value in network.state_dict().items()}
    shapes = {name: value.shape for name, value in state.items()}
    mismatches = sorted({name for name, _ in expected.items() ^ shapes.items()})
    if mismatches:
        raise ValueError(
            f"{path} holds no weights of {flow}: {len(mismatches)} tensors are missing, unknown or "
            f"of another shape, {mismatches[0]} for one; "
            "expected torchvision's layout or that of RAFT's authors"
        )
    network.load_state_dict(state, strict=True)


def _rename_to_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the layout of RAFT's authors, with or without the prefix of DataParallel,
    under torchvision's names.
    """
    renamed = {}
    for name, value in state.items():
        shortcut_name = re.sub(r"norm[34]\.", "downsample.1.", name)
        if _SHARED_NORM_PATTERN.search(name) and shortcut_name in state:
            continue  # the same norm again
        for pattern, replacement in _RENAME_PATTERNS:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed
