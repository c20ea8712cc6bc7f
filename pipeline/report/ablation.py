"""The page of `quiver ablate`: the variants beside each other, and the paper's numbers, apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.report import figures, filled
from pipeline.report.evaluation import Cell, Figure, Section, Slice, Table, protocol, tall, tile
from pipeline.report.gallery import webp
from pipeline.report.words import duration, many, number

DRAWN = ("changes_frechet", "log_spectral_db", "magnitude_px", "warping_error")
"""Of which the page has a figure."""


def ablation_page(found: Mapping[str, Any], slices: Mapping[str, Mapping[str, Slice]]) -> str:
    """Of what ablation.json says, and X-t slices of some photographs by the variants' titles."""
    variants, films = found["variants"], len(found["protocol"]["photographs"])
    sections = [
        Section("Ours", [f"{found['caution']}.", INTERVALS], figures=[figure(variants, key) for key in DRAWN]),
        *(Section(title, [text], table=table) for title, text, table in tables(found)),
        *(shown(name, row) for name, row in slices.items()),
        Section("Commands", ["Each can be run alone, from the folder in which the whole was."], facts=list(map(command, found["commands"]))),
        protocol(found["protocol"]),
    ]
    tiles = [tile("films of each", number(films)), tile("variants", number(len(variants)), accent=True), tile("trainings", number(found["trainings"]))]
    lede = f"{many(len(variants), 'variant')} of one method, each trained on the same clips and measured by films of the same {many(films, 'photograph')}."
    return filled("evaluation.html", dict(over="Ablation", title="What does each part do?", lede=lede, tiles=tiles, sections=sections, across=5))


INTERVALS = (
    "Bars are 95 % intervals by drawing films anew. The dashed line is the full method's value: a variant whose bar reaches over it was not told apart from it "
    "by so few films. What one training differs from the next by chance is not in the bars."
)


def figure(variants: Sequence[Mapping[str, Any]], key: str) -> Figure:
    """One metric of all variants."""
    metrics = [metric(variant, key) for variant in variants]
    one = metrics[-1]
    values, low, high = (np.array([np.nan if m[part] is None else m[part] for m in metrics], float) for part in ("value", "low", "high"))
    label = " ".join(filter(None, [one["name"], one["unit"] and f"({one['unit']})"]))
    text = Markup("<b>{}</b>; {} is better.").format(one["name"], one["better"] if one["better"] != "nearer" else "less")
    return Figure(figures.intervals(f"metric-{key}", [v["title"] for v in variants], values, low, high, label), text)


def metric(variant: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return next(one for one in variant["metrics"] if one["key"] == key)


def tables(found: Mapping[str, Any]) -> list[tuple[str, str, Table]]:
    """Every metric of ours, and the paper's table 2."""
    variants, columns = found["variants"], found["paper"]["columns"]
    names = [variant["title"] for variant in variants]
    ours = Table(["metric", *names], [metric_row(variants, one["key"]) for one in variants[-1]["metrics"]])
    theirs = Table(["", *columns], [[Cell(v["title"]), *(Cell("–" if n is None else f"{n:g}") for n in v["paper"])] for v in variants])
    return [
        ("Every metric of ours", f"{found['ours']}. In brackets the 95 % interval.", ours),
        ("The paper's table 2", f"{found['paper']['words']}.", theirs),
    ]


def metric_row(variants: Sequence[Mapping[str, Any]], key: str) -> list[Cell]:
    """Of one metric."""
    metrics = [metric(variant, key) for variant in variants]
    name = " ".join(filter(None, [metrics[-1]["name"], metrics[-1]["unit"]]))
    if needs := metrics[-1]["needs"]:
        return [Cell(name), Cell(f"needs {needs}", wide=len(variants))]
    return [Cell(name), *map(Cell, map(with_interval, metrics))]


def with_interval(one: Mapping[str, Any]) -> str:
    """`3.1 (2.2 – 4)`."""
    return number(one["value"]) + ("" if one["low"] is None else f" ({number(one['low'])} – {number(one['high'])})")


def shown(name: str, row: Mapping[str, Slice]) -> Section:
    """A photograph's films, each as one row of pixels over time."""
    pictures = [dict(picture=webp(tall(one)), caption=title) for title, one in row.items()]
    return Section(f"{name} over time", ["One row of the picture, time downwards: straight lines stand still, waves sway."], slices=pictures)


def command(one: Mapping[str, Any]) -> tuple[str, str]:
    """How long it took, and the command."""
    return " ".join(duration(one["seconds"] / 3600)), one["command"]
