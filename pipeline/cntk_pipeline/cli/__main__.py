"""Runs the command: ``python -m cntk_pipeline.cli``."""

from cntk_pipeline.cli.entry import main

main()
