"""Texts for people: numbers in suitable units, and paths in commands to be typed."""

import json
import shlex


def count_text(value: float) -> str:
    """Write a number with a unit of thousands."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def bytes_text(value: float) -> str:
    """Write a number of bytes in a suitable unit."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def seconds_text(value: float) -> str:
    """Write a time in a suitable unit."""
    if value < 1e-3:
        return f"{value * 1e6:.3g} us"
    if value < 1:
        return f"{value * 1e3:.3g} ms"
    if value < 120:
        return f"{value:.1f} s"
    hours, rest = divmod(round(value), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"


def shell_word(path: object) -> str:
    """Write a path as one word of a shell, so that a command with it can be typed as it is printed.

    Examples
    --------
    >>> print(shell_word("runs/digits"), shell_word("my runs/digits"))
    runs/digits 'my runs/digits'
    """
    text = str(path)
    # A leading minus would be taken for an option.
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def python_text(path: object) -> str:
    r"""Write a path as a text of Python, in double quotes.

    Examples
    --------
    >>> print(python_text('a "run"'))
    "a \"run\""
    """
    return json.dumps(str(path), ensure_ascii=False)  # JSON escapes by pairs of surrogates are not Python's
