"""The `quiver` command: help, version, and verbs that are misspelled or have another name now."""

import importlib
import sys

import pytest

from jobs.cli.errors import ExitCode
from jobs.cli.main import VERBS, main
from pipeline.version import quiver_version

RENAMED = {
    "ceiling": "upper-bound",
    "flow-card": "benchmark-flow",
    "study": "user-study",
    "study-result": "score-study",
}


def run(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    """Runs `quiver` with these words; returns exit code, standard output and standard error."""
    monkeypatch.setattr(sys, "argv", ["quiver", *words])
    code = 0
    try:
        main()
    except SystemExit as stopped:
        code = stopped.code or 0
    return code, *capsys.readouterr()


@pytest.mark.parametrize("words", [(), ("help",), ("-h",), ("--help",)])
def test_help_lists_every_verb_with_what_it_does(monkeypatch, capsys, words):
    code, out, err = run(monkeypatch, capsys, *words)
    assert (code, err) == (0, "") and out.startswith("usage: quiver VERB")
    lines = [line.split(maxsplit=1) for line in out.splitlines()[2:]]
    assert lines == [[verb, text] for verb, (_, text) in VERBS.items()]


def test_every_verb_has_a_module_with_a_main():
    assert all(callable(importlib.import_module(module).main) for module, _ in VERBS.values())


@pytest.mark.parametrize("verb", ["status", "doctor"])
def test_help_of_a_verb_is_what_the_verb_shows(monkeypatch, capsys, verb):
    shown = run(monkeypatch, capsys, "help", verb)
    assert shown == run(monkeypatch, capsys, verb, "--help")
    assert shown[0] == 0 and shown[1].startswith(f"usage: quiver {verb}")


@pytest.mark.parametrize("words", ["version", "--version"])
def test_version(monkeypatch, capsys, words):
    assert run(monkeypatch, capsys, words) == (0, f"quiver {quiver_version()}\n", "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("statsu",), "there is no verb 'statsu', did you mean status?"),
        (("help", "train-render"), "there is no verb 'train-render', did you mean train-renderer?"),
        (
            ("extract_flow", "--out", "a"),
            "there is no verb 'extract_flow', did you mean extract-flow?",
        ),
        (("ceilng",), "there is no verb 'ceilng', did you mean upper-bound?"),
        (("xyzzy",), f"there is no verb 'xyzzy', expected one of {', '.join(VERBS)}"),
    ],
)
def test_a_misspelled_verb_is_one_sentence(monkeypatch, capsys, words, sentence):
    assert run(monkeypatch, capsys, *words) == (ExitCode.USAGE, "", f"quiver: {sentence}\n")


@pytest.mark.parametrize("former", RENAMED)
def test_a_former_name_leads_to_the_verb(monkeypatch, capsys, former):
    name = RENAMED[former]
    sentence = f"quiver: {former} is now called {name}: quiver {name} --help\n"
    assert run(monkeypatch, capsys, former) == (ExitCode.USAGE, "", sentence)
    assert run(monkeypatch, capsys, "help", former) == (ExitCode.USAGE, "", sentence)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("verify", "data", "--worker", "2"), "--workers INT"),
        (("status", "data", "--jsn"), "--json, --no-json"),
    ],
)
def test_a_misspelled_option_leads_to_the_nearest(monkeypatch, capsys, words, meant):
    code, out, err = run(monkeypatch, capsys, *words)
    assert (code, out) == (ExitCode.USAGE, "") and err.count("\n") == 1
    assert f"is not known, perhaps {meant} was meant; quiver {words[0]} --help says more" in err
