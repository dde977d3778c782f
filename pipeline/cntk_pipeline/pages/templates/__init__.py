"""The templates of pages. Every value that goes into a page is escaped."""

from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent


def render(name: str, **values: Any) -> str:
    """Fill a template in.

    Parameters
    ----------
    name : str
        Of a file in this folder.
    **values : object
        Of the template's names; texts are escaped.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name).render(**values)
