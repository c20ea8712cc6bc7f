"""Procedural scenes of the outdoors whose motion is known exactly: training data without videos.

    statistics.py   how much real clips move and how fast, measured by benchmarks/real_statistics.py
    sway.py         fields of motion and the wind that drives them
    canvas.py       a canvas of any resolution: noise, strokes, blur
    light.py        the light and the colors of a day
    backgrounds.py  what stands still: sky, hills, ground, walls, fences, rocks
    plants.py       trees whose branches are trees, grass, flowers, hanging strands
    things.py       water that reflects, hanging cloth, flames, lanterns
    painter.py      collects the layers of a scene, its exposure and its motion
    landscapes.py   meadow, tree, lake
    close_ups.py    shrub, flowers, branch, ferns, strands
    still_lifes.py  cloth, flames, lanterns
    scenes.py       WORLD: the kinds of scenes, and `make_scene`
    dataset.py      samples of scenes, and their shards

The picture as it is painted is the first frame: all motion is 0 at time 0. So a sample is one
painting and one matrix product, without a video and without optical flow.
"""
