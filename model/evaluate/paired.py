"""By how much films of the same photographs differ from one variant to another (docs/maths.md, 44).

Of what each film has a number: distances of whole sets of films have none of a single one.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from model.evaluate.distributions import estimate_mean


class _Difference(NamedTuple):
    """Mean of ours - theirs over photographs."""

    value: float
    low: float | None
    high: float | None
    """Of Student's 95 % interval; None of a single photograph."""
    photographs: int


def difference(ours: Sequence[float], theirs: Sequence[float]) -> _Difference:
    """Of numbers in pairs, at least one. Raises ValueError where they are not as many."""
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"there are {len(ours)} and {len(theirs)} numbers, expected pairs of them")
    apart = [one - other for one, other in zip(ours, theirs, strict=True)]
    return _Difference(
        *(estimate_mean(apart) if len(apart) > 1 else (apart[0], None, None)), len(apart)
    )


def compare_evaluations(
    ours: Iterable[Mapping[str, Any]], theirs: Iterable[Mapping[str, Any]], keys: Iterable[str]
) -> dict[str, _Difference]:
    """Of two evaluations' `pairs`, which have the same names: of each of the metrics that has a
    number for every pair.
    """
    sides = [{pair["name"]: pair for pair in side} for side in (ours, theirs)]
    numbers = {
        key: [[pair_metric(side[name], key) for name in sides[0]] for side in sides] for key in keys
    }
    whole = {
        key: [[one for one in side if one is not None] for side in both]
        for key, both in numbers.items()
    }
    return {key: difference(*whole[key]) for key, both in numbers.items() if whole[key] == both}


def pair_metric(pair: Mapping[str, Any], key: str) -> float | None:
    """A metric of one pair, as evaluation.json has it: of both videos together, or |generated -
    real| of what each has by itself. None where it has none.
    """
    if key in pair:
        return pair[key]
    real, generated = (pair[side].get(key) for side in ("real", "generated"))
    return None if real is None or generated is None else abs(generated - real)
