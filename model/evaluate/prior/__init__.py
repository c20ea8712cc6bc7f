"""Measures how close the motion that a prior samples is to the real motion of photographs that it
has not seen, beside five simple predictions (`quiver evaluate-prior`).

evaluation   READ FIRST: what is measured of each held-out window
windows      which windows of the datasets are held out, and which were trained on
baselines    motion without a prior: none, the mean, another window's
measures     the measures: pure functions of spectral volumes
table        means over scenes, differences between rows, with intervals
report       the HTML page
"""
