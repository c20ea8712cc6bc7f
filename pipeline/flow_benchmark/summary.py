"""Draws conclusions from the results of flow estimators: means, the best and the fastest estimator,
and whether learned flow smooths too much.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from pipeline.flow.config import FlowConfig
from pipeline.flow_benchmark.metrics import OCTAVE_SIGMAS_PX
from pipeline.flow_benchmark.run import FlowCard, FlowErrors, MeasureComparison, SmoothingComparison
from pipeline.synthetic.render import WORKING_SIZE

Results = Mapping[str, Mapping[str, Any]]
"""The results of one part of a card, by case and estimator."""

_DEFAULT_ESTIMATOR = f"{FlowConfig.flow}_{FlowConfig.dis_preset}"
_LEARNED_PREFIXES = ("raft_",)
"""Beginnings of the names of estimators that were trained."""
_DETAIL_OCTAVE = 3
"""Index into OCTAVE_SIGMAS_PX of the details that tell smooth flow from sharp: hardly any estimator
finds smaller ones, and all find larger ones.
"""
_DETAIL_SIZES = f"{OCTAVE_SIGMAS_PX[_DETAIL_OCTAVE]:g} to {OCTAVE_SIGMAS_PX[_DETAIL_OCTAVE + 1]:g}"
_SMOOTHER_SIGNS = dict(kept=-1, amount=-1, blur_px=1, steepness=1)
"""For each measure of smoothing, whether smoother flow has more of it (1) or less (-1)."""
_PART_TITLES = dict(known="pairs with known flow", scenes="procedural scenes")


def is_learned(name: str) -> bool:
    """Whether the estimator of that name was trained."""
    return name.startswith(_LEARNED_PREFIXES)


def mean_over_cases(part: Results, name: str, measure: str) -> float | None:
    """Mean of an estimator's measure over the cases that have it; None if there is none."""
    values = [getattr(case[name], measure) for case in part.values()]
    values = [value for value in values if value is not None]
    return fmean(values) if values else None


def seconds_per_pair(card: FlowCard, name: str) -> float | None:
    """Time of a pair at the working resolution, from the scenes or else from the clips: wall time
    on a GPU, CPU time on a core.
    """
    uses_gpu = is_learned(name) and card.protocol["device"] == "cuda"
    return mean_over_cases(card.scenes or card.clips, name, "wall_s" if uses_gpu else "cpu_s")


def _best_estimator(part: Results, measure: str, names: Sequence[str]) -> str | None:
    """The estimator with the least mean of a measure, among `names`; None if none has it."""
    means = {name: mean_over_cases(part, name, measure) for name in names} if part else {}
    means = {name: mean for name, mean in means.items() if mean is not None}
    return min(means, key=lambda name: means[name], default=None)


def compare_smoothing(
    known: Results, scenes: Results, names: Sequence[str]
) -> list[SmoothingComparison]:
    """Tests the claim that learned flow smooths too much, on each part: every learned estimator
    beside the classical one with the least error, and beside the default one.
    """
    classical = [name for name in names if not is_learned(name)]
    comparisons = []
    for part, cases in (("known", known), ("scenes", scenes)):
        if cases:
            candidates = (_best_estimator(cases, "epe_px", classical), _DEFAULT_ESTIMATOR)
            peers = [peer for peer in dict.fromkeys(candidates) if peer in classical]
            comparisons += [
                _compare_with_classical(part, cases, name, peer)
                for name in names
                if is_learned(name)
                for peer in peers
            ]
    return comparisons


def _compare_with_classical(
    part: str, cases: Results, learned: str, peer: str
) -> SmoothingComparison:
    """Means of both estimators, and the number of cases in which the learned one is the smoother:
    it keeps less detail, has less detail, blurs edges more, and has more error near edges than
    inside.
    """
    pairs = [
        (a, b)
        for case in cases.values()
        if (a := _smoothing_measures(case[learned])) and (b := _smoothing_measures(case[peer]))
    ]
    measures = {
        measure: MeasureComparison(
            learned=fmean(a[measure] for a, _ in pairs),
            classical=fmean(b[measure] for _, b in pairs),
            smoother=sum(sign * a[measure] > sign * b[measure] for a, b in pairs),
        )
        for measure, sign in _SMOOTHER_SIGNS.items()
        if pairs
    }
    return SmoothingComparison(
        part=part, learned=learned, classical=peer, cases=len(pairs), measures=measures
    )


def _smoothing_measures(errors: FlowErrors) -> dict[str, float] | None:
    """The measures in which smoothing shows; None without motion edges or details."""
    detail = errors.details[_DETAIL_OCTAVE]
    near, inside, blur = errors.epe_near_px, errors.epe_inside_px, errors.blur_px
    if detail is None or near is None or inside is None or blur is None:
        return None
    steepness = near / max(inside, 1e-6)
    return dict(kept=detail.kept, amount=detail.amount, blur_px=blur, steepness=steepness)


def headline_sentences(card: FlowCard) -> list[str]:
    """Sentences that name the estimator with the least error on each part, and the fastest one."""
    names, sentences = list(card.estimators), []
    for part, title in _PART_TITLES.items():
        if best := _best_estimator(getattr(card, part), "epe_px", names):
            error = mean_over_cases(getattr(card, part), best, "epe_px")
            sentences.append(f"Least error on the {title}: {best}, {error:.3f} px.")
    times = {name: value for name in names if (value := seconds_per_pair(card, name)) is not None}
    if times:
        fastest = min(times, key=lambda name: times[name])
        sentences.append(
            f"Fastest at {WORKING_SIZE[0]} x {WORKING_SIZE[1]}: {fastest}, "
            f"{1000 * times[fastest]:.2g} ms a pair."
        )
    return sentences


def smoothing_sentences(card: FlowCard) -> list[str]:
    """Sentences that say whether learned flow smooths too much."""
    return [smoothing_sentence(entry) for entry in card.smoothing if entry.cases]


def smoothing_sentence(entry: SmoothingComparison) -> str:
    """A sentence about one learned estimator beside a classical one, on one part."""
    cases = entry.cases
    share, amount, blur, steepness = (entry.measures[measure] for measure in _SMOOTHER_SIGNS)
    if share.smoother <= cases / 2:
        verdict = "does not smooth more than"
    elif amount.smoother <= cases / 2:
        verdict = "finds less detail but is not smoother than"
    else:
        verdict = "smooths more than"
    return (
        f"On the {_PART_TITLES[entry.part]} {entry.learned} {verdict} {entry.classical}: "
        f"of details of {_DETAIL_SIZES} px it finds {100 * share.learned:.0f} % "
        f"against {100 * share.classical:.0f} % (less in {share.smoother} of {cases}), "
        f"has {100 * amount.learned:.0f} % as much, right or wrong, "
        f"against {100 * amount.classical:.0f} % (less in {amount.smoother} of {cases}); "
        f"motion edges are blurred like by a Gaussian of {blur.learned:.1f} px "
        f"against {blur.classical:.1f} (more in {blur.smoother} of {cases}), "
        f"and the error near them is {steepness.learned:.1f} times that inside "
        f"against {steepness.classical:.1f}."
    )
