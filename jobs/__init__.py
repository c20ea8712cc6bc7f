"""The verbs. An older Python reads no further than this."""

import platform
import sys

if sys.version_info < (3, 11):  # noqa: UP036 - as one who has not installed it yet may call it
    raise SystemExit(
        "quiver: this is Python "
        + platform.python_version()
        + ", expected 3.11 or newer: install it, and call it by its name"
    )

from jobs.cli.errors import prepare_process  # not above: Python may be too old for it

prepare_process()
