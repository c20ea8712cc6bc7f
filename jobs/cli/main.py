"""The `quiver` command: it runs the file that belongs to each verb."""

import difflib
import importlib
import sys

from jobs.cli.console import print_raw
from jobs.cli.errors import ExitCode, exit_with, interrupt_boundary
from pipeline.version import quiver_version

VERBS = {
    "extract-flow": ("jobs.extract_flow", "make a dataset of spectral volumes from videos"),
    "doctor": ("jobs.doctor", "check this machine, and say how to put right what is missing"),
    "status": ("jobs.status", "show how far a dataset is and what became of its windows"),
    "verify": ("jobs.verify", "read a dataset again and name every fault"),
    "repair": ("jobs.repair", "rebuild what is damaged"),
    "retry": ("jobs.retry", "try again what may have failed because of the machine"),
    "finalize": ("jobs.finalize", "rewrite the manifest and every other derived file"),
    "report-statistics": (
        "jobs.report_statistics",
        "compute the scales for training and write the report",
    ),
    "refilter": ("jobs.refilter", "make a view of a dataset by other thresholds"),
    "preview": ("jobs.preview", "show one sample as a video or a sheet of pictures"),
    "make-clips": (
        "jobs.make_clips",
        "render procedural videos, or a dataset of painted scenes, with known motion",
    ),
    "train-autoencoder": (
        "jobs.train_autoencoder",
        "learn the autoencoder of frequencies from a dataset",
    ),
    "train-denoiser": ("jobs.train_denoiser", "learn the motion prior from a dataset"),
    "train-renderer": ("jobs.train_renderer", "learn to render a photograph that has moved"),
    "sample": ("jobs.sample", "sample motion for a photograph from a trained prior"),
    "animate": ("jobs.animate", "turn a photograph into a video or a loop"),
    "export-page": (
        "jobs.export_page",
        "write a page on which a photograph can be pulled and let go",
    ),
    "evaluate": ("jobs.measure.evaluate", "measure how close generated videos are to real ones"),
    "evaluate-prior": (
        "jobs.measure.evaluate_prior",
        "measure a prior on scenes that it was not trained on, beside simple predictions",
    ),
    "upper-bound": (
        "jobs.measure.upper_bound",
        "measure how good frames can get with the true motion",
    ),
    "ablate": ("jobs.measure.ablate", "train and measure the variants of the paper's table 2"),
    "benchmark-flow": (
        "jobs.measure.benchmark_flow",
        "measure the error and cost of each flow estimator",
    ),
    "user-study": (
        "jobs.measure.user_study",
        "write a page on which people compare two sets of videos",
    ),
    "score-study": ("jobs.measure.score_study", "evaluate the answers to a user study"),
}
"""The module and the one-line description of each verb."""
_RENAMED = {
    "ceiling": "upper-bound",
    "flow-card": "benchmark-flow",
    "study": "user-study",
    "study-result": "score-study",
}
"""Former names of verbs."""


def main() -> None:
    """Runs the verb that the first argument names."""
    verb, *args = sys.argv[1:] or ["--help"]
    if verb == "help" and args:
        verb, args = args[0], ["--help"]
    if verb in ("-h", "--help", "help"):
        head = "usage: quiver VERB [options]; quiver VERB --help says more\n"
        with interrupt_boundary("interrupted"):
            print_raw(
                "\n".join([head, *(f"  {name:18} {text}" for name, (_, text) in VERBS.items())])
            )
    elif verb in ("--version", "version"):
        print_raw(f"quiver {quiver_version()}")
    elif verb in VERBS:
        importlib.import_module(VERBS[verb][0]).main(args)
    elif verb in _RENAMED:
        exit_with(
            ExitCode.USAGE, f"{verb} is now called {_RENAMED[verb]}: quiver {_RENAMED[verb]} --help"
        )
    elif near := difflib.get_close_matches(verb, [*VERBS, *_RENAMED], n=1):
        name = _RENAMED.get(near[0], near[0])
        exit_with(ExitCode.USAGE, f"there is no verb {verb!r}, did you mean {name}?")
    else:
        exit_with(ExitCode.USAGE, f"there is no verb {verb!r}, expected one of {', '.join(VERBS)}")


if __name__ == "__main__":
    main()
