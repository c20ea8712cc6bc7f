"""The verbs of the `quiver` command: a thin file for each, which parses, calls and prints.

- extract_flow (READ FIRST), retry, repair, verify, status, finalize, refilter, report_statistics,
  preview, make_clips: datasets
- train_autoencoder, train_denoiser, train_renderer: training
- sample, animate, export_page: motion of a photograph
- doctor/: checks of this machine
- measure/, ablation/: evaluation
- cli/: what the verbs share: the command line, errors, output
- cluster/: the only place that imports Ray

An older Python reads no further than this file.
"""

import platform
import sys

if sys.version_info < (3, 11):  # noqa: UP036 - Quiver may be called without having been installed
    raise SystemExit(
        "quiver: this is Python "
        + platform.python_version()
        + ", expected 3.11 or newer: install it, and call it by its name"
    )

from jobs.cli.errors import prepare_process  # not above: Python may be too old

prepare_process()
