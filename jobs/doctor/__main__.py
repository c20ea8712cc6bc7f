"""Runs `python -m jobs.doctor`."""

import sys

from jobs.doctor.command import main

main(sys.argv[1:])
