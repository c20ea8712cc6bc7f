"""Which windows of the datasets a prior has not seen, and which it was trained on."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Complex64

from model.data.scenes import scene_digest
from model.evaluate.prior.measures import RealMotion
from model.normalizer import SpectrumNormalizer
from pipeline.dataset.open import DatasetSample, DatasetView
from pipeline.flow.consistency import BELIEVED
from schemas.outcome import Outcome


@dataclass(frozen=True)
class EvaluationWindow:
    """A kept window of a dataset, which is read when it is asked for."""

    view: DatasetView
    index: int
    """Its number in the view."""
    key: str
    clip_id: str
    scene: str
    """The digest of its scene (model/data/scenes.py)."""
    split: str
    start_s: float
    """Seconds after the first frame of its clip."""

    def load(self) -> DatasetSample:
        """The sample. Raises ValueError if it is damaged."""
        return self.view[self.index]


def list_windows(views: Sequence[DatasetView]) -> list[EvaluationWindow]:
    """The kept windows of both splits. Raises ValueError if a manifest is missing or damaged, or if
    two of the views are of one dataset.
    """
    roots = [view.dataset.root.resolve() for view in views]
    if len({*roots}) < len(roots):
        raise ValueError(
            f"{', '.join(map(str, views))} name a dataset twice, expected each window once"
        )
    columns = ["key", "clip_id", "source", "split", "start_time_s"]
    kept: Any = [("outcome", "=", Outcome.KEPT.value)]  # in the order of `DatasetView.__getitem__`
    return [
        EvaluationWindow(
            view=view,
            index=index,
            key=row["key"],
            clip_id=row["clip_id"],
            scene=scene_digest(row["source"], row["clip_id"]),
            split=row["split"],
            start_s=row["start_time_s"],
        )
        for view in views
        for index, row in enumerate(view.read_table(columns=columns, filters=kept).to_pylist())
    ]


def is_held_out(window: EvaluationWindow, trained_scenes: Collection[str] | None) -> bool:
    """Whether a prior that was trained on these scenes has not seen the window; if nobody knows the
    scenes, its split decides.
    """
    if trained_scenes is None:
        return window.split == "test"
    return window.scene not in trained_scenes


def spread_over_scenes(
    windows: Sequence[EvaluationWindow], per_scene: int
) -> list[EvaluationWindow]:
    """At most `per_scene` windows of each scene, evenly spread over its clips and their time."""
    by_scene = defaultdict(list)
    for window in windows:
        by_scene[window.scene].append(window)
    chosen = []
    for _, group in sorted(by_scene.items()):
        group.sort(key=lambda window: (window.clip_id, window.start_s))
        count = min(per_scene, len(group))
        chosen += [group[int((i + 0.5) * len(group) / count)] for i in range(count)]
    return chosen


def find_other_window(
    window: EvaluationWindow, windows: Sequence[EvaluationWindow], half_s: float
) -> EvaluationWindow | None:
    """Another window of the same clip: the nearest in time of those that start at least `half_s`,
    half a window, from this one, or else the farthest; None if there is no other.
    """
    others = [
        (abs(other.start_s - window.start_s), other)
        for other in windows
        if (other.view, other.clip_id) == (window.view, window.clip_id) and other != window
    ]
    apart = [pair for pair in others if pair[0] >= half_s]
    if apart:
        return min(apart, key=lambda pair: pair[0])[1]
    return max(others, key=lambda pair: pair[0])[1] if others else None


def read_spectrum(
    sample: DatasetSample, frequencies: int
) -> Complex64[np.ndarray, "freq 2 height width"]:
    """The lowest `frequencies` of the spectrum, pixels."""
    return sample.spectrum[:frequencies]


def read_real_motion(sample: DatasetSample, frequencies: int) -> RealMotion:
    """The measured motion, of the lowest `frequencies`."""
    return RealMotion(
        spectrum=read_spectrum(sample, frequencies),
        believed=sample.stored.confidence >= BELIEVED,
        frames=sample.frames,
    )


def check_fits_prior(view: DatasetView, normalizer: SpectrumNormalizer) -> None:
    """Raises ValueError unless the dataset has the size, rate and length that the prior was trained
    for, and at least as many frequencies.
    """
    config = view.dataset.contract().config
    plan = config["plan"]
    stored = (*config["size"], plan["frames"], float(plan["fps"]))
    expected = (*normalizer.size, normalizer.frames, normalizer.fps)
    if stored != expected or config["frequencies"] < normalizer.frequencies:
        words = "{}x{} pixels, {} frames at {:g} a second and {} frequencies"
        raise ValueError(
            f"{view} has {words.format(*stored, config['frequencies'])}, expected those of the "
            f"prior: {words.format(*expected, normalizer.frequencies)}"
        )
