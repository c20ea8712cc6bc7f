"""TODO: what this file is."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipeline.redact import redact_secrets

_MAX_LINE_CHARACTERS = 2000
"""Characters of a line that are shown."""
STDOUT_LABEL = "standard output"
"""What an OSError names instead of a file."""


def print_message(sentence: str, who: str = "quiver") -> None:
    """Writes a sentence to standard error, if that can be written."""
    with suppress(OSError):
        # not printed: Ray logs in its processes what is printed, and so it would be said twice
        sys.stderr.write(f"{who}: {sanitize_text(sentence)}\n")
        sys.stderr.flush()


def print_output(text: str) -> None:
    """Prints lines to standard output, as a terminal may be shown them."""
    print_raw(sanitize_text(text))


def print_raw(text: str) -> None:
    """Prints text to standard output as it is. Raises OSError, naming that, if it cannot be
    written.
    """
    with _label_stdout_errors():
        print(text, flush=True)


@contextmanager
def _label_stdout_errors() -> Iterator[None]:
    """An error of writing to standard output, within, names that."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, STDOUT_LABEL) from error


def sanitize_text(text: str) -> str:
    """What a terminal may be shown of text that may come from a file: no control character, no
    endless line, no password of a URL.
    """
    lines = redact_secrets(text).split(
        "\n"
    )  # before they are cut, or a cut password would not be known for one
    return "\n".join(
        "".join(c if c.isprintable() else "?" for c in line[:_MAX_LINE_CHARACTERS])
        + "..." * (len(line) > _MAX_LINE_CHARACTERS)
        for line in lines
    )
