"""Where `cntk` begins, before long imports: a handler of Ctrl-C, and a check of the environment."""

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

USAGE, STOPPED = 2, 130

if os.name != "posix":
    print(
        "error: cntk does not run on Windows itself, since it needs POSIX locks, signals and folders that are "
        "fsynced: use WSL (Windows Subsystem for Linux), or a Linux machine",
        file=sys.stderr,
    )
    sys.exit(USAGE)

from cntk_pipeline.environment import require_usable  # noqa: E402 - other modules need a POSIX system
from cntk_pipeline.errors import ConfigError  # noqa: E402


def leave(_number: int, _frame: Any) -> None:
    """End the process at once, as a handler of Ctrl-C."""
    os._exit(STOPPED)  # nothing has begun yet; an exception would come out of a half-imported module


def on_interrupt(handler: Any) -> None:
    """Set what Ctrl-C does; a shell starts background commands with Ctrl-C ignored, and it stays so."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Let Ctrl-C end the process at once while a command imports what it needs; nothing has begun yet."""
    on_interrupt(leave)
    gc.disable()  # nothing that is imported is garbage, and the search for it took a tenth of the time
    try:
        yield
    finally:
        gc.freeze()  # nor is it ever looked through again
        gc.enable()
        on_interrupt(signal.default_int_handler)


# pydantic looks through all installed distributions for plugins, of which commands use none: a thirtieth of a status.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

try:
    require_usable()
except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(USAGE)
