"""Runs the command: ``python -m cntk_pipeline``."""

from cntk_pipeline.cli.entry import main

main()
