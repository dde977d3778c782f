"""The keys of ``[cluster]`` that belong to one kind of cluster."""

from typing import Annotated, Self

from pydantic import AfterValidator, ConfigDict

from cntk_pipeline.config import ClusterConfig, read_address, read_options
from cntk_pipeline.config.section import Section

Address = Annotated[str, AfterValidator(read_address)]
"""The address of a Dask scheduler."""


class ClusterOptions(Section):
    """The keys of a kind; the table may also have keys of other kinds, which are ignored."""

    model_config = ConfigDict(extra="ignore")

    @classmethod
    def of(cls, config: ClusterConfig) -> Self:
        """Read the keys from a ``[cluster]`` table.

        Raises
        ------
        ConfigError
            If a value is invalid, with its place.
        """
        return read_options(cls, config, "cluster")


class NoOptions(ClusterOptions):
    """The options of a kind without keys of its own."""
