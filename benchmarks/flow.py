"""RAFT as it is arranged here against a loop over torchvision's own model, and the error of each estimator and option.

python benchmarks/flow.py [--weights FILE] [--middlebury FOLDER] [--rounds 7] [--out FILE.json]

FILE: weights of raft_small. FOLDER: folders with frame10.png, frame11.png and flow10.flo. Times on the CPU are those of
its one thread, in CPU seconds, so that what else the machine does counts little.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image

from pipeline import vision
from pipeline.flow import FlowConfig, FlowEstimator, make_estimator
from pipeline.scenery import SCENES
from pipeline.synthetic import WORKING, render, true_motion, trustworthy

REFERENCE = {  # end-point error, px: RAFT-small with 20 updates, DIS medium
    "RubberWhale": (0.320, 0.226),
    "Hydrangea": (0.320, 0.253),
    "Grove2": (0.349, 0.319),
    "Urban2": (0.525, 0.645),
}
TARGETS = 32
"""Targets per source here; a window has 149."""
WINDOWS = 15
"""Windows that share a frame: 150 frames each, one every 10."""
UNKNOWN = 1e9


@dataclass(frozen=True, kw_only=True)
class Settings:
    weights: Path | None = None
    """A file of weights of raft_small; without one, errors are not measured."""
    middlebury: Path | None = None
    rounds: int = 7
    """Of each timing, interleaved."""
    out: Path | None = None
    """Where the numbers go as JSON."""


def main(argv: Sequence[str] | None = None) -> None:
    settings = tyro.cli(Settings, args=argv)
    found = measure(settings)
    if settings.out:
        settings.out.write_text(json.dumps(found, indent=2) + "\n")


def measure(settings: Settings) -> dict[str, Any]:
    """All measurements that the settings allow, printed as Markdown tables and returned."""
    found: dict[str, Any] = {"sharing": [sharing(flow, settings.rounds) for flow in ("raft_large", "raft_small")]}
    table("RAFT against a loop over torchvision's model, 256x160, 12 updates", found["sharing"])
    if settings.weights is None:
        print("\nErrors are not measured: no --weights.")
        return found
    if settings.middlebury is None:
        print("\nMiddlebury is not measured: no --middlebury.")
    else:
        found["middlebury"] = [middlebury(folder, settings.weights) for folder in sorted(settings.middlebury.iterdir()) if folder.is_dir()]
        table("End-point error on Middlebury, px", found["middlebury"])
    found["options"] = options(settings.weights)
    table("raft_small on procedural scenes, one source and consecutive targets at 30 frames a second", found["options"])
    return found


def table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Numbers with four digits."""
    print(f"\n{title}\n\n| {' | '.join(rows[0])} |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        print("|", " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row.values()), "|", flush=True)


# ---- time


def seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of this process, or those on the clock until a GPU is done."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    start = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def interleaved(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each, all of them in every round, after one unmeasured round."""
    times = [{name: seconds(work) for name, work in works.items()} for _ in range(rounds + 1)][1:]
    return {name: statistics.median(one[name] for one in times) for name in works}


def sharing(flow: str, rounds: int) -> dict[str, Any]:
    """Seconds per pair with random weights; preparing a frame is shared by the windows that need it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    network = (vision.raft_large if flow == "raft_large" else vision.raft_small)().eval().to(device)
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(network.state_dict(), file.name)
        estimator = make_estimator(FlowConfig(flow=flow, weights=file.name, device=device, pairs_per_batch=32 if device == "cuda" else 8))
    images = list(np.random.default_rng(0).integers(0, 256, (TARGETS + 1, WORKING[1], WORKING[0], 3), dtype=np.uint8))
    pixels = torch.from_numpy(np.stack(images[:5])).to(device).permute(0, 3, 1, 2) / 127.5 - 1
    targets = estimator.prepare(images[1:])

    @torch.inference_mode()
    def loop() -> None:
        for target in pixels[1:]:
            network(pixels[:1], target[None])

    def displace() -> None:
        (source,) = estimator.prepare(images[:1])  # a new source: its context is not there yet
        estimator.displace([(source, target) for target in targets])

    times = interleaved({"loop": loop, "prepare": lambda: estimator.prepare(images[:8]), "displace": displace}, rounds)
    peer, ours = times["loop"] / 4, times["displace"] / TARGETS + times["prepare"] / 8 / WINDOWS
    busy = {"busy share": busy_share(displace)} if device == "cuda" else {}
    return {"network": flow, "torchvision s/pair": peer, "quiver s/pair": ours, "times faster": peer / ours, "device": device} | busy


def busy_share(work: Callable[[], Any]) -> float:
    """Share of the time on the clock in which the GPU runs a kernel."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        elapsed = seconds(work)
    return sum(event.self_device_time_total for event in profile.key_averages()) / 1e6 / elapsed


