"""Runs a script in a process of its own, whose driver of CUDA is this machine's CPU; cuda-core is the real one."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from support.warps import needs_compiler

DRIVER = Path(__file__).parent / "driver_of_cpu.cpp"
_FOLDER = tempfile.TemporaryDirectory(prefix="cards-")
_HAS_CORE = importlib.util.find_spec("cuda") is not None and importlib.util.find_spec("cuda.core") is not None

needs_card = [
    needs_compiler,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the driver of the tests is of Linux"),
    pytest.mark.skipif(not _HAS_CORE, reason="the extra cuda is not installed"),
]
"""Marks of what runs scripts."""


@cache
def compile_driver() -> Path:
    """Compile the driver; its name is the one that cuda-core looks for."""
    path = Path(_FOLDER.name) / "libcuda.so.1"
    options = ["-O1", "-std=c++17", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", str(DRIVER), "-o", str(path)]
    subprocess.run(["g++", *options, "-ldl"], check=True)
    return path


def run_on_card(script: str, **settings: int) -> Any:
    """Run a script, which begins with all of `support.on_card`, and read the JSON that it prints last.

    Parameters
    ----------
    **settings : int
        Of the driver, as ``bytes`` or ``fails_at``.
    """
    environment = {f"CARD_{name.upper()}": str(value) for name, value in settings.items()}
    environment |= {"CARD_DRIVER": str(compile_driver()), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", f"from support.on_card import *\n{script}"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])
