"""The first actions of a command, before long imports: a handler of Ctrl-C, and a check of the environment.

`cli.main` imports this first, and calls `imported` last.
"""

import os
import signal
import sys
import threading
from typing import Any

from cntk_pipeline.environment import require_usable
from cntk_pipeline.errors import ConfigError

USAGE, STOPPED = 2, 130


def _leave(_number: int, _frame: Any) -> None:
    os._exit(STOPPED)  # nothing has begun yet; an exception would come out of a half-imported module


def imported() -> None:
    """Give Ctrl-C back its usual meaning."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# A shell starts background commands with Ctrl-C ignored, and it stays so.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, _leave)
try:
    require_usable()
except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(USAGE)
