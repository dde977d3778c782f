"""How Sphinx shows the signatures of the package, and the types of arguments whose docstring gives none.

Layers are dataclasses whose ``__new__`` explains wrong arguments. So the arguments of ``__init__`` are shown.
"""

import dataclasses
import inspect
import re
from typing import Any

import numpy.typing as npt
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation


def shorten_type(text: str) -> str:
    """Return a type as a reader would say it, where NumPy spells it over several lines."""
    for mode in ("fully-qualified", "smart"):
        text = text.replace(stringify_annotation(npt.ArrayLike, mode), "array_like")
    return re.sub(r"~?numpy\.ndarray\[.*?, ~?numpy\.dtype\[(?:~?numpy\.)?([\w~.]+)\]\]", r"array of \1", text)


def process_signature(app: Sphinx, what: str, name: str, value: Any, *_others: Any) -> tuple[str, str] | None:
    """Show the arguments of a dataclass's ``__init__``; return None where Sphinx's own signature will do."""
    annotations = app.env.current_document.autodoc_annotations.get(name, {})
    annotations.update({argument: shorten_type(text) for argument, text in annotations.items()})
    if what != "class" or not dataclasses.is_dataclass(value):
        return None
    signature = inspect.signature(value.__init__)
    arguments = [each.replace(annotation=each.empty) for each in signature.parameters.values()][1:]
    annotations.pop("return", None)
    return str(inspect.Signature(arguments)), ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Go behind the recorder of annotations."""
    app.connect("autodoc-process-signature", process_signature, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
