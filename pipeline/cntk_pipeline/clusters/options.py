"""The keys of ``[cluster]`` that belong to one kind of cluster."""

from typing import Annotated, Self

from pydantic import AfterValidator, ConfigDict

from cntk_pipeline.config import ClusterConfig, read_address, read_options
from cntk_pipeline.config.section import Section

Address = Annotated[str, AfterValidator(read_address)]
"""Where a Dask scheduler listens."""


class ClusterOptions(Section):
    """The keys of a kind; those of other kinds may stand beside them in the table, and are left alone."""

    model_config = ConfigDict(extra="ignore")

    @classmethod
    def of(cls, config: ClusterConfig) -> Self:
        """Read them from a ``[cluster]`` table.

        Raises
        ------
        ConfigError
            If a value means nothing, with the place.
        """
        return read_options(cls, config, "cluster")


class NoOptions(ClusterOptions):
    """A kind that needs no keys besides those of every kind."""
