"""What renderers make of the later frames of clips that they have not seen: PSNR and SSIM, side by
side, by clip.

    python -m benchmarks.rendering RENDERER ... --data DATASET ... [--windows 8]

Each RENDERER is the folder of a training. Beside them stand what has nothing to learn: the
photograph itself (still), the mean of splatted colors (average_rgb) and softmax splatting of
colors, as `quiver animate` does it without a network (softmax_rgb). Of each clip of the test split
so many windows, spread over all, with each of their later frames. The worst pair stands beside the
mean. Last come the frames a second of each at batch 1.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.evaluate.image_quality import psnr, ssim
from model.render.inference import load_renderer, to_unit_range
from model.render.renderer import Renderer, RendererConfig
from model.render.warp import warp_frame
from pipeline.dataset.open import iter_samples, open_dataset
from schemas.sample import Sample


class Scores(NamedTuple):
    psnr: list[float]
    ssim: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("renderers", nargs="*", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--windows", type=int, default=8, help="of each clip, at most")
    options = parser.parse_args()
    networks = {"average_rgb": Renderer(RendererConfig(mode="average_rgb"))} | {
        path.name: load_renderer(path) for path in options.renderers
    }
    scores_by_clip: dict[str, dict[str, Scores]] = defaultdict(
        lambda: defaultdict(lambda: Scores([], []))
    )
    for sample in tested(options.data, options.windows):
        for pair in range(len(sample.pair_image)):
            true = picture(sample.pair_image[pair])
            for name, image in every_way(networks, sample, pair):
                scores = scores_by_clip[clip_of(sample)][name]
                scores.psnr.append(float(psnr(image, true).clamp(max=99)))
                scores.ssim.append(float(ssim(image, true)))
    for clip, rows in scores_by_clip.items():
        print(
            f"\n{clip}, {len(next(iter(rows.values())).psnr)} pairs\n"
            f"{'':<40}{'PSNR':>8}{'worst':>8}{'SSIM':>8}{'worst':>8}"
        )
        for name, scores in rows.items():
            print(
                f"{name:<40}{np.mean(scores.psnr):8.2f}{min(scores.psnr):8.2f}{np.mean(scores.ssim):8.4f}{min(scores.ssim):8.4f}",
                flush=True,
            )
    print(
        "\nframes a second, one at a time, features made once:",
        {name: round(frames_a_second(network, sample), 1) for name, network in networks.items()},
    )


def tested(data: str, windows: int) -> Iterator[Sample]:
    """Selects so many windows of each clip of the test split, spread evenly."""
    selection = open_dataset(data)
    by_clip: dict[str, list[Sample]] = defaultdict(list)
    for shard, entry in selection.read_index().shards.items():
        for sample in iter_samples(selection, shard) if entry.split == "test" else ():
            by_clip[clip_of(sample)].append(sample)
    for samples in by_clip.values():
        for i in sorted(
            {round(i) for i in np.linspace(0, len(samples) - 1, min(windows, len(samples)))}
        ):
            yield samples[i]


def clip_of(sample: Sample) -> str:
    return sample.key.rpartition("-")[0]


def every_way(
    networks: dict[str, Renderer], sample: Sample, pair: int
) -> Iterator[tuple[str, Tensor]]:
    """Renders the later frame with each of them, RGB in 0 to 1."""
    yield "still", picture(sample.image)
    flow, weight = sample.pair_flow[pair].astype(np.float32), sample.weight.astype(np.float32)
    yield "softmax_rgb", picture(warp_frame(sample.image, flow, weight))
    for name, network in networks.items():
        noise = network.sample_noise(1, torch.Generator().manual_seed(0))
        with torch.no_grad():
            rendered = network(
                2 * picture(sample.image) - 1,
                torch.from_numpy(flow)[None],
                torch.from_numpy(weight)[None, None],
                noise,
            )
        yield name, to_unit_range(rendered.clamp(-1, 1))


def picture(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous().float() / 255


def frames_a_second(network: Renderer, sample: Sample, count: int = 20) -> float:
    image, flow = (
        2 * picture(sample.image) - 1,
        torch.from_numpy(sample.pair_flow[0].astype(np.float32))[None],
    )
    weight, noise = (
        torch.from_numpy(sample.weight.astype(np.float32))[None, None],
        network.sample_noise(1),
    )
    with torch.no_grad():
        features = network.encode(image)
        begin = perf_counter()
        for _ in range(count):
            network.synthesize(network.warp(image, features, flow, weight), noise)
    return count / (perf_counter() - begin)


if __name__ == "__main__":
    main()
