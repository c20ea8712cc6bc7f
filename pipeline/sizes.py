"""Formats amounts of bytes and of time as a person reads them."""

from math import floor, log10

_UNITS = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3}


def human_size(count: int | float) -> str:
    """`12.6 GB`: three digits at most, in units of a thousand each; up to 999 bytes as they are."""
    for unit, least in _UNITS.items():
        if count >= least:
            value = count / least
            text = f"{value:.{max(2 - floor(log10(value)), 0)}f}"
            return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"
    return f"{count:.0f} byte{'' if round(count) == 1 else 's'}"


def human_duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
