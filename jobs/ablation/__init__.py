"""The ablations of the paper's table 2, for `quiver ablate`.

steps       READ FIRST: the steps of an ablation, and its result
variants    the variants, and the commands that train them and make their films
table       the result in a terminal
report      the result as an HTML page
"""
