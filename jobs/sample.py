#!/usr/bin/env python
"""Samples motion for a photograph from a trained prior.

    quiver sample photo.jpg --checkpoint prior --out motion.safetensors --steps 50
    quiver animate photo.jpg --motion motion.safetensors --out film.mp4

The prior is the folder of a `quiver train-denoiser`; --seed N gives another motion. With a prior of
the smoke preset it takes seconds on a CPU; with a larger one use --device cuda. The middle of the
photograph is taken at the working size. The file has the coefficients in pixels of that size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jobs.cli.args import check_output_file, parse_args
from jobs.cli.console import print_message, print_output
from jobs.cli.errors import error_boundary
from model.prior.inference import check_device, load_prior, sample_motion
from pipeline.atomic_files import replace_file
from pipeline.images.photo import crop_and_resize, read_photograph
from schemas.spectral_volume import SpectralVolume, encode_volume


@dataclass(frozen=True, kw_only=True)
class Sample:
    photo: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PHOTO")]
    """The photograph."""
    checkpoint: Path
    """Folder of a trained denoiser."""
    out: Path
    """File to write, .safetensors."""
    seed: int = 0
    """Seed; another one gives another motion."""
    steps: int = 250
    """Steps of DDIM sampling, 1 to 1000. The paper uses 250; 50 are nearly as good."""
    guidance: float = 1.0
    """Weight of classifier-free guidance, -1 to 100; 0 is none."""
    device: Literal["cuda", "cpu"] = "cpu"
    """Device on which the networks run."""

    def __post_init__(self):
        if self.out.suffix != ".safetensors":
            raise ValueError(f"--out is {self.out}, expected a name that ends in .safetensors")
        if not 1 <= self.steps <= 1000:
            raise ValueError(f"--steps is {self.steps}, expected 1 to 1000")
        if not -1 <= self.guidance <= 100 or self.seed < 0:
            raise ValueError(
                f"--guidance is {self.guidance:g} and --seed {self.seed},"
                " expected -1 to 100 and at least 0"
            )


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(Sample, "quiver sample", args, description=__doc__)
        check_device(job.device)
        check_output_file("--out", job.out)
        prior, skipped_checkpoints = load_prior(job.checkpoint)
        for sentence in skipped_checkpoints:
            print_message(sentence)
        image = crop_and_resize(read_photograph(job.photo), prior.normalizer.size)
        (spectrum,) = sample_motion(
            prior, [image], [job.seed], steps=job.steps, guidance=job.guidance, device=job.device
        )
        volume = SpectralVolume(
            spectrum=spectrum,
            fps=prior.normalizer.fps,
            frames=prior.normalizer.frames,
            provenance=dict(
                by="quiver sample",
                photo=job.photo.name,
                seed=job.seed,
                steps=job.steps,
                guidance=job.guidance,
            ),
        )
        replace_file(job.out, encode_volume(volume))
        width, height = prior.normalizer.size
        print_output(f"{job.out}: {len(spectrum)} frequencies at {width}x{height}")


if __name__ == "__main__":
    main()
