"""Tests of finite networks are left out where there is no torch, which has gigabytes."""

import importlib.util

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]
