"""Examples in docstrings of finite networks are left out where there is no torch, which has gigabytes."""

import importlib.util

if importlib.util.find_spec("torch") is None:
    collect_ignore = ["cntk_pipeline/finite"]
