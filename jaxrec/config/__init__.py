"""The config tree, for files under `configs/`: `from jaxrec.config import Config, Data`."""

from jaxrec.config.migrations import accept_old_names
from jaxrec.config.schema import *  # noqa: F403
from jaxrec.config.schema import __all__ as __all__

accept_old_names()
