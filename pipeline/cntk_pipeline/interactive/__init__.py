"""Runs from scripts, notebooks and threads. ``run`` is the interface of this package."""

from cntk_pipeline.interactive.running import run

__all__ = ["run"]
