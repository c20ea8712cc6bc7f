"""The compiled CPU kernel of splatting: built on first use, then loaded from a cache.

Torch's extension builder compiles `splatting_cpu.cpp` into torch's extension cache
(TORCH_EXTENSIONS_DIR, by default under ~/.cache), under a name with a digest of its content. Each
process builds in a temporary folder and moves the library into place, so that several can build at
once and a killed one leaves no lock behind. Without a compiler, splatting runs in plain torch.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

_SOURCE = Path(__file__).with_name("splatting_cpu.cpp")
# No contraction: with fused multiply-add in the main part of a loop but not in its remainder, the
# result would depend on where the part of a thread ends.
_FLAGS = ("-O3", "-pthread", "-ffp-contract=off")
_CHANNEL_BLOCK = 8
"""CHANNELS in the source."""
MIN_SHARE = 2.0**-20
"""A smaller share of a pixel is dropped. Alone at its target it would be divided by itself, and so
would the rounding errors of its gradient.
"""
SplatMode = Literal["sum", "average", "linear", "softmax"]
SPLAT_MODES: tuple[str, ...] = get_args(SplatMode)
"""In the order of the source's enumeration."""


@functools.cache
def load_kernel() -> ctypes.CDLL | None:
    """The kernel, built if necessary; None, and a warning in the log, if it cannot be built."""
    try:
        path = kernel_path()
        if not path.exists():
            _build_kernel(path)
        return ctypes.CDLL(str(path))
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        logging.getLogger(__name__).warning(
            "splatting runs in plain torch, several times slower: its kernel cannot be built: %s",
            reason,
        )
        return None


def kernel_path() -> Path:
    """The path of the library for this source, these flags and this kind of processor."""
    from torch.utils import cpp_extension

    content = hashlib.sha256(
        _SOURCE.read_bytes() + repr((_FLAGS, platform.system(), platform.machine())).encode()
    )
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()
    return Path(root) / "quiver" / f"splatting-{content.hexdigest()[:16]}.so"


