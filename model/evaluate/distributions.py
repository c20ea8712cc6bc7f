"""Distances between two sets of pictures or videos by their features, as in FID, KID and FVD, with
confidence intervals (docs/design/maths.md, 30 to 33).

Pure functions of features [samples, dimensions]; `model/evaluate/feature_networks.py` has the
networks. The Frechet distance is biased upward, and the more so the fewer samples there are:
compare distances only between sets of equal size.
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
"""Indices of videos."""
_DrawCounts = Num[np.ndarray, " _"]
"""How often each video is drawn in a bootstrap round."""

MAX_KERNEL_ROWS = 2048
"""Most samples on either side of a kernel matrix, 34 MB; a video of more samples is not split."""
_CONFIDENCE = 0.95


def frechet(real: _Features, generated: _Features) -> float:
    """The Frechet distance of FID and FVD, 0 or more: |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) for
    the means m and covariances C of the two sets (docs/design/maths.md, 30).

    It also works with fewer samples than dimensions, within what the samples span. Raises
    ValueError for fewer than two samples, different dimensions, or values that are not finite.
    """
    _check_features(real, generated)
    means, roots = zip(*(_moments(features) for features in (real, generated)), strict=True)
    trace = svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    squares = norm(means[0] - means[1]) ** 2 + norm(roots[0]) ** 2 + norm(roots[1]) ** 2
    return max(0.0, float(squares - 2 * trace))


def _moments(
    features: _Features,
) -> tuple[Float[np.ndarray, " dimensions"], Float[np.ndarray, "rank dimensions"]]:
    """The mean, and an R with at most as many rows as columns for which R^T R is the covariance."""
    features = features.astype(np.float64)
    mean = features.mean(axis=0)
    root = (features - mean) / np.sqrt(len(features) - 1)
    return mean, root if len(root) <= root.shape[1] else np.asarray(qr(root, mode="r"))


def kid(real: _Features, generated: _Features) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x . y / d + 1)^3
    (docs/design/maths.md, 31; Binkowski et al. 2018).

    It uses all samples at once instead of averaging over random subsets. It is about 0, and often
    negative, for two sets from one distribution, and at most 0 for equal sets. Tables show it times
    100 or 1000. Raises ValueError as `frechet` does.
    """
    _check_features(real, generated)
    blocks = [
        [part[i : i + MAX_KERNEL_ROWS] for i in range(0, len(part), MAX_KERNEL_ROWS)]
        for part in (real, generated)
    ]
    return precompute_kid(*blocks)(*(np.ones(len(part)) for part in blocks))


def precompute_kid(
    real: Sequence[_Features], generated: Sequence[_Features]
) -> Callable[[_DrawCounts, _DrawCounts], float]:
    """A function that gives `kid` for any draw of these videos, from how often each is drawn. The
    kernel is summed over every two videos only once.
    """
    sets = (real, generated)
    within = [_kernel_sums(videos, videos) for videos in sets]
    between = _kernel_sums(real, generated)
    diagonals = [np.array([_kernel_diagonal_sum(video) for video in videos]) for videos in sets]
    samples = [np.array([len(video) for video in videos]) for videos in sets]

    def distance(*counts: _DrawCounts) -> float:
        n, m = (sizes @ draw_counts for sizes, draw_counts in zip(samples, counts, strict=True))
        sums = [
            draw_counts @ kernel @ draw_counts - draw_counts @ diagonal
            for draw_counts, kernel, diagonal in zip(counts, within, diagonals, strict=True)
        ]
        return float(
            sums[0] / (n * (n - 1))
            + sums[1] / (m * (m - 1))
            - 2 * (counts[0] @ between @ counts[1]) / (n * m)
        )

    return distance


def _kernel_diagonal_sum(x: _Features) -> float:
    """The sum of the kernel of each sample with itself."""
    return float(((np.square(x, dtype=np.float64).sum(axis=1) / x.shape[1] + 1) ** 3).sum())


def _kernel_sums(
    x: Sequence[_Features], y: Sequence[_Features]
) -> Float[np.ndarray, "videos others"]:
    """The sums of (x . y / d + 1)^3 over the samples of each video of x and each video of y,
    computed for a block of videos at a time.
    """
    return np.block(
        [
            [_kernel_block(rows, columns) for columns in _split_into_blocks(y)]
            for rows in _split_into_blocks(x)
        ]
    )


