"""Tests of finite networks need torch, which has gigabytes: left out where it is not, unless parts are required."""

import importlib.util
import os

if importlib.util.find_spec("torch") is None and not os.environ.get("CNTK_REQUIRE_REAL"):
    collect_ignore_glob = ["test_*.py"]
