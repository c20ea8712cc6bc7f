"""Inference imports neither the trainer nor the index of shards: using a checkpoint needs no
dataset.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "module", ["model.prior.inference", "model.render.inference", "jobs.animate"]
)
def test_inference_loads_neither_training_nor_its_data(module):
    """In a process of its own, since other tests have imported everything."""
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert module in loaded and "model.checkpoints" in loaded
    packages = ("model.train", "model.data")
    assert not [name for name in loaded if name.startswith(packages)]
    if module == "model.render.inference":
        assert not [name for name in loaded if name.startswith("model.prior")]
