"""Whatever happens to a file of a data set, verify names it, and repair brings the bytes back."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.repair import repair
from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import DamagedShard, Dataset
from pipeline.dataset.open import DatasetView, iter_samples
from pipeline.dataset.views import refilter
from pipeline.extract.config import BuildConfig, PlanConfig, from_contract, to_contract
from pipeline.filters import PRESETS
from pipeline.flow.config import FlowConfig
from pipeline.maintain.faults import Remedy
from pipeline.maintain.verify import map_serially, verify
from pipeline.version import quiver_version
from schemas.run_contract import to_json_value
from schemas.sample import encode_sample
from schemas.statistics import decode_statistics as decode_statistics
from tests.support import damage


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return damage.make_dataset(tmp_path_factory.mktemp("sound"))


def names(found) -> set[str]:
    return {fault.path for fault in found.faults}


@pytest.mark.slow
def test_a_sound_data_set_has_no_fault_and_every_kind_of_window(sound):
    found = verify(Dataset(sound))
    assert (found.faults, found.shards, found.unbuilt, found.compared) == ([], 3, [], True)
    rows = [row for shard in damage.SHARDS for row in Dataset(sound).read_record(shard).rows]
    assert {row.outcome for row in rows} == {"kept", "rejected"}


@pytest.fixture(scope="module")
def written(sound) -> dict[str, dict[str, bytes]]:
    """Every sample that a sound data set gives."""
    found, refused = given(sound)
    assert found and not refused
    return found


def given(root) -> tuple[dict[str, dict[str, bytes]], bool]:
    """Returns every sample that a reader yields, by key, and whether it refused to read on."""
    found, refused = {}, False
    for shard in damage.SHARDS:
        try:
            found |= {
                sample.key: encode_sample(sample)
                for sample in iter_samples(DatasetView(Dataset(root)), shard)
            }
        except (OSError, ValueError):
            refused = True
    return found, refused


@pytest.mark.sample(2)
@pytest.mark.slow
@pytest.mark.promise("P6")
@pytest.mark.parametrize(
    "mutation",
    [
        *damage.listed_mutations(),
        *damage.make_cuts(damage.CUTS_PER_TAR),
        *damage.make_flips(damage.RANDOM_FLIP_COUNT),
    ],
    ids=lambda mutation: mutation.name,
)
def test_every_damage_is_named_and_repaired(sound, written, tmp_path, mutation):
    """And no reader gives a sample that is not the one that was written."""
    root = damage.copy_dataset(sound, tmp_path)
    expected, words = mutation.apply(root)
    dataset, (read, refused) = Dataset(root), given(root)
    assert read.items() <= written.items() and (refused or read == written)
    found, agreed = (
        verify(dataset),
        mutation.name.endswith("a record that agrees"),
    )  # of which the derived files differ too
    assert names(found) - set(damage.DERIVED_FILES if agreed else ()) == expected
    assert words in " ".join(map(str, found.faults))
    assert repair(dataset, found, lambda: damage.in_process_builder(dataset)).is_sound != agreed
    assert damage.read_promised_files(root) == damage.read_promised_files(sound)


@pytest.mark.parametrize("path", damage.CONTRACT_FILES)
@pytest.mark.parametrize("place", [None, *np.linspace(0.0, 0.999, 9)])
def test_a_damaged_plan_or_contract_is_named_and_nothing_is_touched(sound, tmp_path, path, place):
    root = damage.copy_dataset(sound, tmp_path)
    damage.delete_file(path, root) if place is None else damage.flip_bit(
        path, float(place), 1, root
    )
    before, dataset = damage.read_promised_files(root), Dataset(root)
    found = verify(dataset)
    assert [(fault.path, fault.remedy) for fault in found.faults] == [
        (path, Remedy.NEW_FOLDER)
    ] and "--out" in found.faults[0].what
    assert not repair(dataset, found, lambda: damage.in_process_builder(dataset)).is_sound
    assert damage.read_promised_files(root) == before


def test_faults_of_many_files_are_all_named_and_all_repaired(sound, tmp_path):
    root = damage.copy_dataset(sound, tmp_path)
    expected = (
        damage.flip_bit(damage.TARS[0], 0.2, 3, root)[0]
        | damage.flip_bit(damage.TARS[0], 0.9, 3, root)[0]
        | damage.delete_file(damage.TARS[1], root)[0]
    )
    expected |= (
        damage.flip_bit("histograms/test-000000.safetensors", 0.5, 0, root)[0]
        | damage.add_file("shards/notes.txt", root)[0]
    )
    dataset = Dataset(root)
    found = verify(dataset)
    assert (
        names(found) == expected
        and sum(fault.path == damage.TARS[0] for fault in found.faults) == 2
    )
    assert repair(dataset, found, lambda: damage.in_process_builder(dataset)).is_sound
    assert damage.read_promised_files(root) == damage.read_promised_files(sound)
    assert (root / ".removed" / "shards" / "notes.txt").read_bytes() == b"someone's"


def test_what_repair_moves_aside_never_covers_what_is_there(sound, tmp_path):
    root = damage.copy_dataset(sound, tmp_path)
    dataset = Dataset(root)
    for text in ("first", "second"):
        (root / "shards" / "notes.txt").write_text(text)
        assert repair(dataset, verify(dataset), lambda: damage.in_process_builder(dataset)).is_sound
    assert {path.read_text() for path in (root / ".removed" / "shards").iterdir()} == {
        "first",
        "second",
    }


def test_a_shard_whose_video_is_gone_is_left_as_it_is(sound, tmp_path, capsys):
    root = damage.copy_dataset(sound, tmp_path)
    damage.flip_bit(damage.TARS[0], 0.2, 3, root)
    damage.delete_file("README.md", root)
    before, dataset = damage.read_promised_files(root), Dataset(root)
    (video, *_) = {row.uri for row in dataset.planned_rows() if row.shard == damage.SHARDS[0]}
    hidden = Dataset(video).root.rename(video + ".hidden")
    try:
        assert not repair(
            dataset, verify(dataset), lambda: damage.in_process_builder(dataset)
        ).is_sound
    finally:
        hidden.rename(video)
    assert f"shard {damage.SHARDS[0]} is left as it is: video {video}" in capsys.readouterr().out
    assert {
        name: data for name, data in damage.read_promised_files(root).items() if name != "README.md"
    } == before


def test_a_shard_that_comes_out_otherwise_is_said_to(sound, tmp_path, capsys):
    root = damage.copy_dataset(sound, tmp_path)
    damage.rewrite_record(damage.SHARDS[0], {"tar": {"sha256": "0" * 64, "bytes": 1}}, root)
    dataset = Dataset(root)
    assert not repair(dataset, verify(dataset), lambda: damage.in_process_builder(dataset)).is_sound
    assert f"shard {damage.SHARDS[0]} came out differently" in capsys.readouterr().out
    assert damage.read_promised_files(root) == damage.read_promised_files(sound)


def test_an_unfinished_data_set_is_not_a_damaged_one(sound, tmp_path):
    root = damage.copy_dataset(sound, tmp_path)
    for name in damage.DERIVED_FILES:
        (root / name).unlink()
    (root / "records" / "train-000001.json").unlink()
    damage.add_file(f"shards/.train-000001.tar.{'0' * 32}.tmp", root)
    found = verify(Dataset(root))
    assert found.faults == [] and found.unbuilt == ["train-000001"] and not found.compared
    damage.flip_bit(damage.TARS[0], 0.5, 0, root)
    assert names(verify(Dataset(root))) == {damage.TARS[0]}


def test_a_file_in_the_making_is_no_fault_while_a_run_goes_on(sound, tmp_path):
    root = damage.copy_dataset(sound, tmp_path)
    (path,), _ = damage.add_file(f"shards/.a.tar.{'0' * 32}.tmp", root)
    (root / "manifest.parquet").unlink()
    assert names(verify(Dataset(root), is_idle=False)) == set()
    assert names(verify(Dataset(root))) == {path, "manifest.parquet"}


def test_no_data_set_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="holds no dataset"):
        verify(Dataset(tmp_path))


@pytest.mark.parametrize(
    "config",
    [
        damage.CONFIG,
        BuildConfig(thresholds=PRESETS["none"], plan=PlanConfig(fps=29.97), damp=True),
        BuildConfig(flow=FlowConfig(flow="dis", dis_preset="fine")),
    ],
)
def test_a_configuration_comes_back_from_its_contract(config):
    assert from_contract(to_json_value(to_contract(config))) == config


def test_weights_are_named_beside_the_contract():
    contract = to_json_value(to_contract(BuildConfig())) | {
        "flow": {"flow": "raft_small", "weights": "ab" * 32, "updates": 6, "device": "cpu"}
    }
    assert from_contract(contract, "mine.pth").flow == FlowConfig(
        flow="raft_small", weights="mine.pth", updates=6, device="cpu"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"size": None},
        {"unknown": 1},
        {"plan": 3},
        {"thresholds": {}},
        {"flow": 1},
        {"frequencies": 99},
    ],
)
def test_settings_that_make_no_sense_are_refused(change):
    with pytest.raises(ValueError, match="cannot be read"):
        from_contract(to_json_value(to_contract(BuildConfig())) | change)


@pytest.fixture(scope="module")
def viewed(sound, tmp_path_factory):
    """With two views."""
    root = damage.copy_dataset(sound, tmp_path_factory.mktemp("viewed"))
    for name, share in (("strict", 0.2), ("loose", 0.9)):
        refilter(Dataset(root), name, replace(PRESETS["subtle"], camera_motion=share), map_serially)
    assert verify(Dataset(root)).faults == []
    return root


def edit(path: Path) -> None:
    """As a person does it, in an editor."""
    text = path.read_text()
    assert '"camera_motion": 0.2' in text
    path.write_text(text.replace('"camera_motion": 0.2', '"camera_motion": 0.9'))


def flip_a_bit(path: Path) -> None:
    damage.flip_bit(path.name, 0.7, 0, path.parent)


def seal_again(path: Path) -> None:
    """The definition of another view, under this one's name."""
    path.write_bytes(path.with_name("loose.json").read_bytes())


