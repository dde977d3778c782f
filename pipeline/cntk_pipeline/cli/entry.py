"""The first actions of a command, before long imports: a handler of Ctrl-C, and a check of the environment.

`cli.main` imports this first.
"""

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


def _leave(_number: int, _frame: Any) -> None:
    os._exit(STOPPED)  # nothing has begun yet; an exception would come out of a half-imported module


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Let Ctrl-C end the process at once while a command imports what it needs; nothing has begun yet.

    A shell starts background commands with Ctrl-C ignored, and it stays so.
    """
    before = signal.getsignal(signal.SIGINT)
    is_heard = threading.current_thread() is threading.main_thread() and before != signal.SIG_IGN
    if is_heard:
        signal.signal(signal.SIGINT, _leave)
    gc.disable()  # nothing that is imported is garbage, and the search for it took a tenth of the time
    try:
        yield
    finally:
        gc.freeze()  # nor is it ever looked through again
        gc.enable()
        if is_heard:
            signal.signal(signal.SIGINT, before)


# pydantic looks through all installed distributions for plugins, of which commands use none: a thirtieth of a status.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

try:
    require_usable()
except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(USAGE)
