"""The compiled CPU kernel of splatting: built on first use, found again afterwards.

`splatting.cpp` is compiled by torch's extension builder into torch's cache of extensions
(TORCH_EXTENSIONS_DIR, else under ~/.cache), under a name that tells its content. Each process
builds in a folder of its own and moves the library into place, so that several can build at once
and one that is killed leaves no lock behind. Without a compiler splatting runs in plain torch.
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
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

_SOURCE = Path(__file__).with_name("splatting_cpu.cpp")
# no contraction: a fused multiply-add in one loop and not in its remainder would let bits depend on
# where a thread's part ends
_FLAGS = ("-O3", "-pthread", "-ffp-contract=off")
_CHANNEL_BLOCK = 8
"""CHANNELS of the source."""
MIN_SHARE = 2.0**-20
"""A smaller share of a pixel does not arrive. Alone at its target it would be divided by itself,
and the gradient's rounding errors with it.
"""
SplatMode = Literal["sum", "average", "linear", "softmax"]
SPLAT_MODES: tuple[str, ...] = get_args(SplatMode)
"""As numbered in the source."""


@functools.cache
def load_kernel() -> ctypes.CDLL | None:
    """The kernel, built if it has not been; None, with a line in the log, where it cannot be."""
    try:
        path = kernel_path()
        if not path.exists():
            _build_kernel(path)
        return ctypes.CDLL(str(path))
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        logging.getLogger(__name__).warning(
            "splatting runs in plain torch, several times slower, since its kernel cannot be built: %s",
            reason,
        )
        return None


def kernel_path() -> Path:
    """Where the library of this source, these flags and this kind of processor lies."""
    from torch.utils import cpp_extension

    content = hashlib.sha256(
        _SOURCE.read_bytes() + repr((_FLAGS, platform.system(), platform.machine())).encode()
    )
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()
    return Path(root) / "quiver" / f"splatting-{content.hexdigest()[:16]}.so"


def _build_kernel(path: Path) -> None:
    """Compiles in a folder beside `path` and moves the library there. Raises RuntimeError or
    OSError where that fails.
    """
    from torch.utils import cpp_extension

    if not shutil.which(compiler := cpp_extension.get_cxx_compiler()):
        raise FileNotFoundError(f"there is no C++ compiler {compiler}")
    path.parent.mkdir(parents=True, exist_ok=True)
    scripts = sysconfig.get_path(
        "scripts"
    )  # where pip has put ninja, on no path unless the environment was activated
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


def _call_kernel(name: str, dtype: torch.dtype, *arguments: Tensor | float | int | None) -> None:
    """A function of the kernel. The tensors are contiguous; it does not look at their sizes."""
    pointer = ctypes.c_void_p.in_dll(
        load_kernel(), f"{name}_{'double' if dtype == torch.float64 else 'float'}"
    )  # pyright: ignore[reportArgumentType]
    ctypes.CFUNCTYPE(None)(pointer.value or 0)(*map(_to_ctypes, arguments))


def _to_ctypes(value: Tensor | float | int | None) -> Any:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return (
        ctypes.c_double(value)
        if isinstance(value, float)
        else None
        if value is None
        else ctypes.c_int64(value)
    )


def splat_photo(
    photo: UInt8[Tensor, "rows columns 3"],
    flow: Float32[Tensor, "2 rows columns"],
    front: Float32[Tensor, "rows columns"],
    margin: int,
    given_back: float,
) -> tuple[Float32[Tensor, "rows columns 3"], Bool[Tensor, "rows columns"]]:
    """Softmax splatting of a picture that goes on, mirrored, for `margin` pixels beyond its
    borders; the colours, 0 in holes, and the holes.

    `front` is exp(metric), up to a factor. `given_back` times what is smoothed away is added
    (docs/maths.md, 29), so that colours may leave 0 to 255. All are contiguous and on the CPU, and
    the sizes fit: nothing looks at them again. One thread.
    """
    height, width = front.shape
    out, hole = front.new_empty(height, width, 3), front.new_empty(height, width, dtype=torch.bool)
    columns, room = (
        front.new_empty(2, width + 2 * margin, dtype=torch.int32),
        front.new_empty(height * width + 1, 4),
    )
    _call_kernel(
        "paint",
        front.dtype,
        height,
        width,
        margin,
        MIN_SHARE,
        given_back,
        photo,
        flow,
        front,
        columns,
        room,
        out,
        hole,
    )
    return out, hole


def splat_compiled(
    features: Float[Tensor, "batch channels height width"],
    flow: Float[Tensor, "batch 2 height width"],
    mode: SplatMode,
    metric: Float[Tensor, "batch 1 height width"] | None,
) -> tuple[Float[Tensor, "batch channels height width"], Bool[Tensor, "batch 1 height width"]]:
    """`splatting.splat` of float32 or float64 on the CPU, by the kernel. The sizes fit:
    nothing looks at them again.

    Raises ValueError for a picture of more than 2^31 - 1 pixels.
    """
    if features.shape[2] * features.shape[3] >= 2**31:
        raise ValueError(f"features are {list(features.shape)}, expected fewer than 2^31 pixels")
    return Splatting.apply(
        features.contiguous(),
        flow.contiguous(),
        None if metric is None else metric.contiguous(),
        SPLAT_MODES.index(mode),
    )


class Splatting(torch.autograd.Function):
    """The kernel and its gradients."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, flow: Tensor, metric: Tensor | None, mode: int
    ) -> tuple[Tensor, Tensor]:
        (batch, channels, height, width), dtype, threads = (
            features.shape,
            features.dtype,
            torch.get_num_threads(),
        )
        pixels = height * width
        at, holes = (
            features.new_empty(batch, 4, pixels, dtype=torch.int32),
            features.new_empty(batch, 1, height, width, dtype=torch.bool),
        )
        weight, total, out = (
            features.new_empty(batch, 4, pixels),
            features.new_empty(batch, pixels + 1),
            torch.empty_like(features),
        )
        _call_kernel(
            "plan",
            dtype,
            batch,
            height,
            width,
            mode,
            MIN_SHARE,
            threads,
            flow,
            metric,
            at,
            weight,
            total,
            holes,
        )
        _call_kernel(
            "scatter",
            dtype,
            batch,
            channels,
            pixels,
            threads,
            features,
            at,
            weight,
            features.new_empty(threads, pixels + 1, _CHANNEL_BLOCK),
            out,
        )
        ctx.save_for_backward(features, flow, metric, at, weight, total)
        ctx.mode = mode
        ctx.mark_non_differentiable(holes)
        return out, holes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        features, flow, metric, at, weight, total = ctx.saved_tensors
        (batch, channels, height, width), dtype, threads = (
            features.shape,
            features.dtype,
            torch.get_num_threads(),
        )
        pixels = height * width
        turned = features.new_empty(-(-channels // _CHANNEL_BLOCK), pixels + 1, _CHANNEL_BLOCK)
        by_features, by_weight, by_flow = (
            torch.empty_like(features),
            torch.empty_like(weight),
            torch.empty_like(flow),
        )
        by_metric = None if metric is None else torch.empty_like(metric)
        _call_kernel(
            "gather",
            dtype,
            batch,
            channels,
            pixels,
            threads,
            features,
            at,
            weight,
            grad_outputs[0].contiguous(),
            turned,
            by_features,
            by_weight,
        )
        mean = features.new_empty(pixels + 1)
        _call_kernel(
            "plan_backward",
            dtype,
            batch,
            height,
            width,
            ctx.mode,
            MIN_SHARE,
            threads,
            flow,
            metric,
            at,
            weight,
            total,
            mean,
            by_weight,
            by_flow,
            by_metric,
        )
        return by_features, by_flow, by_metric, None
