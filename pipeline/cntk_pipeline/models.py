"""Types of the fields of records, with bounds on their values: anybody may have written a record."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

STRICT = ConfigDict(strict=True, extra="forbid")
"""For `pydantic.with_config`: strings are not converted to numbers, and an unknown field is an error."""

Json = dict[str, Any]

WORD = r"[ -~]{0,200}"
Word = Annotated[str, StringConstraints(pattern=rf"^{WORD}$")]
"""A text that is passed to other programs: only plain characters."""

TaskName = Literal["classification", "multilabel", "regression"]
"""The task of a data set: one class a sample, several classes a sample, or numbers."""

CentreChoice = Literal["first", "random", "rpcholesky"]
"""How centres are chosen among the training samples."""

AskedTask = Literal["auto", "classification", "multilabel", "regression"]
"""A task as a user asks for it; "auto" goes by the type of the labels."""

Count = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]

Seconds = Annotated[float, Field(ge=-1, le=1e12)]
"""A difference of readings of a clock; rounding may make it negative."""


def require_one_length(*columns: tuple[Any, ...] | None) -> None:
    """Raise `ValueError` where the lists of a record differ in length; None stands for a list that is not there."""
    if len({len(column) for column in columns if column is not None}) > 1:
        raise ValueError("its lists are not of one length")
