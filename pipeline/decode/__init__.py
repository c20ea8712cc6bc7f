"""A video file becomes frames at the working resolution, with their own presentation times.

    probe.py          what a file is, and when each of its frames is shown (PyAV)
    container.py      opening a file that may be hostile; its frames, each with what is wrong with
                      it
    choice.py         which decoder reads it: decord, if its frames are PyAV's
    readers.py        the frames themselves, by that decoder and by PyAV wherever it fails
    pyav_reader.py    frames by PyAV, decord_reader.py by decord, picture.py from a frame to RGB
    child.py          all of this in a process of its own, which may hang, leak or crash without
                      harm
    process.py        the parent's side of it, sandbox.py what it may not do
    pool.py           several such processes, and frames ahead of the one who needs them

Nothing outside this folder opens a video.
"""
