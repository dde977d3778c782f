"""Runs the command: ``cntk``, or ``python -m cntk_pipeline.cli``."""

import sys

from cntk_pipeline.cli.entry import STOPPED, importing, leave, on_interrupt


def main() -> None:
    """Run the command `cntk`. Ctrl-C ends it without a traceback, also before it begins and when it is at its end."""
    with importing():
        from cntk_pipeline.cli.main import main as run
    on_interrupt(leave)  # until the command has imported what it needs
    try:
        run()
    except KeyboardInterrupt:  # between two lines that nothing else guards
        sys.exit(STOPPED)
    finally:
        on_interrupt(leave)  # only the interpreter is still to be taken down


if __name__ == "__main__":
    main()
