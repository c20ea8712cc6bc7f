"""RAFT as Quiver runs it against a loop over torchvision's own model, and the error of each
estimator and option.

The loop calls torchvision's model with one pair at a time, 12 updates. Quiver measures one new
source against 32 targets; preparing a frame is shared by the 15 windows that need it. Times are
measured with random weights, errors with those of --weights (raft_small); the scenes are
procedural, with known motion: one source and 32 consecutive targets at 30 frames a second.
--middlebury names a folder with a folder for each pair (frame10.png, frame11.png, flow10.flo).
"""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch

from benchmarks.rounds import (
    Target,
    Timing,
    arguments,
    interleaved,
    medians,
    one_cpu,
    report,
    table,
    timed,
)
from pipeline import torchvision_import
from pipeline.flow.config import FlowConfig
from pipeline.flow.estimator import FlowEstimator, make_estimator
from pipeline.flow_benchmark.middlebury import read_known_pair
from pipeline.synthetic.render import WORKING_SIZE, render_frame, true_motion, trusted_mask
from pipeline.synthetic.scenes import SCENES

REFERENCE = {  # end-point error, px, measured independently: RAFT-small with 20 updates, DIS medium
    "RubberWhale": (0.320, 0.226),
    "Hydrangea": (0.320, 0.253),
    "Grove2": (0.349, 0.319),
    "Urban2": (0.525, 0.645),
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TARGETS = 32
"""Targets per source here; a window has 149."""
WINDOWS = 15
"""Windows that share a frame: 150 frames each, one every 10."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--weights", type=Path, help="weights of raft_small; without them errors are not measured"
    )
    parser.add_argument("--middlebury", type=Path, help="folder of Middlebury's pairs")
    options = parser.parse_args()
    one_cpu()
    rounds = 1 if options.quick else options.rounds
    targets, bodies = [], []
    for flow in ("raft_large", "raft_small"):
        new_targets, body = sharing(flow, rounds)
        targets, bodies = targets + new_targets, [*bodies, body]
    if options.weights and options.middlebury:
        new_targets, body = middlebury_table(options.weights, options.middlebury)
        targets, bodies = targets + new_targets, [*bodies, body]
    if options.weights:
        bodies.append(options_table(options.weights))
    report("flow", "Flow", __doc__, "\n\n".join(bodies), targets, keep=not options.quick)


# ---- time


def synchronised(work: Callable[[], Any]) -> Callable[[], None]:
    """Runs the function and waits for the GPU."""

    def run() -> None:
        work()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return run


def sharing(flow: str, rounds: int) -> tuple[list[Target], str]:
    """Measures time per pair, and the largest difference from torchvision's result."""
    torch.manual_seed(0)
    network = (
        (torchvision_import.raft_large if flow == "raft_large" else torchvision_import.raft_small)()
        .eval()
        .to(DEVICE)
    )
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(network.state_dict(), file.name)
        estimator = make_estimator(FlowConfig(flow=flow, weights=file.name, device=DEVICE))
    images = list(
        np.random.default_rng(0).integers(
            0, 256, (TARGETS + 1, WORKING_SIZE[1], WORKING_SIZE[0], 3), dtype=np.uint8
        )
    )
    pixels = torch.from_numpy(np.stack(images[:5])).to(DEVICE).permute(0, 3, 1, 2) / 127.5 - 1
    later = estimator.prepare(images[1:])

    @torch.inference_mode()
    def loop() -> torch.Tensor:
        return torch.cat([network(pixels[:1], target[None])[-1] for target in pixels[1:]])

    def displace() -> torch.Tensor:
        (source,) = estimator.prepare(images[:1])  # a new source: its context is not there yet
        return estimator.displace([(source, target) for target in later])

    off = float((displace()[:4] - loop()).abs().max())
    works = {
        "torchvision, 4 pairs": loop,
        f"Quiver, {TARGETS} pairs": displace,
        "Quiver, 16 frames prepared": lambda: estimator.prepare(images[:16]),
    }
    peer, ours, prepared = interleaved(
        {name: synchronised(work) for name, work in works.items()}, rounds
    ).values()
    pairs = [
        Timing(*(a / TARGETS + b / 16 / WINDOWS for a, b in zip(timing, frame, strict=True)))
        for timing, frame in zip(ours, prepared, strict=True)
    ]
    loops = [Timing(*(a / 4 for a in timing)) for timing in peer]
    clock, cpu = (b / a for a, b in zip(medians(pairs), medians(loops), strict=True))
    ratios = [b.clock / a.clock for a, b in zip(pairs, loops, strict=True)]
    goal = 3 if DEVICE == "cuda" else 1.5
    targets = [
        Target(
            name=f"{flow} on {DEVICE}: torchvision / Quiver, time of a pair",
            goal=goal,
            reached=clock,
            span=(min(ratios), max(ratios)),
            cpu=cpu,
        ),
        Target(
            name=f"{flow}: largest difference from torchvision",
            goal=1e-3,
            reached=off,
            unit="px",
            at_most=True,
        ),
    ]
    rows = [
        (name, 1000 * medians(t).clock, 1000 * medians(t).cpu)
        for name, t in (("torchvision", loops), ("Quiver", pairs))
    ]
    return targets + idle_target(flow, displace), table(
        (f"{flow}, a pair", "ms on the clock", "ms of processor time"), rows
    )


def idle_target(flow: str, work: Callable[[], Any]) -> list[Target]:
    """Share of the time on the clock in which the GPU runs no kernel, where there is one."""
    if DEVICE == "cpu":
        return []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        elapsed = timed(synchronised(work)).clock
    busy = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6
    return [
        Target(
            name=f"{flow}: GPU idle", goal=0.1, reached=1 - busy / elapsed, unit="", at_most=True
        )
    ]


# ---- error


def endpoint_error(computed: Any, true: np.ndarray, valid: np.ndarray) -> float:
    """Mean over valid pixels (and over time), px; `found` is an array or a tensor on any device."""
    computed = computed.cpu().numpy() if isinstance(computed, torch.Tensor) else computed
    return float(np.sqrt(((computed - true) ** 2).sum(-3))[..., valid].mean())


def middlebury_table(weights: Path, folder: Path) -> tuple[list[Target], str]:
    """End-point errors at full resolution, on pixels whose motion is known, beside those measured
    independently.
    """
    estimators = {
        "RAFT-small, 20 updates": make_estimator(raft(weights, updates=20)),
        "DIS medium": make_estimator(FlowConfig()),
    }
    rows, worst = [], dict.fromkeys(estimators, 0.0)
    for pair, known in REFERENCE.items():
        truth = read_known_pair(pair, folder / pair / "flow10.flo")
        row: list[Any] = [pair]
        for (name, estimator), expected in zip(estimators.items(), known, strict=True):
            source, target = estimator.prepare([truth.source, truth.target])
            error = endpoint_error(
                estimator.displace([(source, target)])[0], truth.flow, truth.valid
            )
            row += [error, expected]
            worst[name] = max(worst[name], 100 * abs(error / expected - 1))
        rows.append(row)
    targets = [
        Target(
            name=f"Middlebury, {name}: furthest from its reference",
            goal=5,
            reached=off,
            unit="%",
            at_most=True,
        )
        for name, off in worst.items()
    ]
    return targets, table(
        (
            "Middlebury, end-point error, px",
            *(word for name in estimators for word in (name, "reference")),
        ),
        rows,
    )


def raft(weights: Path, **changes: Any) -> FlowConfig:
    return FlowConfig(**(dict(flow="raft_small", weights=str(weights), device=DEVICE) | changes))


def options_table(weights: Path) -> str:
    """Error and time of each option: the mean over scenes, and the median of the ratios of time to
    the first option.
    """
    cases = {
        "float32, 12 updates": raft(weights),
        "bfloat16, 12 updates": raft(weights, precision="bfloat16"),
    }
    cases |= {f"{updates} updates": raft(weights, updates=updates) for updates in (6, 4, 3)}
    cases |= {
        f"warm start, {updates} updates, batches of {size}": raft(
            weights, updates=updates, warm_start=True, pairs_per_batch=size
        )
        for size in (8, 1)
        for updates in (12, 6, 4, 3)
    }
    estimators = {name: make_estimator(config) for name, config in cases.items()} | {
        "DIS medium": make_estimator(FlowConfig())
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in estimators}
    for scene in sequences():
        for name, estimator in estimators.items():
            found[name].append(tried(estimator, *scene))
    first = found["float32, 12 updates"]
    rows = []
    for name, results in found.items():
        errors, times = zip(*results, strict=True)
        rows.append(
            (
                name,
                mean(errors),
                median(a / b for a, (_, b) in zip(times, first, strict=True)),
                *errors,
            )
        )
    return table(("option of raft_small", "mean error, px", "time to the first", *SCENES), rows)


def sequences() -> Iterable[tuple[list[np.ndarray], np.ndarray, np.ndarray]]:
    """Yields frames, true motion of all but the first, and trustworthy pixels of each scene."""
    times = np.arange(1, TARGETS + 1) / 30
    for make in SCENES.values():
        scene = make(np.random.default_rng(0))
        motion = true_motion(scene, 0.0, times)
        yield (
            [render_frame(scene, t, WORKING_SIZE) for t in (0.0, *times)],
            motion,
            trusted_mask(scene, 0.0, motion, times),
        )


def tried(
    estimator: FlowEstimator, images: list[np.ndarray], true: np.ndarray, valid: np.ndarray
) -> tuple[float, float]:
    """Returns end-point error in px, and processor time (on a GPU, the time on the clock)."""
    frames, flows = estimator.prepare(images), []
    spent = timed(
        synchronised(
            lambda: flows.append(estimator.displace([(frames[0], frame) for frame in frames[1:]]))
        )
    )
    return endpoint_error(flows[0], true, valid), spent.clock if DEVICE == "cuda" else spent.cpu


if __name__ == "__main__":
    main()
