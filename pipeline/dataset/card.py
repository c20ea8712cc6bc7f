"""Render the dataset card: README.md with the YAML head that Hugging Face reads."""

import html
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.sizes import human_size
from schemas.outcome import Reason, to_printable
from schemas.records import IndexEntry
from schemas.run_contract import RunContract
from schemas.sample import MEMBERS
from schemas.statistics import SpectrumStatistics

_KNOWN_LICENSES = frozenset(
    [
        "apache-2.0",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc",
        "cc-by-2.0",
        "cc-by-2.5",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-nc-2.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nc-nd-3.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nd-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc0-1.0",
        "mit",
        "pddl",
        "unlicense",
    ]
)
"""Identifiers that Hugging Face knows; others are `other` in the head, and named in the text."""
_SIZES = (("n<1K", 1_000), ("1K<n<10K", 10_000), ("10K<n<100K", 100_000), ("100K<n<1M", 1_000_000))

_BODY = """# Spectral volumes of {clips} clips

{kept} start frames, each with the motion of the {seconds:g} s that follow it as K = {frequencies} \
Fourier coefficients
per pixel and displacement component, at {width} x {height} pixels; extracted by \
Quiver from {hours:.2f} h of video, after
Generative Image Dynamics (Li, Tucker, Snavely, Holynski, CVPR 2024).

| | windows, and clips that gave none |
|---|---|
{counts}

Flow: {flow}. {shards} shards, {bytes}.{reading}

## Format
Each sample has three members: {members}. Channels of `spectrum` are re x, im x, \
re y, im y, in pixels, raw:
S_k = sum_t F_t exp(-2 pi i k t / {frames}) over {frames} frames at {fps:g} a second, \
so frequency k is {step:g} k Hz.
`manifest.parquet` has a row for every window that was considered, kept or not, with its measures, \
its clip, and the
offsets of its members; format {format}.

## Scales
{scales}

## Licences
The samples show frames of the videos, and carry their licences, as the list of clips gave them.

| licence | windows kept |
|---|---|
{licences}
"""


_READING = """ Read it with webdataset (never call its `.decode()` on shards of others,
its defaults unpickle):
```python
import webdataset as wds
from safetensors.numpy import load

for sample in wds.WebDataset("{first}", shardshuffle=False):
    spectrum = load(sample["motion.safetensors"])["spectrum"]  # \
float16 [{frequencies}, 4, {height}, {width}]
```
or with datasets:
```python
from datasets import load_dataset
from safetensors.numpy import load

for sample in load_dataset("webdataset", data_files={{"{split}": "{first}"}}, \
split="{split}", streaming=True):
    spectrum = load(sample["motion.safetensors"])["spectrum"]
```"""


def render_card(
    contract: RunContract,
    summary: Mapping[str, Any],
    index: Mapping[str, IndexEntry],
    statistics: SpectrumStatistics | None,
    licences: Mapping[str | None, int],
) -> str:
    """Returns the text of README.md; everything that came from a file or a table is escaped."""
    config = contract.config
    plan, (width, height) = config["plan"], config["size"]
    body = _BODY.format(
        **{name: summary[name] for name in ("clips", "kept", "hours", "shards")},
        bytes=human_size(summary["bytes"]),
        counts=_counts_table(summary),
        frames=plan["frames"],
        fps=plan["fps"],
        seconds=plan["frames"] / plan["fps"],
        step=plan["fps"] / plan["frames"],
        frequencies=config["frequencies"],
        width=width,
        height=height,
        flow=", ".join(
            f"{name} {_escape_markup(str(value))}" for name, value in config["flow"].items()
        ),
        reading=_reading_instructions(config, index),
        members=", ".join(f"`KEY.{member}`" for member in MEMBERS),
        format=contract.format,
        scales=_scales_table(statistics),
        licences=_table(
            sorted(
                (_escape_markup(name or "not stated"), count) for name, count in licences.items()
            )
        ),
    )
    return _yaml_head(summary, licences) + "\n" + body


def _reading_instructions(config: Mapping[str, Any], index: Mapping[str, IndexEntry]) -> str:
    """Returns code that loads the first shard with a sample; empty if no shard has one."""
    shards = sorted((entry.split != "train", shard) for shard, entry in index.items() if entry.tar)
    if not shards:
        return ""
    shard, (width, height) = shards[0][1], config["size"]
    return _READING.format(
        first=f"shards/{shard}.tar",
        split=index[shard].split,
        frequencies=config["frequencies"],
        width=width,
        height=height,
    )


def _yaml_head(summary: Mapping[str, Any], licences: Mapping[str | None, int]) -> str:
    """Returns the YAML head; its strings are JSON, which is valid YAML."""
    license_names = sorted(
        {name.lower() if name and name.lower() in _KNOWN_LICENSES else "other" for name in licences}
        or {"other"}
    )
    size = next((name for name, limit in _SIZES if summary["kept"] < limit), "n>1M")
    lines = [
        "---",
        f"license: {json.dumps(license_names if len(license_names) > 1 else license_names[0])}",
        "task_categories: [image-to-video]",
        f'size_categories: ["{size}"]',
    ]
    lines += ["tags: [webdataset, optical-flow, motion, spectral-volume]"]
    if summary["kept_by_split"]:
        lines += ["configs:", "- config_name: default", "  data_files:"]
        lines += [
            f"  - {{split: {split}, path: shards/{split}-*.tar}}"
            for split in sorted(summary["kept_by_split"], reverse=True)
        ]
    return "\n".join([*lines, "---"])


def _counts_table(summary: Mapping[str, Any]) -> str:
    rows = [
        (f"kept, {_escape_unknown(split, ('train', 'test'))}", count)
        for split, count in sorted(summary["kept_by_split"].items(), reverse=True)
    ]
    rows += [
        (f"{outcome}, {_escape_unknown(reason, Reason)}", count)
        for outcome in ("rejected", "quarantined")
        for reason, count in summary[f"{outcome}_by_reason"].items()
    ]
    return _table(rows)


def _scales_table(statistics: SpectrumStatistics | None) -> str:
    """Returns a table of the scales in statistics.json."""
    if statistics is None:
        return "No training window was kept, so there are none."
    heading = (
        "The 95th percentile of |S_k| over all pixels, both components and all training samples, "
        "pixels (`statistics.json`):\n\n| Hz | scale |\n|---|---|\n"
    )
    return heading + _table(
        [(f"{frequency.hz:g}", f"{frequency.scale:.4g}") for frequency in statistics.frequencies]
    )


def _table(rows: list[tuple[Any, ...]]) -> str:
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)


def _escape_unknown(word: Any, known: Iterable[str]) -> str:
    """Returns a known word as it is, and escapes any other."""
    return word if word in set(known) else _escape_markup(str(word))


def _escape_markup(text: str) -> str:
    """Escapes foreign text for Markdown and HTML."""
    escaped = html.escape(to_printable(text, 200))
    return "".join(f"&#{ord(c)};" if c in "|`*_[]#\\!~$" else c for c in escaped)
