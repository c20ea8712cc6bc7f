"""Write views of a dataset: its windows judged again by other thresholds, from stored measures, or
without those of some clips.

    views/NAME.json        the definition of the view: thresholds and choice of clips, sealed
    views/NAME.parquet     the manifest with the new outcomes
    views/NAME.index.json  NAME.histogram.safetensors  NAME.statistics.json
                           the same as the dataset's own (finalize.py)

A view keeps or drops stored windows. A window that was rejected at extraction has no sample, and
stays rejected. Writing a view reads only the tars of which it drops a part, each once.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from pipeline.dataset import histogram
from pipeline.dataset.finalize import (
    HistogramSum,
    finalize,
    manifest_writer,
    read_histogram,
    write_index,
    write_statistics,
)
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import TABLE_READ_ERRORS, DamagedDerived, DatasetView, iter_samples
from pipeline.filters import Thresholds, judge
from schemas.outcome import Outcome, Reason, Stage
from schemas.records import MANIFEST_SCHEMA, IndexEntry, ManifestRow
from schemas.run_contract import to_json_value
from schemas.seal import seal, to_json

_VIEW_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")
_VIEW_FILE_SUFFIXES = (
    "json",
    "index.json",
    "parquet",
    "histogram.safetensors",
    "statistics.json",
    "report.html",
)
"""The suffixes of a view's files; the first is that of its definition."""
_UnorderedMap = Callable[[Callable[[Any], Any], list[Any]], Iterable[tuple[Any, Any]]]
"""Applies a function to each item; yields pairs of an item and its result, in any order."""


@dataclass
class ViewCounts:
    """The number of windows for each way in which a view judges them."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Stored windows that the view rejects, by the reason."""
    rejected: int = 0
    """Windows that are not stored, and that the view rejects too."""
    to_extract: int = 0
    """Windows that are not stored, and that the view would keep; an extraction would store them."""


class ClipChoice(NamedTuple):
    """Which clips a view takes, by their ids or their sources."""

    without: Collection[str] = ()
    """None of their windows are kept."""
    only: Collection[str] | None = None
    """No windows but theirs are kept; None: those of all."""

    def takes(self, row: ManifestRow) -> bool:
        """Whether the windows of the row's clip may be kept."""
        if row.clip_id in self.without or row.source in self.without:
            return False
        return self.only is None or row.clip_id in self.only or row.source in self.only

    def check(self, view: DatasetView) -> None:
        """Raises ValueError if a name is of no clip of the dataset."""
        table = view.read_table(columns=["clip_id", "source"])
        known = {name for column in table.columns for name in column.to_pylist()}
        names = {*self.without, *(self.only or ())}
        if unknown := sorted(names - known):
            raise ValueError(
                f"{len(unknown)} of {len(names)} names are of no clip of {view}, {unknown[0]!r} "
                "for one, expected clip ids or sources"
            )


def refilter(
    dataset: Dataset,
    name: str,
    thresholds: Thresholds,
    map_unordered: _UnorderedMap,
    into: Dataset | None = None,
    choice: ClipChoice | None = None,
) -> ViewCounts:
    """Writes a view, into the dataset's folder or another; `map_unordered` runs the pass over tars.
    It keeps windows of the clips of `choice` only.

    Raises ValueError if the name is invalid, the dataset's index is missing, or a sample cannot be
    read.
    """
    view = _new_view(dataset, name, into)
    entries = view.base().read_index().shards
    for suffix in ("index.json", "report.html"):  # without its index, the view does not exist
        view.derived_dataset.publish(view.derived_path(suffix), None)
    definition: dict[str, Any] = dict(
        view=view.view, run=dataset.run_digest(), thresholds=to_json_value(asdict(thresholds))
    )
    choice = choice or ClipChoice()
    # without a choice, the definition is the one that earlier versions wrote
    if choice.without:
        definition["without"] = sorted(choice.without)
    if choice.only is not None:
        definition["only"] = sorted(choice.only)
    view.derived_dataset.publish(view.derived_path("json"), seal(definition, indent=1))
    counts, index = ViewCounts(), dict(entries)
    with manifest_writer(view) as write:
        for shard, rows in groupby(_read_manifest(dataset), key=lambda row: row.shard):
            rejudged = [_rejudge_row(row, thresholds, choice, counts) for row in rows]
            write(rejudged)
            if shard is not None and shard in entries:
                index[shard] = _update_index_entry(rejudged, entries[shard])
    write_index(view, index, write_merged_histogram(view, index, map_unordered))
    write_statistics(view)
    return counts


