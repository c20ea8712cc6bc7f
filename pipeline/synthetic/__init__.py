"""Procedural scenes of swaying things whose motion is known exactly: the demo's input, and the
ground truth of tests.

    render.py   what a scene is, its frames, its true motion, and its video and truth files
    paint.py    canvases, noise, blades and foliage: the tools that paint a scene
    scenes.py   SCENES: reeds, plant, cloth, lantern and ripples
    world/      scenes of the outdoors in any number, and datasets of them without videos
    clips.py    RECIPES: the clips of `quiver make-clips`, good ones and some to be rejected

Import from the modules: paint.py computes coordinates at import, and scenes.py needs scipy.
"""