def seal_of_another_run(path: Path) -> None:
    damage.rewrite_sealed_file(path, run="0" * 64)


@pytest.mark.sample(2)
@pytest.mark.slow
@pytest.mark.parametrize("harm", [edit, flip_a_bit, seal_again, seal_of_another_run, Path.unlink])
def test_an_edited_definition_of_a_view_is_what_is_named(viewed, tmp_path, harm, capsys):
    root = damage.copy_dataset(viewed, tmp_path)
    before = damage.read_promised_files(root)
    before = {name: data for name, data in before.items() if not name.startswith("views/strict.")}
    harm(root / "views" / "strict.json")
    dataset = Dataset(root)
    parts = {path.name: path.read_bytes() for path in (root / "views").glob("strict.*")}
    found = verify(dataset)
    (fault,) = found.faults
    assert (fault.path, fault.remedy) == ("views/strict.json", Remedy.MOVE_VIEW)
    assert "quiver refilter" in found.faults[0].what
    with pytest.raises(ValueError, match=r"strict\.json"):
        DatasetView(dataset, "strict").thresholds()
    assert repair(dataset, found, lambda: damage.in_process_builder(dataset)).is_sound
    assert f"quiver refilter {root} --name strict makes it again" in capsys.readouterr().out
    assert damage.read_promised_files(root) == before and verify(dataset).faults == []
    aside = (root / ".removed" / "views").iterdir()
    assert {path.name: path.read_bytes() for path in aside} == parts


