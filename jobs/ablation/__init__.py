"""The ablations of the paper's table 2, for `quiver ablate`.

settings    the settings of an ablation, and their contract
steps       READ FIRST: the steps of an ablation
results     the content of ablation.json
variants    the variants, and the commands that train them and make their films
table       the result in a terminal
report      the result as an HTML page
"""
