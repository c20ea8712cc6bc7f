"""How far two sets of pictures or videos are apart by the features that a network sees in them:
FID, KID, FVD (docs/maths.md, 30 to 33).

Pure functions of features [samples, dimensions]; `model/evaluate/feature_networks.py` has the
networks. A Frechet distance of few samples is too large, the more so the fewer they are, so
distances are to be compared between sets of the same number only.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num
from numpy.linalg import norm, qr, svd
from scipy.stats import t as student

_Features = Float[np.ndarray, "_ _"]
"""[samples, dimensions]."""
Distance = Callable[[_Features, _Features], float]
_VideoIndices = Int[np.ndarray, " _"]
"""Places of videos."""
_DrawCounts = Num[np.ndarray, " _"]
"""How often each video is drawn."""

MAX_KERNEL_ROWS = 2048
"""Samples on either side of a kernel's matrix: 34 MB. A video of more is taken whole."""
_CONFIDENCE = 0.95


def frechet(real: _Features, generated: _Features) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), 0 or more: the squared distance of the normal
    distributions of two sets (docs/maths.md, 30).

    Of FID and FVD. For any number of samples, also fewer than dimensions, of which it then sees
    what the samples span. Raises ValueError for fewer than two samples, another number of
    dimensions, or what is not finite.
    """
    _check_features(real, generated)
    means, roots = zip(*(_moments(one) for one in (real, generated)), strict=True)
    shared = svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    return max(
        0.0,
        float(
            norm(means[0] - means[1]) ** 2 + norm(roots[0]) ** 2 + norm(roots[1]) ** 2 - 2 * shared
        ),
    )


def _moments(
    features: _Features,
) -> tuple[Float[np.ndarray, " dimensions"], Float[np.ndarray, "rank dimensions"]]:
    """Mean, and an R with R^T R the covariance (over n - 1), of as few rows as it can have without
    a look at its values.
    """
    features = features.astype(np.float64)
    mean = features.mean(axis=0)
    root = (features - mean) / np.sqrt(len(features) - 1)
    return mean, root if len(root) <= root.shape[1] else np.asarray(qr(root, mode="r"))


def kid(real: _Features, generated: _Features) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x . y / d + 1)^3 (docs/maths.md,
    31; Binkowski et al. 2018).

    Of all samples at once, not averaged over drawn subsets. About 0 for sets from one source, often
    below it; at most 0 for equal sets. Tables have it times 100 or 1000. Raises ValueError as
    `frechet`.
    """
    _check_features(real, generated)
    one = precompute_kid(
        *(
            [part[i : i + MAX_KERNEL_ROWS] for i in range(0, len(part), MAX_KERNEL_ROWS)]
            for part in (real, generated)
        )
    )
    return one(*(np.ones(-(-len(part) // MAX_KERNEL_ROWS)) for part in (real, generated)))


def precompute_kid(
    real: Sequence[_Features], generated: Sequence[_Features]
) -> Callable[[_DrawCounts, _DrawCounts], float]:
    """`kid` of any videos drawn from these, by how often each is: kernels are summed over each two
    videos, once.
    """
    sets = (real, generated)
    inside, between = [_kernel_sums(one, one) for one in sets], _kernel_sums(real, generated)
    equal = [np.array([_kernel_diagonal_sum(video) for video in one]) for one in sets]
    samples = [np.array([len(video) for video in one]) for one in sets]

    def distance(*times: _DrawCounts) -> float:
        n, m = (each @ drawn for each, drawn in zip(samples, times, strict=True))
        sums = [
            drawn @ sums @ drawn - drawn @ same
            for drawn, sums, same in zip(times, inside, equal, strict=True)
        ]
        return float(
            sums[0] / (n * (n - 1))
            + sums[1] / (m * (m - 1))
            - 2 * (times[0] @ between @ times[1]) / (n * m)
        )

    return distance


def _kernel_diagonal_sum(x: _Features) -> float:
    """Sum of the kernel of each sample with itself."""
    return float(((np.square(x, dtype=np.float64).sum(axis=1) / x.shape[1] + 1) ** 3).sum())


def _kernel_sums(
    x: Sequence[_Features], y: Sequence[_Features]
) -> Float[np.ndarray, "videos others"]:
    """Of (x . y / d + 1)^3 over the samples of each video with those of each other, some videos at
    a time.
    """
    return np.block(
        [
            [_kernel_block(some, others) for others in _split_into_blocks(y)]
            for some in _split_into_blocks(x)
        ]
    )


def _split_into_blocks(videos: Sequence[_Features]) -> list[Sequence[_Features]]:
    """Neighbours, of about ROWS samples together."""
    places = np.cumsum([len(video) for video in videos]) // (MAX_KERNEL_ROWS + 1)
    borders = [0, *(np.flatnonzero(np.diff(places)) + 1).tolist(), len(videos)]
    return [videos[start:end] for start, end in pairwise(borders)]


def _kernel_block(
    x: Sequence[_Features], y: Sequence[_Features]
) -> Float[np.ndarray, "videos others"]:
    a, b = (np.concatenate(videos).astype(np.float64) for videos in (x, y))
    whose, others = (
        np.repeat(np.eye(len(videos)), [len(video) for video in videos], axis=0)
        for videos in (x, y)
    )
    return whose.T @ (a @ b.T / a.shape[1] + 1) ** 3 @ others


class _Estimate(NamedTuple):
    """With its 95 % confidence interval from low to high, in its unit."""

    value: float
    low: float
    high: float


def estimate_mean(values: Sequence[float]) -> _Estimate:
    """The mean of two or more independent values, with Student's interval (docs/maths.md, 32)."""
    mean = float(np.mean(values))
    half = float(
        student.ppf((1 + _CONFIDENCE) / 2, len(values) - 1)
        * np.std(values, ddof=1)
        / np.sqrt(len(values))
    )
    return _Estimate(mean, mean - half, mean + half)


def bootstrap(
    distance: Distance,
    real: Sequence[_Features],
    generated: Sequence[_Features],
    rounds: int = 200,
    seed: int = 0,
    *,
    pairs: bool = False,
) -> _Estimate:
    """A distance between sets of so many videos, with an interval by drawing videos anew with
    replacement (docs/maths.md, 32).

    `real` and `generated` have the features of one video each, which are drawn together: frames of
    one video tell the same. Of `pairs`, a generated video is drawn with its real one. Raises
    ValueError for fewer than two videos or rounds, a video without samples, and for pairs where one
    set has more videos.
    """
    if min(len(real), len(generated), rounds) < 2 or (pairs and len(real) != len(generated)):
        raise ValueError(
            f"there are {len(real)} real and {len(generated)} generated videos and {rounds} rounds, expected at least 2 of each, of pairs as many"
        )
    if not all(map(len, (*real, *generated))):
        raise ValueError("a video has no samples, expected at least 1 of each")
    rng, of = np.random.default_rng(seed), _make_resampled_distance(distance, real, generated)
    found = of(np.arange(len(real)), np.arange(len(generated)))
    drawn = np.array(
        [of(*_resample_indices(len(real), len(generated), rng, pairs)) for _ in range(rounds)]
    )
    tail = (1 - _CONFIDENCE) / 2
    return _Estimate(found, *(found + np.quantile(drawn - drawn.mean(), [tail, 1 - tail])).tolist())


def _make_resampled_distance(
    distance: Distance, real: Sequence[_Features], generated: Sequence[_Features]
) -> Callable[[_VideoIndices, _VideoIndices], float]:
    """A distance of some videos, by their places. For `kid` a kernel of all samples is not taken
    anew each time.
    """
    if distance is not kid:
        return lambda which, others: distance(
            np.concatenate([real[i] for i in which]), np.concatenate([generated[i] for i in others])
        )
    _check_features(np.concatenate(real), np.concatenate(generated))
    kernels = precompute_kid(real, generated)
    return lambda which, others: kernels(
        np.bincount(which, minlength=len(real)), np.bincount(others, minlength=len(generated))
    )


def _resample_indices(
    real: int, generated: int, rng: np.random.Generator, pairs: bool
) -> tuple[_VideoIndices, _VideoIndices]:
    """Places of as many videos, some of them several times."""
    which = rng.integers(real, size=real)
    return which, which if pairs else rng.integers(generated, size=generated)


def sliding_distances(
    distance: Distance, real: Iterable[_Features], generated: Iterable[_Features]
) -> list[float]:
    """The distance at each place in time: of the first window's features of all videos, of the
    second's, ... (docs/maths.md, 33).

    How pictures decay as a video goes on. Raises ValueError where one has more windows than the
    other.
    """
    windows = [list(one) for one in (real, generated)]
    if len(windows[0]) != len(windows[1]):
        raise ValueError(
            f"there are {len(windows[0])} windows of the real and {len(windows[1])} of the generated videos, expected as many"
        )
    return [distance(*pair) for pair in zip(*windows, strict=True)]


def _check_features(real: _Features, generated: _Features) -> None:
    """Raises ValueError unless both are sets of two or more samples with the same dimensions, all
    finite.
    """
    for name, one in (("real", real), ("generated", generated)):
        if len(one) < 2:
            raise ValueError(f"there are {len(one)} {name} samples, expected at least 2")
        if not np.isfinite(one).all():
            raise ValueError(f"features of the {name} samples are not finite")
    if real.shape[1] != generated.shape[1]:
        raise ValueError(
            f"features have {real.shape[1]} dimensions of the real and {generated.shape[1]} of the generated samples, expected as many"
        )
