"""Trains a network of your own on a dataset: python examples/train_network.py demo/dataset

The network guesses from a picture how much each pixel moves at the lowest frequencies. It is a toy:
`quiver train-denoiser` trains the motion prior of the paper.
"""

import sys

import torch
from torch.utils.data import DataLoader

from pipeline.dataset import open_dataset

BANDS = slice(1, 4)
"""Frequencies of which the network guesses the amplitude; 0 is the mean offset."""


def main(path: str, steps: str = "50") -> None:
    """Prints the loss on the way."""
    torch.manual_seed(0)
    samples = open_dataset(path).to_torch(split="train")
    loader = DataLoader(samples, batch_size=4, shuffle=True)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 5, padding=2),
        torch.nn.SiLU(),
        torch.nn.Conv2d(32, 32, 5, padding=2),
        torch.nn.SiLU(),
        torch.nn.Conv2d(32, 1, 1),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    step = 0
    while step < int(steps):
        for batch in loader:
            target = batch["spectrum"][:, BANDS].abs().mean(dim=(1, 2))
            loss = (network(batch["image"])[:, 0] - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step % 10 == 0:
                print(f"step {step}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