def write_merged_histogram(
    view: DatasetView, index: Mapping[str, IndexEntry], map_unordered: _UnorderedMap
) -> str | None:
    """Writes the sum of the histograms of the view's training shards; returns its digest. Shards
    of which the view drops a window are counted again from their samples.
    """
    training = {shard: entry for shard, entry in index.items() if entry.has_training_windows()}
    unchanged = [shard for shard, entry in training.items() if entry.content == entry.tar]
    histograms = HistogramSum()
    for shard in unchanged:
        histograms.add(read_histogram(view.dataset, shard, view.dataset.read_record(shard)))
    recount = partial(_recount_histogram, replace(view, unsealed=True))
    for _, counts in map_unordered(recount, sorted(set(training) - set(unchanged))):
        histograms.add(counts)
    return histograms.publish(view)


def _recount_histogram(view: DatasetView, shard: str) -> Any:
    """Returns the histogram of the samples of a shard that the view keeps."""
    return histogram.count_samples(
        iter_samples(view, shard),
        view.dataset.contract().config["frequencies"],
    )


def rebuild_views(
    dataset: Dataset, map_unordered: _UnorderedMap, into: Dataset | None = None
) -> list[DatasetView]:
    """Writes every view again, with its own thresholds; returns the views."""
    views = [DatasetView(dataset, name) for name in list_views(dataset)]
    for view in views:
        choice = ClipChoice(*view.clip_choice())
        refilter(dataset, str(view.view), view.thresholds(), map_unordered, into, choice)
    return views


def finalize_with_views(dataset: Dataset, map_unordered: _UnorderedMap) -> dict[str, Any]:
    """Writes every derived file, as `finalize` does, and returns the summary. If the dataset has
    rounds, it writes every view too, even if the derived files were up to date: the run that wrote
    them may have been stopped before the views.
    """
    summary = finalize(dataset)
    if dataset.rounds():
        rebuild_views(dataset, map_unordered)
    return summary


def _new_view(dataset: Dataset, name: str, into: Dataset | None) -> DatasetView:
    """Returns a view that does not exist yet. Raises ValueError for an invalid name."""
    if not _VIEW_NAME.fullmatch(name):
        raise ValueError(f"name is {name[:80]!r}, expected up to 60 letters, digits, - and _")
    (into or dataset).views.mkdir(exist_ok=True)
    return DatasetView(dataset, name, into)


def list_views(dataset: Dataset, defined_only: bool = True) -> list[str]:
    """Returns the names of the views; without `defined_only`, also of those whose definition is
    missing.
    """
    paths = [path for path in dataset.views.glob("*") if is_view_file(path)]
    if defined_only:
        paths = [path for path in paths if path.suffixes == [".json"]]
    return sorted({path.name.partition(".")[0] for path in paths})


def is_view_file(path: Path) -> bool:
    """Returns whether a file in views/ has the name of a view's file."""
    name, _, suffix = path.name.partition(".")
    return _VIEW_NAME.fullmatch(name) is not None and suffix in _VIEW_FILE_SUFFIXES


def view_files(dataset: Dataset, name: str) -> list[Path]:
    """Returns the existing files of a view, its definition first."""
    paths = [dataset.views / f"{name}.{suffix}" for suffix in _VIEW_FILE_SUFFIXES]
    return [path for path in paths if path.exists()]


def _read_manifest(dataset: Dataset) -> Iterator[ManifestRow]:
    """Yields the rows of the manifest. Raises ValueError if it is missing, is damaged, or does not
    have exactly the shards of the index.
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
    nonempty_shards = {shard for shard, entry in entries.items() if entry.kept}
    # a shard whose windows were all retried has no row
    if not nonempty_shards <= shards <= {None, *entries}:
        raise ValueError(f"{dataset.manifest} is of other shards than are there: {rebuild}")


def _rejudge_row(
    row: ManifestRow, thresholds: Thresholds, choice: ClipChoice, counts: ViewCounts
) -> ManifestRow:
    """Returns the row with the outcome by these thresholds, and adds it to `counts`."""
    if row.key is None or row.outcome == Outcome.QUARANTINED or row.measures is None:
        return row
    verdicts, is_stored = judge(row.measures, thresholds), row.outcome == Outcome.KEPT
    if not choice.takes(row):
        verdicts = [Reason.LEFT_OUT, *verdicts]
    if not verdicts:
        counts.kept += is_stored
        counts.to_extract += not is_stored
        return row
    if is_stored:
        counts.dropped[verdicts[0]] += 1
    else:
        counts.rejected += 1
    return replace(
        row,
        outcome=Outcome.REJECTED,
        stage=Stage.FILTER,
        reason=verdicts[0],
        verdicts=list(verdicts),
    )


def _update_index_entry(rows: Sequence[ManifestRow], before: IndexEntry) -> IndexEntry:
    """Returns the entry of a shard in the view's index; the same entry if no window is dropped."""
    keys = [row.key for row in rows if row.outcome == Outcome.KEPT]
    if len(keys) == before.kept:
        return before
    content = hashlib.sha256(to_json([before.tar, keys])).hexdigest()
    return replace(before, kept=len(keys), content=content)
