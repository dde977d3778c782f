"""Types of the fields of records: what each may hold, whoever wrote it."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints

STRICT = ConfigDict(strict=True, extra="forbid")
"""For `pydantic.with_config`: no number is made of a string, and a field that is not known is an error."""

Json = dict[str, Any]

Word = Annotated[str, StringConstraints(pattern=r"^[ -~]{0,200}$")]
"""What is handed to other programs: nothing but plain characters."""

Count = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]

Seconds = Annotated[float, Field(ge=-1, le=1e12)]
"""A difference of readings of a clock, which rounding may make smaller than nothing."""
