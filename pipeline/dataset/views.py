"""Views: the windows of a data set judged again, by other thresholds, from what was measured.

    views/NAME.json        the thresholds, sealed: what defines the view
    views/NAME.parquet     the manifest with the new outcomes
    views/NAME.index.json  NAME.histogram.safetensors  NAME.statistics.json       as the data set's
                           own (derived.py)

A view can drop what is stored, and keep what is stored; a window that was rejected when the data
set was extracted has no sample, and stays rejected. Tars are read once, and only those of which a
part is dropped.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.dataset import histogram as statistics
from pipeline.dataset.finalize import (
    HistogramSum,
    finalize,
    manifest_writer,
    read_histogram,
    run_digest,
    write_index,
    write_statistics,
)
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import (
    TABLE_READ_ERRORS,
    DamagedDerived,
    DatasetView,
    iter_samples,
)
from pipeline.dataset.shards import to_json
from pipeline.filters import Thresholds, judge
from schemas.outcome import Outcome, Stage
from schemas.records import MANIFEST_SCHEMA, IndexEntry, ManifestRow
from schemas.run_contract import contract_provenance, to_json_value
from schemas.seal import seal

_VIEW_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")
_VIEW_FILE_SUFFIXES = (
    "json",
    "index.json",
    "parquet",
    "histogram.safetensors",
    "statistics.json",
    "report.html",
)
"""Endings of the names of a view's files."""
_UnorderedMap = Callable[[Callable[[Any], Any], list[Any]], Iterable[tuple[Any, Any]]]
"""(item, result) of a function for each item, in any order."""


@dataclass
class ViewCounts:
    """How many windows of a data set a view judges how."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Stored ones, by the reason."""
    rejected: int = 0
    """Not stored, and rejected again."""
    to_extract: int = 0
    """Not stored, and kept if they were: to be extracted again."""


def refilter(
    dataset: Dataset,
    name: str,
    thresholds: Thresholds,
    mapped: _UnorderedMap,
    into: Dataset | None = None,
) -> ViewCounts:
    """Writes the view, into the data set's folder or another one. `mapped` runs the pass over the
    tars.

    Raises ValueError where the name will not do, the data set's index is missing, or a sample
    cannot be read.
    """
    view = _new_view(dataset, name, into)
    before = view.base().read_index().shards
    for name in ("index.json", "report.html"):
        view.derived_dataset.publish(
            view.derived_path(name), None
        )  # without its index the view is none, until all of it is written
    definition = dict(
        view=view.view, run=run_digest(dataset), thresholds=to_json_value(asdict(thresholds))
    )
    view.derived_dataset.publish(view.derived_path("json"), seal(definition, indent=1))
    tally, index = (
        ViewCounts(),
        dict(before),
    )  # a shard whose windows were all tried again has no row
    with manifest_writer(
        view.derived_dataset, view.manifest_path, contract_provenance(dataset.contract())
    ) as write:
        for shard, rows in groupby(_read_manifest(dataset), key=lambda row: row.shard):
            judged = [_rejudge_row(row, thresholds, tally) for row in rows]
            write(judged)
            if shard is not None and shard in before:
                index[shard] = _update_index_entry(judged, before[shard])
    histogram = write_merged_histogram(
        view,
        [shard for shard, entry in index.items() if entry.has_training_windows()],
        index,
        mapped,
    )
    path, run = view.derived_path("index.json"), run_digest(dataset)
    write_index(view.derived_dataset, path, run, index, histogram, view.manifest_path)
    write_statistics(view)
    return tally


def write_merged_histogram(
    view: DatasetView, shards: list[str], index: Mapping[str, IndexEntry], mapped: _UnorderedMap
) -> str | None:
    """Adds up the histograms of the view's training shards: stored ones where nothing was dropped,
    else counted again.
    """
    merged = HistogramSum()
    untouched = [shard for shard in shards if index[shard].content == index[shard].tar]
    for shard in untouched:
        merged.add(read_histogram(view.dataset, shard, view.dataset.read_record(shard)))
    written = replace(view, unsealed=True)
    for _, counts in mapped(
        partial(_recount_histogram, written), sorted(set(shards) - set(untouched))
    ):
        merged.add(counts)
    return merged.publish(view.derived_dataset, view.derived_path("histogram.safetensors"))


def _recount_histogram(view: DatasetView, shard: str) -> Any:
    """The histogram of the samples of a shard that the view keeps."""
    return statistics.count_samples(
        (sample.spectrum for sample in iter_samples(view, shard)),
        view.dataset.contract().config["frequencies"],
    )


