"""From shards to a renderer by the command, which goes on where it stopped."""

import subprocess
import sys
from pathlib import Path

import torch

from model.rendering_task import load_renderer
from tests.datasets import written


def train(*args: str) -> subprocess.CompletedProcess:
    root = Path(__file__).parents[2]
    return subprocess.run([sys.executable, "-m", "jobs.train_renderer", "smoke", *args], cwd=root, capture_output=True, text=True, check=False)


def test_a_training_and_its_end(tmp_path):
    written(tmp_path / "data", {"train-000000": [{}] * 3, "test-000000": [{}]})
    args = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--decay", "0", "--loader-workers", "0", "--log-every", "2"]
    first, second = train(*args, "--steps", "2"), train(*args, "--steps", "4")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert '"step": 2' in first.stdout
    assert '"step": 4' in second.stdout and '"step": 2' not in second.stdout and "test_psnr_db" in second.stdout
    assert "without --imagenet the encoder begins at random" in first.stderr
    network, passed = load_renderer(tmp_path / "out")
    image = torch.zeros(1, 3, 32, 40)
    assert network(image, image[:, :2], image[:, :1], network.noise(1)).shape == image.shape
    assert passed == []


def test_a_loss_without_its_network_is_refused(tmp_path):
    refused = train("--data", str(tmp_path), "--out", str(tmp_path / "out"), "--perceptual-weight", "1")
    assert refused.returncode == 2
    assert "vgg is missing, expected the file" in refused.stderr
