"""The running sums on the device where the flow is computed: displacements never come down, only
their sums do.
"""

import time
from typing import Any

import numpy as np
import torch

from pipeline.motion.spectrum import PRODUCT_ROWS, RunningSpectrum


class DeviceSpectrum(RunningSpectrum):
    """`RunningSpectrum` of torch tensors. `add` does not wait for the device, `synchronize` does."""

    def __init__(self, *args: Any, device: str, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.sums, self.magnitude, self.energy = (
            torch.from_numpy(a).to(device) for a in (self.sums, self.magnitude, self.energy)
        )

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        """Float32, beside the sums."""
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(
            self.sums.device, non_blocking=True
        )

    def _add_coefficients(self, block: Any, basis: np.ndarray) -> None:
        for sums, rows in zip(
            self.sums, self._to_device(basis).reshape(-1, PRODUCT_ROWS, len(block)), strict=True
        ):
            sums.addmm_(block.reshape(len(block), -1).T, rows.T)

    def _add_magnitude(self, block: Any, weights: np.ndarray) -> None:
        self.magnitude += torch.einsum(
            "b,bhw->hw", self._to_device(weights), torch.linalg.vector_norm(block, dim=1)
        )

    def _add_energy(self, block: Any) -> None:
        alone, across = self._gram_weights(len(block))
        steps = torch.cat([block[:1] if self.last_frame is None else self.last_frame, block])
        self.energy += self._to_device(alone).double() @ block.square().sum(
            dim=(2, 3), dtype=torch.float64
        )
        self.energy += (
            2
            * self._to_device(across).double()
            @ (steps[1:] * steps[:-1]).sum(dim=(2, 3), dtype=torch.float64)
        )
        self.last_frame = block[-1:].clone()

    def synchronize(self) -> None:
        self.sums, self.magnitude, self.energy = (
            a.cpu().numpy() for a in (self.sums, self.magnitude, self.energy)
        )
        self.grid_blocks = [torch.cat(self.grid_blocks).cpu().numpy()]


def list_gpus() -> list[str]:
    """Each GPU with its memory. Raises RuntimeError where there is one on which torch cannot
    compute.
    """
    found = []
    for i in range(torch.cuda.device_count()):
        torch.ones(8, device=f"cuda:{i}").sum().item()
        found.append(f"{torch.cuda.get_device_name(i)} ({torch.cuda.mem_get_info(i)[1] >> 30} GiB)")
    return found


class BusyClock:
    """How long a device works, by events in its queue; a CPU counts as busy while it is asked to
    work.
    """

    def __init__(self, device: str):
        self.cuda = device.startswith("cuda")
        self.start_s, self.busy_s = time.monotonic(), 0.0
        self.events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __enter__(self) -> None:
        self.entry_s = time.monotonic()
        if self.cuda:
            self.events.append(
                (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            )
            self.events[-1][0].record()

    def __exit__(self, *_: object) -> None:
        if self.cuda:
            self.events[-1][1].record()
        else:
            self.busy_s += time.monotonic() - self.entry_s

    def idle_share(self) -> float:
        """Share of the time since the clock was made in which the device had nothing to do, 0 to 1.
        Waits for it.
        """
        if self.cuda:
            torch.cuda.synchronize()
            self.busy_s = sum(before.elapsed_time(after) for before, after in self.events) / 1000
        return max(0.0, 1 - self.busy_s / (time.monotonic() - self.start_s))
