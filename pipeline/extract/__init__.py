"""From listed videos to committed shards.

    build_shard   one shard from planned windows to a committed tar: READ THIS FIRST
    config        the settings of an extraction, and their form in the run contract
    list_clips    folders, files, tables and URLs -> clips
    plan_clip     a listed clip -> its id, split and windows, or why there are none
    plan          planned clips -> the rows of the plan and their shards, before the run
    frame_stream  the frames of each window, decoded ahead and once each
    window        flow, spectrum, measures and sample of one window
    retry         which windows can be tried again, and their plan
    timing        how long a shard took

Import from the modules: `from pipeline.extract.build_shard import build_shard`.
"""
