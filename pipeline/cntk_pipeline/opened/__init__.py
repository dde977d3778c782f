"""Runs as objects in Python. ``open_run`` is the interface of this package."""

from cntk_pipeline.opened.run import OpenRun, open_run

__all__ = ["OpenRun", "open_run"]
