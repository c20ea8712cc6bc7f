"""The device that networks run on; nothing falls back to the CPU by itself."""

import torch


def check_device(device: str, option: str = "--device") -> None:
    """Raises ValueError naming the option if it asks for a GPU and torch finds none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{option} is cuda and there is no GPU that torch can use, expected cpu")
