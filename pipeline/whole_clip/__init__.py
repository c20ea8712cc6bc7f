"""Clips held in memory as a whole: for metrics, and for the motion of a single video.

    frames.py         opens and decodes clips of one size, with their digests
    flow.py           flow over all frames of a clip
    first_window.py   the motion of one video's first window, as an extraction would store it

Import from the modules: all of them need the decoder.
"""
