"""What the tables of a workflow file have in common."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue


class Section(BaseModel):
    """A table whose values do not change once they are read, and that knows all its keys.

    Types are taken strictly: ``true`` is no number, "5" is no 5, and 2.0 is no count. A whole number may stand where a
    number is asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class OpenSection(Section):
    """A table some of whose keys belong to its kinds: to each solver, to each cluster, to each result of inference.

    Its own keys are read here, the others are kept as they are, and their owner reads them by `read_options`.
    """

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    @property
    def options(self) -> dict[str, Any]:
        """The keys that belong to a kind; a null, by which runs on disk say that a key was not given, is left out."""
        return {key: value for key, value in self.__pydantic_extra__.items() if value is not None}


def expand_place(text: str) -> str:
    """Return a file, a folder or an address as it was meant: ``~`` is the home folder, as in a shell.

    Raises
    ------
    ValueError
        If it names nothing: it is empty, no text that a file system takes, or of a home folder that is not known.
    """
    if not text:
        raise ValueError("expected the name of a file or folder, got an empty one")
    if "\0" in text:
        raise ValueError("a name of a file or folder holds no NUL")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # It could be opened, but neither recorded nor handed to a worker without becoming another name.
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
"""A file or folder, or the address of one."""
