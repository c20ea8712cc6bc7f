"""The kinds of scenes. The order of the random draws fixes them: equal seeds give equal scenes."""

from collections.abc import Callable

import numpy as np

from pipeline.synthetic.render import Scene
from pipeline.synthetic.world.canvas import make_canvas
from pipeline.synthetic.world.close_ups import branch, ferns, flowers, shrub, strands
from pipeline.synthetic.world.landscapes import lake, meadow, tree
from pipeline.synthetic.world.painter import Painter
from pipeline.synthetic.world.still_lifes import cloth, flames, lanterns

WORLD: dict[str, Callable[[Painter], None]] = dict(
    meadow=meadow,
    tree=tree,
    lake=lake,
    shrub=shrub,
    flowers=flowers,
    branch=branch,
    ferns=ferns,
    strands=strands,
    cloth=cloth,
    flames=flames,
    lanterns=lanterns,
)


def make_scene(kind: str, seed: int, texels: int = 1024) -> Scene:
    """The scene of a kind and a seed, painted at `texels` per picture width."""
    painter = Painter(np.random.default_rng([seed, *kind.encode()]), make_canvas(texels))
    WORLD[kind](painter)
    return painter.finish()
