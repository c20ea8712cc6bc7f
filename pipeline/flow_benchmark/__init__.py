"""Benchmarks flow estimators: how far each can be trusted, and what it costs.

    run.py          READ FIRST: evaluates estimators on known flow, scenes and clips; the types of
                    all results
    metrics.py      the measures, pure functions of arrays
    middlebury.py   reads pairs of images with known flow
    summary.py      conclusions from the results, in numbers and sentences
    report.py       the page of a flow card, from report.html (needs the extra `report`)

`quiver benchmark-flow` (jobs/measure/benchmark_flow.py) is its command. The modules are imported
one by one, since they need OpenCV and the scenes.
"""