def rebuild_views(
    dataset: Dataset, mapped: _UnorderedMap, into: Dataset | None = None
) -> list[DatasetView]:
    """Writes every view again, by its own thresholds; returns them."""
    views = [DatasetView(dataset, name) for name in list_views(dataset)]
    for view in views:
        refilter(dataset, str(view.view), view.thresholds(), mapped, into)
    return views


def finalize_with_views(dataset: Dataset, mapped: _UnorderedMap) -> dict[str, Any]:
    """Writes every derived file, as `derived.finalize`; returns the summary. If something was tried
    again, every view too, even if the derived files were up to date: the run that wrote them may
    have been stopped before the views.
    """
    summary = finalize(dataset)
    if dataset.rounds():
        rebuild_views(dataset, mapped)
    return summary


def _new_view(dataset: Dataset, name: str, into: Dataset | None) -> DatasetView:
    """The selection of a view that is about to be made."""
    if not _VIEW_NAME.fullmatch(name):
        raise ValueError(f"name is {name[:80]!r}, expected up to 60 letters, digits, - and _")
    (into or dataset).views.mkdir(exist_ok=True)
    return DatasetView(dataset, name, into)


def list_views(dataset: Dataset, whole: bool = True) -> list[str]:
    """Of the views that there are; not `whole`: also of those whose definition is gone."""
    paths = [path for path in dataset.views.glob("*") if is_view_file(path)]
    defined = [path for path in paths if not whole or path.suffixes == [".json"]]
    return sorted({path.name.partition(".")[0] for path in defined})


def is_view_file(path: Path) -> bool:
    """Whether a file in views/ has a name that a view's files have."""
    name, _, part = path.name.partition(".")
    return _VIEW_NAME.fullmatch(name) is not None and part in _VIEW_FILE_SUFFIXES


def view_files(dataset: Dataset, name: str) -> list[Path]:
    """The files that there are of a view, its definition first."""
    return [
        path for part in _VIEW_FILE_SUFFIXES if (path := dataset.views / f"{name}.{part}").exists()
    ]


def _read_manifest(dataset: Dataset) -> Iterator[ManifestRow]:
    """Its rows, a few at a time. Raises ValueError where it is missing, or is not the manifest of
    the shards that there are.
    """
    rebuild, shards = f"quiver finalize {dataset.root} rebuilds it", set()
    try:
        DatasetView(dataset).check_manifest()
        with pq.ParquetFile(dataset.manifest, page_checksum_verification=True) as file:
            if (
                file.schema_arrow.names != MANIFEST_SCHEMA.names
                or file.schema_arrow.types != MANIFEST_SCHEMA.types
            ):
                raise ValueError("has other columns than a manifest")
            for batch in file.iter_batches(1024):
                shards |= set(batch["shard"].to_pylist())
                yield from map(ManifestRow.load, batch.to_pylist())
    except DamagedDerived:
        raise
    except TABLE_READ_ERRORS as error:
        raise DamagedDerived(f"{dataset.manifest} cannot be read ({error}): {rebuild}") from error
    entries = DatasetView(dataset).read_index().shards
    kept = {shard for shard, entry in entries.items() if entry.kept}
    if (
        not kept <= shards <= {None, *entries}
    ):  # a shard whose windows were all tried again has no row
        raise ValueError(f"{dataset.manifest} is of other shards than are there: {rebuild}")


def _rejudge_row(row: ManifestRow, thresholds: Thresholds, tally: ViewCounts) -> ManifestRow:
    """The row with its new outcome, which is also counted."""
    if row.key is None or row.outcome == Outcome.QUARANTINED or row.measures is None:
        return row
    verdicts, stored = judge(row.measures, thresholds), row.outcome == Outcome.KEPT
    if not verdicts:
        tally.kept, tally.to_extract = tally.kept + stored, tally.to_extract + (not stored)
        return row
    if stored:
        tally.dropped[verdicts[0]] += 1
    else:
        tally.rejected += 1
    return replace(
        row,
        outcome=Outcome.REJECTED,
        stage=Stage.FILTER,
        reason=verdicts[0],
        verdicts=list(verdicts),
    )


def _update_index_entry(rows: Sequence[ManifestRow], before: IndexEntry) -> IndexEntry:
    """What the index says of a shard anew; where nothing is dropped, the same."""
    keys = [row.key for row in rows if row.outcome == Outcome.KEPT]
    if len(keys) == before.kept:
        return before
    content = hashlib.sha256(to_json([before.tar, keys])).hexdigest()
    return replace(before, kept=len(keys), content=content)
