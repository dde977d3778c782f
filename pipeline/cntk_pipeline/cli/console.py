"""The two outputs of a command, and text that is safe to print."""

import os

from rich import markup
from rich.console import Console, OverflowMethod

from cntk_pipeline.telemetry.redaction import redact

for _name in ("COLUMNS", "LINES"):
    if not os.environ.get(_name, "80").strip("0"):  # a size that is not known; Rich would print nothing
        del os.environ[_name]

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def redraws(console: Console) -> bool:
    """Tell whether a console draws over its lines: rich takes a file for a terminal where FORCE_COLOR is set."""
    return console.is_interactive and console.file.isatty()


def overflow() -> OverflowMethod:
    """Return how a line is cut off: the sign for that is escaped, and so too wide, where the encoding lacks it."""
    return "ellipsis" if out.encoding.startswith("utf") else "crop"


def printable(text: str) -> str:
    """Escape characters that would act on a terminal, or hide there, by backslashes: a record may hold any text.

    Credentials are removed: a server may repeat them in an error, and printed text is often kept.
    """
    shown = "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
    return redact(shown)


def escape(text: str) -> str:
    """Make a text of a record safe to print: it neither acts on the terminal nor is taken for markup."""
    return markup.escape(printable(text))