def _split_into_blocks(videos: Sequence[_Features]) -> list[Sequence[_Features]]:
    """Blocks of consecutive videos, of about MAX_KERNEL_ROWS samples each."""
    blocks = np.cumsum([len(video) for video in videos]) // (MAX_KERNEL_ROWS + 1)
    borders = [0, *(np.flatnonzero(np.diff(blocks)) + 1).tolist(), len(videos)]
    return [videos[start:end] for start, end in pairwise(borders)]


def _kernel_block(
    x: Sequence[_Features], y: Sequence[_Features]
) -> Float[np.ndarray, "videos others"]:
    a, b = (np.concatenate(videos).astype(np.float64) for videos in (x, y))
    owner_a, owner_b = (
        np.repeat(np.eye(len(videos)), [len(video) for video in videos], axis=0)
        for videos in (x, y)
    )
    return owner_a.T @ (a @ b.T / a.shape[1] + 1) ** 3 @ owner_b


class _Estimate(NamedTuple):
    """A value and its 95 % confidence interval."""

    value: float
    low: float
    high: float


def estimate_mean(values: Sequence[float]) -> _Estimate:
    """The mean of two or more independent values, with Student's interval (docs/design/maths.md,
    32).
    """
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
    """A distance between two sets of videos, with a bootstrap interval: videos are resampled with
    replacement (docs/design/maths.md, 32).

    `real` and `generated` have an array of features for each video. The samples of a video are
    drawn together, since they are not independent; with `pairs`, a generated video is drawn with
    its real one. Raises ValueError for fewer than two videos or rounds, a video without samples,
    and, with `pairs`, for sets of different size.
    """
    if min(len(real), len(generated), rounds) < 2 or (pairs and len(real) != len(generated)):
        raise ValueError(
            f"there are {len(real)} real and {len(generated)} generated videos and {rounds} "
            "rounds, expected at least 2 of each, and with pairs as many real as generated videos"
        )
    if not all(map(len, (*real, *generated))):
        raise ValueError("a video has no samples, expected at least 1 of each")
    rng = np.random.default_rng(seed)
    distance_of = _make_resampled_distance(distance, real, generated)
    value = distance_of(np.arange(len(real)), np.arange(len(generated)))
    draws = []
    for _ in range(rounds):
        real_indices = rng.integers(len(real), size=len(real))
        generated_indices = (
            real_indices if pairs else rng.integers(len(generated), size=len(generated))
        )
        draws.append(distance_of(real_indices, generated_indices))
    distances, tail = np.array(draws), (1 - _CONFIDENCE) / 2
    deviations = distances - distances.mean()
    return _Estimate(value, *(value + np.quantile(deviations, [tail, 1 - tail])).tolist())


def _make_resampled_distance(
    distance: Distance, real: Sequence[_Features], generated: Sequence[_Features]
) -> Callable[[_VideoIndices, _VideoIndices], float]:
    """The distance as a function of the indices of real and of generated videos. For `kid` the
    kernel is computed only once.
    """
    if distance is not kid:
        return lambda real_indices, generated_indices: distance(
            np.concatenate([real[i] for i in real_indices]),
            np.concatenate([generated[i] for i in generated_indices]),
        )
    _check_features(np.concatenate(real), np.concatenate(generated))
    kid_of_counts = precompute_kid(real, generated)
    return lambda real_indices, generated_indices: kid_of_counts(
        np.bincount(real_indices, minlength=len(real)),
        np.bincount(generated_indices, minlength=len(generated)),
    )


def sliding_distances(
    distance: Distance, real: Iterable[_Features], generated: Iterable[_Features]
) -> list[float]:
    """The distance for each window in time, from the features of all videos in it: how pictures
    decay as videos go on (docs/design/maths.md, 33).

    Raises ValueError if one side has more windows than the other.
    """
    real, generated = list(real), list(generated)
    if len(real) != len(generated):
        raise ValueError(
            f"there are {len(real)} windows of the real and {len(generated)} of the generated "
            "videos, expected as many"
        )
    return [distance(*pair) for pair in zip(real, generated, strict=True)]


def _check_features(real: _Features, generated: _Features) -> None:
    """Raises ValueError unless both sets have two or more samples, the same dimensions, and finite
    values.
    """
    for name, features in (("real", real), ("generated", generated)):
        if len(features) < 2:
            raise ValueError(f"there are {len(features)} {name} samples, expected at least 2")
        if not np.isfinite(features).all():
            raise ValueError(f"features of the {name} samples are not finite")
    if real.shape[1] != generated.shape[1]:
        raise ValueError(
            f"features have {real.shape[1]} dimensions of the real and {generated.shape[1]} of the "
            "generated samples, expected as many"
        )
