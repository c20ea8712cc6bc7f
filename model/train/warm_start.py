"""The weights that a training begins with: fresh ones by its seed, or those of another training."""

from pathlib import Path

import torch
from torch import nn

from model.checkpoints import summarize_error
from model.train.training_loop import TrainConfig


def seed_weights(config: TrainConfig) -> None:
    """Seeds torch, so that networks which are built next have the same fresh weights on every rank
    and in every attempt.
    """
    torch.manual_seed(config.seed)


def load_matching_weights(network: nn.Module, trained: nn.Module, path: Path) -> None:
    """Gives `network` the weights of `trained`, which was loaded from --start `path`. Raises
    ValueError if they are different networks.
    """
    prediction, trained_prediction = (
        getattr(getattr(module, "config", None), "prediction", None)
        for module in (network, trained)
    )
    if prediction != trained_prediction:
        raise ValueError(
            f"--start is {path}, whose network predicts the {trained_prediction}, "
            f"and --prediction is {prediction}"
        )
    try:
        network.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"--start is {path}, whose network is another one: {summarize_error(error)}"
        ) from error
