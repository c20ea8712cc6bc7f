"""Images and latents: what the denoiser is trained on when its frozen autoencoder has encoded every
sample beforehand.

Encoding takes about 40 % of a step. Here each sample is encoded in a few variants, all frequencies
under as many augmentations, and the epochs take turns with them; colors are drawn anew in each.

    FOLDER/latents-KEY/VARIANT.npy   float16 [samples, K, channels, h, w], whitened latents

KEY names the autoencoder's weights, the samples and everything else that latents depend on.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from model.checkpoints import digest_weights
from model.data.augment import augment_image, draw_augmentation, warp_mask
from model.data.loader import ShardDataset
from model.data.order import SampleDraw
from model.data.shard_reader import read_believed, read_image
from model.data.spectra import SpectrumDataset, draw_bands
from model.prior.autoencoder import SliceAutoencoder
from model.train.distributed import current_group
from pipeline.atomic_files import open_to_replace, to_json

_SLICES_AT_ONCE = 4


class LatentBatch(NamedTuple):
    image: Float32[Tensor, "batch 3 height width"]
    """RGB, -1 to 1."""
    latents: Float32[Tensor, "batch freq channels h w"]
    """Whitened latents."""
    frequency_index: Int64[Tensor, "batch freq"]
    """Which frequencies these are, counted from 0."""
    believed: Float32[Tensor, "batch height width"]
    """1 where the flow is believed, else 0."""
    keys: tuple[str, ...]


class LatentDataset(ShardDataset):
    """The samples of `spectra` as `LatentBatch`, from the files of `latent_paths`, with `drawn`
    of the frequencies of each, or all.
    """

    def __init__(self, spectra: SpectrumDataset, paths: Sequence[Path], drawn: int | None = None):
        self.size, self.views = spectra.size, spectra.views
        self.shard_index, self.files = spectra.shard_index, spectra.files
        self.augment, self.paths, self.drawn = spectra.config.augment, list(paths), drawn
        for path in paths:
            shape = np.lib.format.open_memmap(path, "r").shape
            if len(shape) != 5 or shape[:2] != (len(self), spectra.frequencies):
                raise ValueError(
                    f"{path} has the shape {shape}, expected latents of {len(self)} samples at "
                    f"{spectra.frequencies} frequencies: remove its folder"
                )

    def batch(self, draws: Sequence[SampleDraw]) -> LatentBatch:
        """These samples, each in the variant whose turn it is."""
        width, height = self.size
        image = np.empty((len(draws), 3, height, width), np.float32)
        latents, bands, believed = [], [], []
        for draw, channels in zip(draws, image, strict=True):
            variant, rng = (draw.epoch + draw.repeat) % len(self.paths), draw.rng()
            stored = np.lib.format.open_memmap(self.paths[variant], "r")[draw.sample_index]
            bands.append(draw_bands(len(stored), self.drawn, rng))
            latents.append(stored[bands[-1]].astype(np.float32))
            # the variant's crop and mirror, as its motion has them, in colors of this draw
            variant_rng = SampleDraw(0, variant, draw.sample_index).rng()
            crop = draw_augmentation(self.augment, self.size, variant_rng)
            colors = draw_augmentation(self.augment, self.size, rng)
            location = self.shard_index[draw.sample_index]
            mask = read_believed(self.files, location, self.size)
            believed.append(warp_mask(mask, crop.affine))
            pixels = read_image(self.files, location, self.size)
            cv2.split(augment_image(pixels, colors._replace(affine=crop.affine)), list(channels))
        return LatentBatch(
            torch.from_numpy(image),
            torch.from_numpy(np.stack(latents)),
            torch.tensor(bands),
            torch.from_numpy(np.stack(believed)),
            self.keys(draws),
        )


def latent_paths(
    spectra: SpectrumDataset, autoencoder: SliceAutoencoder, folder: Path, variants: int
) -> list[Path]:
    """The file of each variant, whether or not it is there yet."""
    goal = folder / f"latents-{_latent_key(spectra, autoencoder)}"
    return [goal / f"{variant}.npy" for variant in range(variants)]


def encode_latents(
    spectra: SpectrumDataset,
    autoencoder: SliceAutoencoder,
    paths: Sequence[Path],
    device: torch.device | str = "cpu",
) -> Iterator[Path]:
    """Encodes the samples of `spectra`, which has all frequencies of each, into the files of
    `latent_paths` that are missing; yields each when it is complete. Processes that train together
    share the files out, and wait for those of the others.
    """
    group = current_group()
    autoencoder, factor = autoencoder.to(device), autoencoder.downsampling_factor
    width, height = (length // factor for length in spectra.size)
    channels = autoencoder.config.latent_channels
    shape = len(spectra), spectra.frequencies, channels, height, width
    for variant, path in enumerate(paths):
        if variant % group.world_size == group.rank and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open_to_replace(path) as file:
                header = dict(descr="<f2", fortran_order=False, shape=shape)
                np.lib.format.write_array_header_1_0(file, header)
                for index in range(len(spectra)):
                    spectrum = spectra.batch([SampleDraw(0, variant, index)]).spectrum
                    # of few slices at a time the activations stay in a processor's cache
                    for slices in spectrum[0].split(_SLICES_AT_ONCE):
                        with torch.no_grad():
                            latents = autoencoder.encode_white(slices.to(device))
                        file.write(latents.half().cpu().numpy().tobytes())
            yield path
    # not by a barrier, whose time is limited: if a process dies, its launcher stops the others
    while not all(path.exists() for path in paths):
        time.sleep(1)


def _latent_key(spectra: SpectrumDataset, autoencoder: SliceAutoencoder) -> str:
    """A digest of all that the latents of these samples depend on."""
    parts = dict(
        autoencoder=digest_weights(autoencoder.state_dict()),
        scale=spectra.scale.tolist(),
        normalisation=spectra.config.normalisation,
        augment=asdict(spectra.config.augment),
        shards=[shard.digest for shard in spectra.shard_index.shards],
        keys=[key.decode() for key in spectra.shard_index.keys.tolist()],
    )
    return hashlib.sha256(to_json(parts)).hexdigest()[:16]
