"""P13: a run goes on with what it was begun with, and with nothing else."""

import shutil
from collections.abc import Iterator
from dataclasses import fields
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from jobs.cli.errors import ExitCode
from jobs.extract_flow import parse_job
from pipeline.extract.config import BuildConfig
from tests.faults.reference import (
    CLIP_COUNT,
    Reference,
    committed_files,
    extract_command,
    promised_digests,
    write_table,
)
from tests.faults.runs import build_in_process

pytestmark = pytest.mark.promise("P13")
NEUTRAL = {
    "weights",
    "networks",
    "updates",
    "pairs_per_batch",
    "device",
    "precision",
    "compile",
    "warm_start",
}
"""What says something of RAFT alone changes nothing of a run with DIS."""


def settings(config: Any, kind: type = BuildConfig) -> Iterator[tuple[str, Any, Any]]:
    """Name, kind and value of every setting, from the configuration's types."""
    kinds = get_type_hints(kind)
    for field in fields(kind):
        value = getattr(config, field.name)
        if hasattr(kinds[field.name], "__dataclass_fields__"):
            yield from settings(value, kinds[field.name])
        else:
            yield field.name, kinds[field.name], value


def changed(name: str, kind: Any, value: Any) -> list[str]:
    """The option that gives a setting another value."""
    option = f"--{name.replace('_', '-')}"
    if kind is bool:
        return [f"--no-{option[2:]}" if value else option]
    if get_origin(kind) is Literal:
        return [
            option,
            next(
                other
                for other in get_args(kind)
                if other != value and not str(other).startswith("raft")
            ),
        ]
    if kind is str:
        return [option, "hub" if name == "networks" else __file__]
    if kind == tuple[int, int]:
        return [option, f"{value[0]}x{value[1] + 16}"]
    if name == "frequencies":
        return [option, str(value - 1)]
    return [option, str(value + 1 if kind is int else value * 0.875 if isfinite(value) else 3.5)]


SETTINGS = list(settings(parse_job(extract_command(Path("clips"), Path("out"))[3:]).build))


@pytest.fixture(scope="module")
def begun(reference, tmp_path_factory) -> Path:
    return Path(shutil.copytree(reference.root, tmp_path_factory.mktemp("begun") / "dataset"))


def code_of(capsys, clips: Path, out: Path, *options: str) -> tuple[int, str]:
    """Exit code and error output of the same command with more options."""
    code = 0
    try:
        build_in_process(extract_command(clips, out, *options)[3:])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    return code, capsys.readouterr().err


@pytest.mark.sample(8)
@pytest.mark.slow
@pytest.mark.parametrize(
    "name, kind, value",
    [s for s in SETTINGS if s[0] != "flow"],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_another_value_of(reference, begun, capsys, name, kind, value):
    before, option = committed_files(begun), changed(name, kind, value)
    code, said = code_of(capsys, reference.clips, begun, *option)
    if name in NEUTRAL:
        assert code == 0, said
    else:
        assert (
            code == ExitCode.CONTRACT
            and f"{name}: {value if kind != tuple[int, int] else list(value)} -> " in said
        )
    assert committed_files(begun) == before and promised_digests(begun) == reference.digests


def test_every_setting_is_one_or_the_other(record_property):
    """A setting that is added to a configuration is tested above by itself."""
    record_property("injections", 0)
    assert len(SETTINGS) > 30 and {name for name, _, _ in SETTINGS} >= NEUTRAL


def copy_clips_elsewhere(reference: Reference, folder: Path) -> Path:
    """The same clips and table, elsewhere."""
    others = shutil.ignore_patterns("bad *")  # other tests put them beside
    return (
        Path(shutil.copytree(reference.clips.parent, folder / "elsewhere", ignore=others))
        / reference.clips.name
    )


def reordered(table: Path) -> None:
    write_table(table, range(CLIP_COUNT)[::-1])


def grown(table: Path) -> None:
    write_table(table, range(CLIP_COUNT))
    shutil.copy(table.with_name("000.mp4"), table.with_name("new.mp4"))
    with table.open("a") as file:
        file.write("new.mp4,clip-new,train\n")


def shrunk(table: Path) -> None:
    write_table(table, range(CLIP_COUNT - 1))


def edited(table: Path) -> None:
    table.write_text(table.read_text().replace("clip-001,train", "clip-001,test"))


def renamed(table: Path) -> None:
    table.write_text(table.read_text().replace("clip-001", "another"))


def replaced(table: Path) -> None:
    shutil.copy(table.with_name("002.mp4"), table.with_name("001.mp4"))


@pytest.mark.sample(5)
@pytest.mark.slow
@pytest.mark.parametrize(
    "change, words",
    [
        (reordered, ""),
        (grown, "clip added"),
        (shrunk, "clip removed"),
        (edited, "clip changed"),
        (renamed, "clip added"),
        (replaced, "clip changed"),
    ],
)
def test_clips_that_were(reference, begun, tmp_path, capsys, change, words):
    table, before = copy_clips_elsewhere(reference, tmp_path), committed_files(begun)
    change(table)
    code, said = code_of(capsys, table, begun)
    assert (code == ExitCode.CONTRACT and words in said) if words else code == 0, said
    assert committed_files(begun) == before and promised_digests(begun) == reference.digests
