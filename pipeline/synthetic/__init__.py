"""Procedural scenes of swaying things whose motion is known exactly: the demo's input, and the
ground truth of tests.

    render.py   what a scene is, its frames, its true motion, and its video and truth files
    scenes.py   SCENES: reeds, plant, cloth, lantern and ripples, and the tools to paint them
    clips.py    RECIPES: the clips of `quiver make-clips`, good ones and some to be rejected

Import from the modules: scenes.py paints coordinates at import, and needs scipy.
"""
