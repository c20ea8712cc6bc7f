"""What is not installed is one sentence that names the extra, whatever the verb, and however it is
called.
"""

import re
import subprocess
import sys

import pytest

from jobs.cli.main import VERBS
from tests.support.hidden import (
    MODULE_NAMES,
    ROOT,
    make_environment,
    modules_by_extra,
    run_commands_without,
    run_without,
)
from tests.support.videos import write_swaying

EXTRAS = modules_by_extra()
EVERY = set().union(*EXTRAS.values())
SENTENCE = re.compile(
    r"quiver: the package (\S+) is not installed, expected it here: pip install '\.\[(\w+)\]'\n"
)
FIRST = {"ablate": ["smoke"]} | {verb: ["smoke"] for verb in VERBS if verb.startswith("train-")}


@pytest.mark.thorough
@pytest.mark.parametrize("extra", [*EXTRAS, "all"])
def test_every_verb_helps_or_names_the_extra_that_it_lacks(tmp_path, extra):
    """A verb fails in no other way, and does not ask for what it needs only later."""
    hidden = EVERY if extra == "all" else EXTRAS[extra]
    commands = [["quiver", verb, *FIRST.get(verb, []), "--help"] for verb in VERBS]
    lacking = set()
    for command, (code, out, err) in zip(
        commands, run_commands_without(commands, tmp_path, hidden), strict=True
    ):
        said = SENTENCE.fullmatch(err)
        assert (code == 0 and "usage:" in out) or (code == 2 and out == "" and said), (
            command,
            code,
            err,
        )
        if said:
            bringing = {
                name
                for name, modules in EXTRAS.items()
                if MODULE_NAMES.get(said[1], said[1]) in modules
            }
            assert said[2] in bringing, (command, err)
            lacking.add(command[1])
    assert "doctor" not in lacking
    assert lacking >= {
        "extract": {"extract-flow", "animate", "verify", "user-study"},
        "train": {"train-denoiser", "train-autoencoder"},
        "all": {"extract-flow", "animate", "train-renderer"},
    }.get(extra, set()), lacking


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["jobs/extract_flow.py"], "extract"),
        (["jobs/animate.py"], "train"),
        (["jobs/make_clips.py"], "extract"),
        (["jobs/measure/benchmark_flow.py"], "extract"),
        (["-m", "jobs.verify"], "extract"),
        (["-m", "jobs.train_renderer"], "train"),
    ],
)
def test_a_verb_that_is_run_as_a_module_or_a_file_says_so_too(tmp_path, command, extra):
    found = run_without([*command, "--help"], tmp_path, EVERY, cwd=ROOT)
    said = SENTENCE.fullmatch(found.stderr)
    assert found.returncode == 2 and found.stdout == "" and said and said[2] == extra, found.stderr


@pytest.mark.thorough
def test_what_a_verb_needs_only_later_is_named_then(tmp_path):
    write_swaying(tmp_path / "a.mp4", seconds=4.2)
    arguments = ["--clips", str(tmp_path / "a.mp4"), "--size", "96x64"]
    arguments = [
        "-m",
        "jobs.extract_flow",
        *arguments,
        "--frames",
        "48",
        "--fps",
        "12",
        "--out",
        str(tmp_path / "dataset"),
    ]
    found = run_without(arguments, tmp_path, {"ray"})
    assert found.returncode == 2, found.stderr
    assert found.stderr.splitlines()[-1].startswith("quiver: the package ray is not installed"), (
        found.stderr
    )
    assert "Traceback" not in found.stderr
    found = run_without(
        ["-m", "jobs.verify", "s3://bucket/dataset"], tmp_path, {"boto3", "botocore"}
    )
    assert found.returncode == 2 and "Traceback" not in found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("module", ["jobs.cli.progress", "rich_of_nobody", "pipeline.nothing"])
def test_what_no_extra_brings_keeps_its_traceback(tmp_path, module):
    """A module of ours that is missing, or a stranger's, is a fault of ours: nothing to install
    helps.
    """
    script = f"import sys; sys.argv = ['quiver', 'status', '--help']; import jobs; import {module}"
    if module == "jobs.cli.progress":
        script = "import sys; sys.argv = ['quiver']; import jobs; import jobs.nothing"
    found = subprocess.run(
        [sys.executable, "-c", script],
        env=make_environment(tmp_path, {"nothing"}),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (
        found.returncode == 1 and "Traceback" in found.stderr and "pip install" not in found.stderr
    )


def test_a_part_of_a_package_that_is_missing_is_no_missing_extra(tmp_path):
    script = "import sys; sys.argv = ['quiver']; import jobs; import pyarrow.nothing"
    found = run_without(["-c", script], tmp_path, {"nothing"}, cwd=ROOT)
    assert (
        found.returncode == 1 and "Traceback" in found.stderr and "pip install" not in found.stderr
    )
