"""A mistake on the command line is one sentence, whatever the verb, terminal and words."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli.main import VERBS
from jobs.cli.main import main as quiver
from jobs.cli.presets import AUTOENCODERS, DENOISERS, RENDERERS

ROOT = Path(__file__).parents[3]
SAMPLE = ["sample", "photo.png", "--checkpoint", "prior", "--out", "motion.safetensors"]
SMOKE = ["train-renderer", "smoke", "--data", "data", "--out", "out"]
FIRST = {
    "sample": ["photo.png"],
    "preview": ["data", "key"],
    "user-study": ["a", "b"],
    "ablate": ["smoke"],
} | {verb: ["data"] for verb in ("status", "verify", "repair", "retry", "finalize", "refilter")}
"""Arguments that come before the options."""


def refused(monkeypatch, capsys, *words: str) -> str:
    """Returns the sentence that says what is wrong with the words after `quiver`."""
    monkeypatch.setattr(sys, "argv", ["quiver", *words])
    with pytest.raises(SystemExit) as stopped:
        quiver()
    shown = capsys.readouterr()
    assert stopped.value.code == 2 and shown.out == "", shown.out
    return sentence(shown.err, words[0])


def sentence(said: str, verb: str) -> str:
    """Returns the message without what surrounds every message."""
    before, after = f"quiver {verb}: ", f"; quiver {verb} --help says more\n"
    assert said.startswith(before) and said.endswith(after) and said.count("\n") == 1, said
    return said.removeprefix(before).removesuffix(after)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_names_the_option_that_it_does_not_know(monkeypatch, capsys, verb):
    first = ["smoke"] if verb.startswith("train-") else FIRST.get(verb, [])
    assert "--nonsense is not known" in refused(monkeypatch, capsys, verb, *first, "--nonsense")


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["sample"], "missing PHOTO, --checkpoint PATH, --out PATH"),
        (
            ["sample", "photo.png", "--chekpoint", "prior", "--out", "a"],
            "missing --checkpoint PATH; --chekpoint prior is not known",
        ),
        (
            [*SAMPLE, "--devise", "cpu"],
            "--devise cpu is not known, perhaps --device {cuda,cpu} was meant",
        ),
        (["sample", "--devise", "cpu"], "missing PHOTO"),
        ([*SAMPLE, "more"], "more is not known"),
        ([*SAMPLE, "--device", "tpu"], "--device is tpu, expected one of cuda, cpu"),
        ([*SAMPLE, "--seed", "one"], "--seed is one, expected a whole number"),
        ([*SAMPLE, "--guidance=much"], "--guidance is much, expected a number"),
        ([*SAMPLE, "--seed"], "--seed has no value"),
        ([*SAMPLE, "--steps", "0"], "--steps is 0, expected 1 to 1000"),
        ([*SMOKE, "--crop", "3"], "--crop is 3, expected INT INT"),
        ([*SMOKE, "--learning_rate", "fast"], "--learning-rate is fast, expected a number"),
        ([*SMOKE, "--batch", "0"], "batch is 0, expected at least 1"),
        (
            ["train-renderer", "--preset"],
            "the preset is missing, expected first one of smoke, laptop, small, paper",
        ),
        (
            ["train-renderer", "--preset", "large"],
            "the preset is large, expected first one of smoke, laptop, small, paper",
        ),
        (
            ["train-renderer", "--preset=smoke", *SMOKE[2:], "--batch", "0"],
            "batch is 0, expected at least 1",
        ),
        (
            ["train-renderer"],
            "the preset is missing, expected first one of smoke, laptop, small, paper",
        ),
        (
            ["animate", "--out", "a.mp4", "--motion-from", "b.mp4", "--loop", "round"],
            "--loop is round, expected one of auto, none, snap, crossfade, guided",
        ),
        (
            [*SAMPLE[:-1], "s3://bucket/a.safetensors"],
            "--out is 's3://bucket/a.safetensors', expected a path of this machine",
        ),
        (
            [*SMOKE, "--out", "file:///data/out"],
            "--out is 'file:///data/out', expected a path of this machine",
        ),
        (
            [*SMOKE, "--out=https://me:secret@[::1]/a"],
            "--out is 'https://***@[::1]/a', expected a path of this machine",
        ),
        (
            ["make-clips", "--out", "s3:///bucket"],
            "--out is 's3:///bucket', expected a path of this machine",
        ),
        (
            ["animate", "--out", "a.mp4", "--motion-from", "b.mp4", "--slice", "gs://c/a.png"],
            "--slice is 'gs://c/a.png', expected a path of this machine",
        ),
        (
            ["doctor", "--out", "s3://bucket/a"],
            "--out is 's3://bucket/a', expected a path of this machine",
        ),
        (
            ["report-statistics", "a", "--out", "b", "--report", "s3://c/d"],
            "--report is 's3://c/d', expected a path of this machine",
        ),
        (
            ["extract-flow", "--clips", "a", "--out", "b", "--size", "3"],
            "--size is 3, expected WIDTHxHEIGHT",
        ),
    ],
)
def test_it_says_what_is_wrong_and_what_was_expected(monkeypatch, capsys, words, wrong):
    assert refused(monkeypatch, capsys, *words) == wrong


def test_a_long_name_is_not_broken(monkeypatch, capsys):
    """No line is broken at the width of the terminal, if there are no blanks in it."""
    name = "/".join(["folder"] * 40) + "/a.mp4"
    assert (
        refused(monkeypatch, capsys, *SAMPLE[:-1], name)
        == f"--out is {name}, expected a name that ends in .safetensors"
    )
    monkeypatch.setenv("COLUMNS", "50")
    assert (
        name in refused(monkeypatch, capsys, *SAMPLE[:-1], name) and os.environ["COLUMNS"] == "50"
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    "settings", [{"TERM": "xterm"}, {"TERM": "xterm", "PYTHONIOENCODING": "ascii"}]
)
def test_a_terminal_s_colours_and_letters_are_not_in_the_way(settings):
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "jobs.cli.main", *SAMPLE, "--seed", "one"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | settings,
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert (
        done.returncode == 2
        and sentence(done.stderr, "sample") == "--seed is one, expected a whole number"
    )


PRESETS = {
    "train-autoencoder": AUTOENCODERS,
    "train-denoiser": DENOISERS,
    "train-renderer": RENDERERS,
}


def helped(monkeypatch, capsys, verb: str) -> str:
    """Returns the output of --help, on a terminal that breaks no line."""
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setattr(sys, "argv", ["quiver", verb, "--help"])
    with pytest.raises(SystemExit) as stopped:
        quiver()
    assert not stopped.value.code
    return capsys.readouterr().out


def test_help_joins_the_lines_of_a_long_docstring(monkeypatch, capsys):
    shown = helped(monkeypatch, capsys, "extract-flow")
    assert (
        "Folders (searched recursively), video files, s3:// of either, or .parquet or .csv tables "
        "with a uri column." in shown
    )


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(monkeypatch, capsys, verb):
    assert f"usage: quiver {verb}" in helped(monkeypatch, capsys, verb)


@pytest.mark.parametrize("verb", PRESETS)
def test_the_help_of_a_training_explains_presets(monkeypatch, capsys, verb):
    """Help explains presets, with hardware and time of each, after a command to copy."""
    shown = helped(monkeypatch, capsys, verb)
    assert (
        shown.index(f"quiver {verb} smoke --data DATASET")
        < shown.index("A preset comes first: one name for")
        < shown.index("smoke  ")
    )
    for name, (text, *_) in PRESETS[verb].items():
        assert re.search(rf"{name} +{re.escape(text)}", shown) and re.search(
            r"(cores|GPUs?)\b.*\b(minutes?|hours|days?)\b", text
        ), text


@pytest.mark.parametrize("verb", [*PRESETS, "sample", "animate"])
def test_the_commands_that_help_shows_can_be_given(monkeypatch, capsys, tmp_path, verb):
    """They fail only because their files are missing."""
    commands = [
        line.split()
        for line in helped(monkeypatch, capsys, verb).splitlines()
        if line.startswith("    quiver ")
    ]
    monkeypatch.chdir(tmp_path)
    for command in commands:
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stopped:
            quiver()
        said = capsys.readouterr().err
        assert stopped.value.code == 2 and said.startswith("quiver: ") and said.count("\n") == 1, (
            said
        )
    assert commands


@pytest.mark.thorough
@pytest.mark.parametrize("verb", ["animate", "extract-flow", "report-statistics"])
def test_help_names_what_an_option_takes(verb):
    """Help shows the kind of value, and not that None stands for its absence."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli.main", verb, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert (
        done.returncode == 0
        and "{None}" not in done.stdout
        and re.search(r"--(slice|staging|report) PATH ", done.stdout)
    )
