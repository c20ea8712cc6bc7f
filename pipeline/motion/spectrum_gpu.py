"""Sums up spectral volumes on the device where the flow is computed: displacements stay there, and
only their sums are copied to this process.
"""

from typing import Any

import numpy as np
import torch

from pipeline.motion.spectrum import PRODUCT_ROWS, RunningSpectrum


class DeviceSpectrum(RunningSpectrum):
    """A `RunningSpectrum` of torch tensors. Only `synchronize` waits for the device."""

    def __init__(self, *args: Any, device: str, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.sums, self.magnitude, self.energy = (
            torch.from_numpy(array).to(device) for array in (self.sums, self.magnitude, self.energy)
        )

    def to_device(self, array: np.ndarray) -> torch.Tensor:
        """The array as float32, on the device of the sums."""
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(
            self.sums.device, non_blocking=True
        )

    def _add_coefficients(self, block: Any, basis: np.ndarray) -> None:
        for sums, rows in zip(
            self.sums, self.to_device(basis).reshape(-1, PRODUCT_ROWS, len(block)), strict=True
        ):
            sums.addmm_(block.reshape(len(block), -1).T, rows.T)

    def _add_magnitude(self, block: Any, weights: np.ndarray) -> None:
        self.magnitude += torch.einsum(
            "b,bhw->hw", self.to_device(weights), torch.linalg.vector_norm(block, dim=1)
        )

    def _add_energy(self, block: Any) -> None:
        diagonal, off_diagonal = map(self.to_device, self._gram_weights(len(block)))
        frames = torch.cat([block[:1] if self.last_frame is None else self.last_frame, block])
        squares = block.square().sum(dim=(2, 3), dtype=torch.float64)
        products = (frames[1:] * frames[:-1]).sum(dim=(2, 3), dtype=torch.float64)
        self.energy += diagonal.double() @ squares
        self.energy += 2 * off_diagonal.double() @ products
        self.last_frame = block[-1:].clone()

    def synchronize(self) -> None:
        self.sums, self.magnitude, self.energy = (
            array.cpu().numpy() for array in (self.sums, self.magnitude, self.energy)
        )
        self.grid_blocks = [torch.cat(self.grid_blocks).cpu().numpy()]
