"""The `quiver` command: each verb is a file of this folder."""

import importlib
import sys

from jobs.exits import Exit, put, stop, untraced
from pipeline.version import quiver_version

VERBS = {
    "extract-flow": "from videos to a data set of spectral volumes",
    "doctor": "whether this machine can do all this, and what to do where it cannot",
    "status": "how far a data set is, what became of its windows, what is missing",
    "verify": "reads a data set again and names every fault",
    "repair": "builds again what is damaged",
    "retry": "tries again what failed for a reason that may be the machine's",
    "finalize": "writes the manifest and every other derived file again",
    "report-statistics": "the scales that a trainer reads, and a report of a data set",
    "refilter": "a view of a data set by other thresholds",
    "flow-card": "how far each flow estimator can be believed, and what it costs",
    "make-clips": "procedural videos of swaying things with known motion",
    "train-autoencoder": "learns the autoencoder of frequencies from a data set",
    "train-denoiser": "learns the prior of motion from a data set",
    "train-renderer": "learns to paint a photograph that has moved",
    "sample": "motion for a photograph, from a trained prior",
    "animate": "a photograph becomes a video, or a loop",
    "evaluate": "how near generated videos are to real ones, by every metric that can be had",
    "ceiling": "how good frames can get by the true motion, and by K frequencies of it",
    "preview": "one sample of a data set as a video or a sheet of pictures",
    "ablate": "trains and measures the variants of the paper's table 2",
    "export-page": "a page in which a photograph can be pulled and let go",
    "study": "a page on which people choose between two folders of videos",
    "study-result": "which of them was preferred, and how surely",
}


def main() -> None:
    """Runs the job that the first argument names."""
    verb, *args = sys.argv[1:] or ["--help"]
    if verb in ("-h", "--help"):
        head = "usage: quiver VERB [options]; quiver VERB --help says more\n"
        with untraced("interrupted"):
            put("\n".join([head, *(f"  {name:18} {what}" for name, what in VERBS.items())]))
    elif verb == "--version":
        put(f"quiver {quiver_version()}")
    elif verb in VERBS:
        importlib.import_module(f"jobs.{verb.replace('-', '_')}").main(args)
    else:
        stop(Exit.USAGE, f"no verb {verb!r}, expected one of {', '.join(VERBS)}")


if __name__ == "__main__":
    main()
