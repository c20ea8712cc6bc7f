"""How far two sets of pictures or videos are apart by the features that a network sees in them: FID, KID, FVD (docs/maths.md, 30 to 33).

Pure functions of features [samples, dimensions]; `model/features.py` has the networks. A Frechet distance of few samples is too large, the more
so the fewer they are, so distances are to be compared between sets of the same number only.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.linalg import norm, qr, svd
from scipy.stats import t as student

Features = Float[np.ndarray, "_ _"]
"""[samples, dimensions]."""
Distance = Callable[[Features, Features], float]

ROWS = 2048
"""Of a kernel's matrix at once: 0.3 GB where it is 20,000 wide."""
CONFIDENCE = 0.95


def frechet(real: Features, generated: Features) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), 0 or more: the squared distance of the normal distributions of two sets (docs/maths.md, 30).

    Of FID and FVD. For any number of samples, also fewer than dimensions, of which it then sees what the samples span. Raises ValueError for fewer
    than two samples, another number of dimensions, or what is not finite.
    """
    check(real, generated)
    means, roots = zip(*(moments(one) for one in (real, generated)), strict=True)
    shared = svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    return max(0.0, float(norm(means[0] - means[1]) ** 2 + norm(roots[0]) ** 2 + norm(roots[1]) ** 2 - 2 * shared))


def moments(features: Features) -> tuple[Float[np.ndarray, " dimensions"], Float[np.ndarray, "rank dimensions"]]:
    """Mean, and an R with R^T R the covariance (over n - 1), of as few rows as it can have without a look at its values."""
    features = features.astype(np.float64)
    mean = features.mean(axis=0)
    root = (features - mean) / np.sqrt(len(features) - 1)
    return mean, root if len(root) <= root.shape[1] else np.asarray(qr(root, mode="r"))


def kid(real: Features, generated: Features) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x . y / d + 1)^3 (docs/maths.md, 31; Binkowski et al. 2018).

    Of all samples at once, not averaged over drawn subsets. About 0 for sets from one source, often below it; at most 0 for equal sets. Tables have
    it times 100 or 1000. Raises ValueError as `frechet`.
    """
    check(real, generated)
    x, y = (one.astype(np.float64) for one in (real, generated))
    return within(x) + within(y) - 2 * kernel_sum(x, y) / (len(x) * len(y))


def within(x: Features) -> float:
    """Mean of the kernel over the pairs of different samples."""
    each = (np.square(x).sum(axis=1) / x.shape[1] + 1) ** 3
    return (kernel_sum(x, x) - float(each.sum())) / (len(x) * (len(x) - 1))


def kernel_sum(x: Features, y: Features) -> float:
    """Of (x . y / d + 1)^3 over all pairs."""
    blocks = (x[start : start + ROWS] for start in range(0, len(x), ROWS))
    return float(sum(((block @ y.T / x.shape[1] + 1) ** 3).sum() for block in blocks))


class Interval(NamedTuple):
    """From low to high, in the unit of the distance."""

    low: float
    high: float


def of_mean(values: Sequence[float]) -> Interval:
    """95 % confidence interval of the mean of two or more independent values, by Student's t (docs/maths.md, 32)."""
    half = float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return Interval(float(np.mean(values)) - half, float(np.mean(values)) + half)


def bootstrap(
    distance: Distance, real: Sequence[Features], generated: Sequence[Features], rounds: int = 200, seed: int = 0, *, pairs: bool = False
) -> Interval:
    """95 % confidence interval of a distance between sets of so many videos, by drawing videos anew with replacement (docs/maths.md, 32).

    `real` and `generated` have the features of one video each, which are drawn together: frames of one video tell the same. Of `pairs`, a generated video
    is drawn with its real one. Raises ValueError for fewer than two videos or rounds, and for pairs where one set has more videos.
    """
    if min(len(real), len(generated), rounds) < 2 or (pairs and len(real) != len(generated)):
        raise ValueError(f"there are {len(real)} real and {len(generated)} generated videos and {rounds} rounds, expected at least 2 of each, of pairs as many")
    rng = np.random.default_rng(seed)
    found = distance(np.concatenate(real), np.concatenate(generated))
    drawn = np.array([distance(*redrawn(real, generated, rng, pairs)) for _ in range(rounds)])
    tail = (1 - CONFIDENCE) / 2
    return Interval(*(found + np.quantile(drawn - drawn.mean(), [tail, 1 - tail])).tolist())


def redrawn(real: Sequence[Features], generated: Sequence[Features], rng: np.random.Generator, pairs: bool) -> tuple[Features, Features]:
    """As many videos, some of them several times."""
    which = rng.integers(len(real), size=len(real))
    others = which if pairs else rng.integers(len(generated), size=len(generated))
    return np.concatenate([real[i] for i in which]), np.concatenate([generated[i] for i in others])


def sliding(distance: Distance, real: Iterable[Features], generated: Iterable[Features]) -> list[float]:
    """The distance at each place in time: of the first window's features of all videos, of the second's, ... (docs/maths.md, 33).

    How pictures decay as a video goes on. Raises ValueError where one has more windows than the other.
    """
    windows = [list(one) for one in (real, generated)]
    if len(windows[0]) != len(windows[1]):
        raise ValueError(f"there are {len(windows[0])} windows of the real and {len(windows[1])} of the generated videos, expected as many")
    return [distance(*pair) for pair in zip(*windows, strict=True)]


def check(real: Features, generated: Features) -> None:
    """Raises ValueError unless both are sets of two or more samples with the same dimensions, all finite."""
    for name, one in (("real", real), ("generated", generated)):
        if len(one) < 2:
            raise ValueError(f"there are {len(one)} {name} samples, expected at least 2")
        if not np.isfinite(one).all():
            raise ValueError(f"features of the {name} samples are not finite")
    if real.shape[1] != generated.shape[1]:
        raise ValueError(f"features have {real.shape[1]} dimensions of the real and {generated.shape[1]} of the generated samples, expected as many")
