"""Moves a stored sample again, to look at it.

    reconstruct.py   a sample's motion and the frames it makes, beside the real frames
    panels.py        pictures of a reconstruction, for `quiver preview`

Import from the modules: both need pyarrow and the decoder.
"""
