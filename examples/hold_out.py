"""Prints the scenes that a fold holds out, one a line, as `quiver refilter --without` takes them.

python examples/hold_out.py DATASET FOLD FOLDS

A scene is a source, or a clip without one. Which fold it is in depends on its name alone.
"""

import sys

from model.data.scenes import scene_digest
from pipeline.dataset import open_dataset

path, fold, folds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
table = open_dataset(path).read_table(columns=["clip_id", "source"]).to_pylist()
scenes = {row["source"] or row["clip_id"] for row in table}
in_order = sorted(scenes, key=lambda scene: scene_digest(scene, ""))
print("\n".join(in_order[fold::folds]))
