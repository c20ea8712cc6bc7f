"""Writes results to standard output and messages to standard error, without secrets and control
characters. Needs no package.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipeline.redact import redact_secrets

_MAX_LINE_CHARACTERS = 2000
"""The rest of a longer line is not shown."""
STDOUT_LABEL = "standard output"
"""What an OSError names instead of a file."""


def print_message(sentence: str, program: str = "quiver") -> None:
    """Writes a sentence to standard error, if that is writable."""
    with suppress(OSError):
        # One write, no print(): Ray logs in its processes what is printed, which would repeat it.
        sys.stderr.write(f"{program}: {sanitize_text(sentence)}\n")
        sys.stderr.flush()


def print_output(text: str) -> None:
    """Prints lines to standard output, as a terminal may show them. Raises OSError as print_raw."""
    print_raw(sanitize_text(text))


def print_raw(text: str) -> None:
    """Prints text to standard output unchanged. Raises OSError, which names standard output, if it
    cannot be written.
    """
    with label_stdout_errors():
        print(text, flush=True)


@contextmanager
def label_stdout_errors() -> Iterator[None]:
    """Lets an OSError in the block, which writes to standard output, name that as its file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, STDOUT_LABEL) from error


def sanitize_text(text: str) -> str:
    """Returns what a terminal may be shown of text that may come from a file: without control
    characters, endless lines and passwords of URLs.
    """
    # Redacted before lines are cut: a password that is cut would not be recognized.
    lines = redact_secrets(text).split("\n")
    return "\n".join(
        "".join(c if c.isprintable() else "?" for c in line[:_MAX_LINE_CHARACTERS])
        + "..." * (len(line) > _MAX_LINE_CHARACTERS)
        for line in lines
    )
