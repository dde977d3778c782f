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


def _leave(_number: int, _frame: Any) -> None:
    os._exit(STOPPED)  # nothing has begun yet; an exception would come out of a half-imported module


def _on_interrupt(handler: Any) -> None:
    """Set what Ctrl-C does; a shell starts background commands with Ctrl-C ignored, and it stays so."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Let Ctrl-C end the process at once while a command imports what it needs; nothing has begun yet."""
    _on_interrupt(_leave)
    gc.disable()  # nothing that is imported is garbage, and the search for it took a tenth of the time
    try:
        yield
    finally:
        gc.freeze()  # nor is it ever looked through again
        gc.enable()
        _on_interrupt(signal.default_int_handler)


def main() -> None:
    """Run the command `cntk`. Ctrl-C ends it without a traceback, also before it begins and when it is at its end."""
    with importing():
        from cntk_pipeline.cli.main import main as run
    _on_interrupt(_leave)  # until the command has imported what it needs
    try:
        run()
    except KeyboardInterrupt:  # between two lines that nothing else guards
        sys.exit(STOPPED)
    finally:
        _on_interrupt(_leave)  # only the interpreter is still to be taken down


# pydantic looks through all installed distributions for plugins, of which commands use none: a thirtieth of a status.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

try:
    require_usable()
except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(USAGE)
