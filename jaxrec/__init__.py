"""Sequential recommendation in JAX: prepare watch logs, train, evaluate and recommend.

The public names are imported on first use, so that `import jaxrec` loads neither jax nor polars.
"""

import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxrec.config.loading import load_config
    from jaxrec.config.schema import Config
    from jaxrec.data.runners.run import PreparedDataset as Dataset
    from jaxrec.evaluation.evaluator import Evaluator
    from jaxrec.serving.filters import Filters
    from jaxrec.serving.pages import PageLayout
    from jaxrec.serving.recommender import Recommender
    from jaxrec.training.api import Trainer

# `python -m jaxrec.<command>` has nothing to clean up while it imports its modules: Ctrl-C ends it at once,
# without a traceback, until `cli.app.run` handles Ctrl-C. A process that ignores Ctrl-C still does.
if getattr(sys, "argv", [])[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

__all__ = [
    "Config",
    "Dataset",
    "Evaluator",
    "Filters",
    "PageLayout",
    "Recommender",
    "Trainer",
    "load_config",
]

# Public name -> "module:object". No name is that of a command: importing `jaxrec.train` would replace it.
_OBJECTS = {
    "Config": "jaxrec.config:Config",
    "Dataset": "jaxrec.data.runners.run:PreparedDataset",
    "Evaluator": "jaxrec.evaluation.evaluator:Evaluator",
    "Filters": "jaxrec.serving.filters:Filters",
    "PageLayout": "jaxrec.serving.pages:PageLayout",
    "Recommender": "jaxrec.serving.recommender:Recommender",
    "Trainer": "jaxrec.training.api:Trainer",
    "load_config": "jaxrec.config.loading:load_config",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _OBJECTS:
        raise AttributeError(f"module 'jaxrec' has no attribute {name!r}")
    module, _, attribute = _OBJECTS[name].partition(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
