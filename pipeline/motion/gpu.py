"""Lists the GPUs, and measures how much of the time a device is busy."""

import time

import torch


def list_gpus() -> list[str]:
    """Name and memory of each GPU. Raises RuntimeError if torch cannot compute on one of them."""
    gpus = []
    for i in range(torch.cuda.device_count()):
        torch.ones(8, device=f"cuda:{i}").sum().item()
        gpus.append(f"{torch.cuda.get_device_name(i)} ({torch.cuda.mem_get_info(i)[1] >> 30} GiB)")
    return gpus


class BusyClock:
    """Measures how long a device works on what is enqueued in `with` blocks.

    A GPU is timed by events in its queue, without waiting for it; a CPU counts as busy during the
    block.
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
        Waits for the device.
        """
        if self.cuda:
            torch.cuda.synchronize()
            self.busy_s = sum(before.elapsed_time(after) for before, after in self.events) / 1000
        return max(0.0, 1 - self.busy_s / (time.monotonic() - self.start_s))