@pytest.mark.thorough
def test_every_flipped_bit_of_what_defines_something_is_named_as_that_files(viewed, tmp_path):
    root = damage.copy_dataset(viewed, tmp_path)
    for name, remedy in (("run.json", Remedy.NEW_FOLDER), ("views/strict.json", Remedy.MOVE_VIEW)):
        path = root / name
        whole = path.read_bytes()
        for place in range(3, 8 * len(whole), 8 * len(whole) // 40):
            data = bytearray(whole)
            data[place // 8] ^= 1 << place % 8
            path.write_bytes(data)
            (fault,) = verify(Dataset(root)).faults
            assert (fault.path, fault.remedy) == (name, remedy)
        path.write_bytes(whole)


PARTS = ["parquet", "index.json", "histogram.safetensors", "statistics.json"]


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_file_of_a_view_is_named_and_written_again(viewed, tmp_path, part):
    root = damage.copy_dataset(viewed, tmp_path)
    damage.flip_bit(f"views/strict.{part}", 0.5, 2, root)
    (root / "views" / "notes.txt").write_text("someone's")
    found = verify(Dataset(root))
    faults = {fault.path: fault.remedy for fault in found.faults}
    assert faults == {f"views/strict.{part}": Remedy.FINALIZE, "views/notes.txt": Remedy.MOVE}
    assert repair(Dataset(root), found, lambda: damage.in_process_builder(Dataset(root))).is_sound
    assert damage.read_promised_files(root) == damage.read_promised_files(viewed)


def test_scales_that_were_edited_are_refused(sound, tmp_path):
    path = damage.copy_dataset(sound, tmp_path) / "statistics.json"
    path.write_text(path.read_text().replace('"windows": ', '"windows": 1'))
    with pytest.raises(ValueError, match="not a statistics file: has changed since it was written"):
        decode_statistics(path.read_bytes())


TAILS = [0.2, 0.6, 0.9, 0.99, 0.995]


@pytest.mark.parametrize("shard", damage.SHARDS)
@pytest.mark.parametrize("share", TAILS)
def test_a_committed_tar_whose_tail_is_zeros_is_not_taken_for_whole(sound, tmp_path, shard, share):
    root = damage.copy_dataset(sound, tmp_path)
    damage.zero_tail(f"shards/{shard}.tar", share, root)
    words = rf"shards/{shard}\.tar .*: quiver verify {root} names every fault"
    with pytest.raises(DamagedShard, match=words):
        finalize(Dataset(root))


def test_committed_tars_that_changed_places_are_not_taken_for_whole(sound, tmp_path):
    """Also where both have the same size, as tars of uncompressed samples do."""
    root = damage.copy_dataset(sound, tmp_path)
    one, other = damage.TARS[:2]
    damage.swap_files(one, other, root)
    for path in (one, other):
        data, size = (root / path).read_bytes(), (sound / path).stat().st_size
        (root / path).write_bytes(data.ljust(size, b"\0")[:size])
    words = r"train-000000\.tar does not hold clip-0-000000\.image\.png where its record says"
    with pytest.raises(DamagedShard, match=words):
        finalize(Dataset(root))


def test_a_data_set_says_which_quiver_made_it(sound):
    """The contract, samples, scales and tables name it; a record names the one that built it."""
    dataset, name = Dataset(sound), quiver_version()
    assert dataset.contract().versions["quiver"] == name
    read = [one for shard in damage.SHARDS for one in iter_samples(DatasetView(dataset), shard)]
    assert {sample.meta["quiver"] for sample in read} == {name}
    (source,) = decode_statistics(dataset.statistics.read_bytes()).sources
    assert source.quiver == name
    assert pq.read_schema(dataset.manifest).metadata[b"quiver"] == name.encode()
    assert {dataset.read_record(shard).quiver for shard in damage.SHARDS} == {name}


def test_a_later_quiver_repairs_to_the_same_bytes_and_its_record_names_it(
    sound, tmp_path, monkeypatch
):
    root = damage.copy_dataset(sound, tmp_path)
    damage.flip_bit(damage.TARS[0], 0.5, 1, root)
    monkeypatch.setattr("pipeline.dataset.commit.quiver_version", lambda: "9.9")
    dataset = Dataset(root)
    assert repair(dataset, verify(dataset), lambda: damage.in_process_builder(dataset)).is_sound
    after, before = damage.read_promised_files(root), damage.read_promised_files(sound)
    record = f"records/{damage.SHARDS[0]}.json"
    assert {name for name in before if after[name] != before[name]} == {record}
    assert json.loads(after[record])["quiver"] == "9.9"


def test_another_pyarrow_writes_other_bytes_and_is_no_fault(sound, tmp_path, monkeypatch):
    """Tables are compared by their rows then, and indexes without the table's digest, which must be
    its own.
    """
    root = damage.copy_dataset(sound, tmp_path)
    table = pq.read_table(root / "manifest.parquet")
    pq.write_table(table, root / "manifest.parquet", compression="gzip", row_group_size=1024)
    digest = hashlib.sha256((root / "manifest.parquet").read_bytes()).hexdigest()
    damage.rewrite_sealed_file(root / "index.json", manifest=digest)
    assert names(verify(Dataset(root))) == {"manifest.parquet", "index.json"}
    monkeypatch.setattr("pipeline.maintain.verify.pa.__version__", "0")
    assert verify(Dataset(root)).faults == []
    damage.rewrite_sealed_file(root / "index.json", manifest="0" * 64)
    assert names(verify(Dataset(root))) == {"index.json"}
