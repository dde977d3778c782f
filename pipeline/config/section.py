"""What the tables of a workflow file have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table whose values do not change once they are read, and that knows all its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
