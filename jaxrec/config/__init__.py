"""The config tree, for files under `configs/`: `from jaxrec.config import Config, Data`."""

from jaxrec.config import schema, sources
from jaxrec.config.migrations import accept_old_names
from jaxrec.config.schema import *  # noqa: F403
from jaxrec.config.sources import *  # noqa: F403

__all__ = sorted({*schema.__all__, *sources.__all__})

accept_old_names()
