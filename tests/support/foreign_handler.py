"""A handler of Ctrl-C in C, as a program that embeds Python, or a library that is loaded before, has set it."""

import ctypes
import importlib.util
import os
import signal
import subprocess
import sys
from importlib.machinery import BuiltinImporter
from pathlib import Path

_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _number: None)


def set_foreign_handler() -> None:
    """Set it, and let Python find it as it does when it begins."""
    library = ctypes.CDLL(None)
    library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    library.signal(signal.SIGINT, ctypes.cast(_HANDLER, ctypes.c_void_p))
    spec = BuiltinImporter.find_spec("_signal")
    assert spec is not None
    BuiltinImporter.exec_module(importlib.util.module_from_spec(spec))
    assert signal.getsignal(signal.SIGINT) is None


def run_beside_it(script: str) -> str:
    """Run a script in a process that has such a handler, and return what it prints."""
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join([str(tests), str(tests.parent / "pipeline")])
    begin = "from support.foreign_handler import set_foreign_handler\nset_foreign_handler()\n"
    command, environment = [sys.executable, "-c", begin + script], os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
