"""Decodes video files into frames at the working resolution, with their own presentation times.

In the process that needs frames:
    pool.py             READ FIRST: several decoder processes, and frames ahead of their use
    client.py           one decoder process: requests, deadline, memory limit
    config.py           the settings
    media_file.py       whether a file can be read at all; the types that decoders share

In the decoder process, which may hang, leak or crash without harm:
    worker.py           its main loop
    sandbox.py          the rights that it gives up
    probe.py            what a file is, and when each of its frames is shown (PyAV)
    container.py        opens a file that may be hostile; its frames, each with its damage
    select_decoder.py   which decoder reads it: decord, if its frames are PyAV's
    readers.py          its frames, with that decoder, and with PyAV whenever decord fails
    pyav_reader.py      frames with PyAV
    decord_reader.py    frames with decord
    picture.py          from a decoded frame to RGB

No other folder opens a video to read it. Imports of this package run one way: it imports schemas
only.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.decode.config import DecodeConfig

if TYPE_CHECKING:
    from pipeline.decode.pool import DecoderPool, shared_pool

__all__ = ["DecodeConfig", "DecoderPool", "shared_pool"]


def __getattr__(name: str) -> Any:
    """Imports the pool when it is asked for: a decoder process itself must not load it."""
    if name in __all__:
        return getattr(import_module("pipeline.decode.pool"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