# ---- error


def read_flow(path: Path) -> np.ndarray:
    """[2, H, W], pixels, of a Middlebury .flo file."""
    data = path.read_bytes()
    width, height = np.frombuffer(data, "<i4", 2, 4)
    return np.moveaxis(np.frombuffer(data, "<f4", width * height * 2, 12).reshape(height, width, 2), 2, 0)


def endpoint_error(found: Any, true: np.ndarray, valid: np.ndarray) -> float:
    """Mean over valid pixels (and over time), px; `found` is an array or a tensor on any device."""
    found = found.cpu().numpy() if isinstance(found, torch.Tensor) else found
    return float(np.sqrt(((found - true) ** 2).sum(-3))[..., valid].mean())


def middlebury(folder: Path, weights: Path) -> dict[str, Any]:
    """At full resolution, on pixels whose motion is known, beside the errors that were measured independently."""
    images = [np.asarray(Image.open(folder / name).convert("RGB")) for name in ("frame10.png", "frame11.png")]
    true = read_flow(folder / "flow10.flo")
    valid = (np.abs(true) < UNKNOWN).all(0)
    row: dict[str, Any] = {"pair": folder.name}
    estimators = [make_estimator(raft(weights, updates=20)), make_estimator(FlowConfig(flow="dis", dis_preset="medium"))]
    for name, estimator, known in zip(("RAFT-small", "DIS medium"), estimators, REFERENCE[folder.name], strict=True):
        source, target = estimator.prepare(images)
        error = endpoint_error(estimator.displace([(source, target)])[0], true, valid)
        row |= {name: error, f"{name}, reference": known, f"{name}, off by": f"{error / known - 1:+.1%}"}
    return row


def raft(weights: Path, **changes: Any) -> FlowConfig:
    return FlowConfig(**(dict(flow="raft_small", weights=str(weights), device="cuda" if torch.cuda.is_available() else "cpu") | changes))


def options(weights: Path) -> list[dict[str, Any]]:
    """Error and time of each option, the mean over scenes and the median of each scene's ratio of time to the first."""
    cases = {"float32, 12 updates": raft(weights), "bfloat16, 12 updates": raft(weights, precision="bfloat16")}
    for updates in (6, 4, 3):
        cases[f"{updates} updates"] = raft(weights, updates=updates)
    for size in (8, 1):
        for updates in (12, 6, 4, 3):
            cases[f"warm start, {updates} updates, batches of {size}"] = raft(weights, updates=updates, warm_start=True, pairs_per_batch=size)
    estimators = {name: make_estimator(config) for name, config in cases.items()} | {"dis medium": make_estimator(FlowConfig())}
    found = {name: [] for name in estimators}
    for scene in sequences():
        for name, estimator in estimators.items():
            found[name].append(tried(estimator, *scene))
    return list(summaries(found))


def sequences() -> Iterable[tuple[list[np.ndarray], np.ndarray, np.ndarray]]:
    """(frames, true motion of all but the first, trustworthy pixels) of each scene."""
    times = np.arange(1, TARGETS + 1) / 30
    for make in SCENES.values():
        scene = make(np.random.default_rng(0))
        motion = true_motion(scene, 0.0, times)
        yield [render(scene, t, WORKING) for t in (0.0, *times)], motion, trustworthy(scene, 0.0, motion, times)


def tried(estimator: FlowEstimator, images: list[np.ndarray], true: np.ndarray, valid: np.ndarray) -> tuple[float, float]:
    """(end-point error, seconds per pair)"""
    frames, found = estimator.prepare(images), []
    spent = seconds(lambda: found.append(estimator.displace([(frames[0], one) for one in frames[1:]])))
    return endpoint_error(found[0], true, valid), spent / TARGETS


def summaries(found: dict[str, list[tuple[float, float]]]) -> Iterable[dict[str, Any]]:
    first = next(iter(found.values()))
    for name, results in found.items():
        errors, times = zip(*results, strict=True)
        by_scene = dict(zip(SCENES, errors, strict=True))
        ratio = statistics.median(time / known for time, (_, known) in zip(times, first, strict=True))
        yield {"option": name, "mean error px": statistics.mean(errors), "s/pair": statistics.median(times), "time to the first": ratio} | by_scene


if __name__ == "__main__":
    main()
