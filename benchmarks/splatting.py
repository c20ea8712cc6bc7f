"""Splatting on the CPU: the compiled kernel against plain torch's index_add, 64 channels of 256 x
160 pixels, forward and backward.

Both compute the same (model/render/splatting.py), with gradients with respect to features, flow and
metric, on one core and one thread. Plain torch keeps the channels of a pixel together and adds rows
of them. The flow is smooth and up to about 8 px long.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.rounds import arguments, interleaved, one_cpu, report, speedup, timings_table
from model.render.splatting import splat_torch
from model.render.splatting_cpu import SPLAT_MODES, load_kernel, splat_compiled

CHANNELS, HEIGHT, WIDTH = 64, 160, 256
WAYS: dict[str, Callable[..., Any]] = {"plain torch": splat_torch, "kernel": splat_compiled}
GOAL = 4


def main() -> None:
    options = arguments(__doc__).parse_args()
    one_cpu()
    torch.set_num_threads(1)
    if load_kernel() is None:
        raise SystemExit("the kernel cannot be built here, so there is nothing to compare")
    contenders = {
        f"{mode}, {name}": functools.partial(both_ways, way, *scene(mode))
        for mode in SPLAT_MODES
        for name, way in WAYS.items()
    }
    check_contenders_agree(contenders)
    timings = interleaved(contenders, 1 if options.quick else options.rounds)
    targets = [
        speedup(
            f"{mode}: plain torch / kernel",
            GOAL,
            timings[f"{mode}, kernel"],
            timings[f"{mode}, plain torch"],
        )
        for mode in SPLAT_MODES
    ]
    report(
        "splatting",
        "Splatting",
        __doc__,
        timings_table(timings, "ms", 1e3),
        targets,
        keep=not options.quick,
    )


def scene(mode: str) -> tuple[Tensor, Tensor, str, Tensor | None]:
    """Draws features, flow, mode and metric."""
    random = torch.Generator().manual_seed(0)
    flow = interpolate(
        4 * torch.randn(1, 2, 10, 16, generator=random), (HEIGHT, WIDTH), mode="bicubic"
    )
    metric = (
        torch.rand(1, 1, HEIGHT, WIDTH, generator=random) if mode in ("linear", "softmax") else None
    )
    return torch.randn(1, CHANNELS, HEIGHT, WIDTH, generator=random), flow, mode, metric


def both_ways(
    way: Callable[..., Any], features: Tensor, flow: Tensor, mode: str, metric: Tensor | None
) -> list[Tensor]:
    """Returns the splatted features, and the gradients of half their square."""
    inputs = [x.detach().requires_grad_() for x in (features, flow, metric) if x is not None]
    splatted, _ = way(inputs[0], inputs[1], mode, inputs[2] if metric is not None else None)
    splatted.backward(splatted.detach())
    return [splatted.detach(), *(x.grad for x in inputs if x.grad is not None)]


def check_contenders_agree(contenders: dict[str, Callable[[], list[Tensor]]]) -> None:
    """Checks that both ways give the same."""
    for mode in SPLAT_MODES:
        for theirs, ours in zip(*(contenders[f"{mode}, {name}"]() for name in WAYS), strict=True):
            assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


if __name__ == "__main__":
    main()
