"""A handler of Ctrl-C in C, as a program that embeds Python, or a library that is loaded before, has set it."""

import ctypes
import importlib.util
import signal
from importlib.machinery import BuiltinImporter

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