def _build_kernel(path: Path) -> None:
    """Compiles the kernel in a folder beside `path` and moves it there. Raises RuntimeError or
    OSError if that fails.
    """
    from torch.utils import cpp_extension

    if not shutil.which(compiler := cpp_extension.get_cxx_compiler()):
        raise FileNotFoundError(f"there is no C++ compiler {compiler}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Pip puts ninja here, which is not on PATH unless the environment was activated.
    scripts = sysconfig.get_path("scripts")
    if scripts not in (path_before := os.environ.get("PATH", os.defpath)).split(os.pathsep):
        os.environ["PATH"] = path_before + os.pathsep + scripts
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = cpp_extension.load(
            "splatting",
            [str(_SOURCE)],
            extra_cflags=list(_FLAGS),
            build_directory=folder,
            with_cuda=False,
            is_python_module=False,
        )
        Path(str(built)).replace(path)


def _call_kernel(
    name: str,
    dtype: torch.dtype,
    numbers: Sequence[float | int],
    tensors: Sequence[Tensor | None],
) -> None:
    """Calls a function of the kernel, whose arguments are numbers, then tensors. The tensors must
    be contiguous; nothing checks their sizes.
    """
    symbol = f"{name}_{'double' if dtype == torch.float64 else 'float'}"
    pointer = ctypes.c_void_p.in_dll(load_kernel(), symbol)  # pyright: ignore[reportArgumentType]
    ctypes.CFUNCTYPE(None)(pointer.value or 0)(
        *(ctypes.c_double(n) if isinstance(n, float) else ctypes.c_int64(n) for n in numbers),
        *(None if tensor is None else ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
    )


def splat_photo(
    photo: UInt8[Tensor, "rows columns 3"],
    flow: Float32[Tensor, "2 rows columns"],
    front: Float32[Tensor, "rows columns"],
    margin: int,
    restored_share: float,
) -> tuple[Float32[Tensor, "rows columns 3"], Bool[Tensor, "rows columns"]]:
    """Softmax splatting of a photograph that is mirrored for `margin` pixels beyond its borders:
    the colors, which are 0 in holes, and the holes.

    `front` is exp(metric) up to a factor. `restored_share` times the detail that splatting smooths
    away is added (docs/maths.md, 29), so that colors may leave 0 to 255. All tensors must be
    contiguous, on the CPU and of fitting sizes: nothing checks them. Runs in one thread.
    """
    height, width = front.shape
    out = front.new_empty(height, width, 3)
    hole = front.new_empty(height, width, dtype=torch.bool)
    columns = front.new_empty(2, width + 2 * margin, dtype=torch.int32)
    room = front.new_empty(height * width + 1, 4)
    _call_kernel(
        "paint",
        front.dtype,
        (height, width, margin, MIN_SHARE, restored_share),
        (photo, flow, front, columns, room, out, hole),
    )
    return out, hole


def splat_compiled(
    features: Float[Tensor, "batch channels height width"],
    flow: Float[Tensor, "batch 2 height width"],
    mode: SplatMode,
    metric: Float[Tensor, "batch 1 height width"] | None,
) -> tuple[Float[Tensor, "batch channels height width"], Bool[Tensor, "batch 1 height width"]]:
    """`splatting.splat` by the kernel, for float32 or float64 on the CPU. The sizes must fit:
    nothing checks them.

    Raises ValueError for a picture of more than 2^31 - 1 pixels.
    """
    if features.shape[2] * features.shape[3] >= 2**31:
        raise ValueError(f"features are {list(features.shape)}, expected fewer than 2^31 pixels")
    return _Splatting.apply(
        features.contiguous(),
        flow.contiguous(),
        None if metric is None else metric.contiguous(),
        SPLAT_MODES.index(mode),
    )


class _Splatting(torch.autograd.Function):
    """The kernel and its gradients."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, flow: Tensor, metric: Tensor | None, mode: int
    ) -> tuple[Tensor, Tensor]:
        batch, channels, height, width = features.shape
        pixels, dtype, threads = height * width, features.dtype, torch.get_num_threads()
        at = features.new_empty(batch, 4, pixels, dtype=torch.int32)
        weight, total = features.new_empty(batch, 4, pixels), features.new_empty(batch, pixels + 1)
        holes = features.new_empty(batch, 1, height, width, dtype=torch.bool)
        out = torch.empty_like(features)
        sums = features.new_empty(threads, pixels + 1, _CHANNEL_BLOCK)
        _call_kernel(
            "plan",
            dtype,
            (batch, height, width, mode, MIN_SHARE, threads),
            (flow, metric, at, weight, total, holes),
        )
        _call_kernel(
            "scatter",
            dtype,
            (batch, channels, pixels, threads),
            (features, at, weight, sums, out),
        )
        ctx.save_for_backward(features, flow, metric, at, weight, total)
        ctx.mode = mode
        ctx.mark_non_differentiable(holes)
        return out, holes

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, None]:
        features, flow, metric, at, weight, total = ctx.saved_tensors
        batch, channels, height, width = features.shape
        pixels, dtype, threads = height * width, features.dtype, torch.get_num_threads()
        by_features, by_weight = torch.empty_like(features), torch.empty_like(weight)
        by_flow, by_metric = (
            torch.empty_like(flow),
            None if metric is None else torch.empty_like(metric),
        )
        by_out, mean = grad_outputs[0].contiguous(), features.new_empty(pixels + 1)
        turned = features.new_empty(-(-channels // _CHANNEL_BLOCK), pixels + 1, _CHANNEL_BLOCK)
        _call_kernel(
            "gather",
            dtype,
            (batch, channels, pixels, threads),
            (features, at, weight, by_out, turned, by_features, by_weight),
        )
        _call_kernel(
            "plan_backward",
            dtype,
            (batch, height, width, ctx.mode, MIN_SHARE, threads),
            (flow, metric, at, weight, total, mean, by_weight, by_flow, by_metric),
        )
        return by_features, by_flow, by_metric, None
