"""The common base of the tables of a workflow file."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue


class Section(BaseModel):
    """A table whose values do not change once they are read; unknown keys are errors.

    Types are strict: ``true`` is not a number, "5" is not 5, and 2.0 is not a count. An integer is accepted where a
    real number is expected. pydantic compiles a table when it is first read: no command reads those of all kinds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True, defer_build=True)


class OpenSection(Section):
    """A table in which some keys belong to its kinds: solvers, clusters, or results of inference.

    Its own keys are read here. Other keys are kept as they are, and their owner reads them by `read_options`.
    """

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    @property
    def options(self) -> dict[str, Any]:
        """The keys that belong to a kind, without nulls: in a run on disk, a null means that a key was not given."""
        return {key: value for key, value in self.__pydantic_extra__.items() if value is not None}


def expand_place(text: str) -> str:
    """Expand a file, a folder or an address: ``~`` is the home folder, as in a shell.

    Raises
    ------
    ValueError
        If it is empty, invalid for a file system, or below an unknown home folder.
    """
    if not text:
        raise ValueError("expected the name of a file or folder")
    if "\0" in text:
        raise ValueError("a name of a file or folder holds no NUL")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # It could be opened, but a record or a message to a worker would change the name.
        raise ValueError(
            f"expected text in UTF-8, got bytes that are none at position {error.start}: rename the file or folder"
        ) from None
    if "://" in text:
        return text
    try:
        return str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError:
        raise ValueError("the home folder that ~ stands for is not known: write the whole path") from None


Place = Annotated[str, AfterValidator(expand_place)]
"""A file or folder, or its address."""
