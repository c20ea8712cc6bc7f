"""A batch that cannot be handed over is an error, not endless waiting."""

import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from model.data import handover


class Odd(Dataset):
    """An object whose second item cannot be sent to another process."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> object:
        return (lambda: None) if index else torch.zeros(3)


@pytest.mark.timeout(60)
def test_an_item_that_is_lost_on_the_way_is_missed():
    before = signal.getsignal(signal.SIGCHLD)
    loader = DataLoader(
        Odd(), batch_size=None, num_workers=1, worker_init_fn=handover.exit_on_lost_batch
    )
    items = handover.receive_batches(loader)
    with pytest.raises(OSError, match=r"a process that reads ahead died, .*--loader-workers 0"):
        list(items)
    assert signal.getsignal(signal.SIGCHLD) == before


def test_what_reading_raises_is_raised_as_it_is():
    class Broken(Dataset):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> object:
            raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        next(handover.receive_batches(DataLoader(Broken(), batch_size=None, num_workers=1)))


def test_in_the_process_that_trains_nothing_is_shared():
    batch = (torch.zeros(3), ("key",))
    assert handover.share_batch(batch) is batch and not batch[0].is_shared()
