"""Runs the command: ``python -m cntk_pipeline``."""

from cntk_pipeline.cli.__main__ import main

main()
