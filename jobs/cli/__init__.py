"""What the verbs share. This file imports nothing, so that `quiver doctor` runs without any
package.

- main: the `quiver` command (READ FIRST)
- args: command lines, and sentences for mistakes in them
- errors: exit codes, and sentences for errors
- console: what is written to standard output and standard error
- extras: the package to install if an import fails
- progress, results: progress of a run, summaries, tables and pages
- run_options: how many processes, cores and GPUs a worker takes; other options of a run
- workers: the work of extract-flow, retry and repair on those workers
- motion_source: where animate and export-page get motion from
- presets, training: the train- verbs
"""
