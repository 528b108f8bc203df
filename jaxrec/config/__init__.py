"""The config tree, for files under `configs/`: `from jaxrec.config import Config, Data`."""

from jaxrec.config.migrations import accept_old_names
from jaxrec.config.schema import (
    LIST_MIXES,
    TRAIN_MIXES,
    Columns,
    Config,
    Data,
    Evaluate,
    Expert,
    Feature,
    Gate,
    KuaiRand,
    Mix,
    Model,
    NextItem,
    Objective,
    Optimizer,
    Sampling,
    Simulator,
    Tables,
    Task,
    Tfds,
    Train,
)

__all__ = [
    "LIST_MIXES",
    "TRAIN_MIXES",
    "Columns",
    "Config",
    "Data",
    "Evaluate",
    "Expert",
    "Feature",
    "Gate",
    "KuaiRand",
    "Mix",
    "Model",
    "NextItem",
    "Objective",
    "Optimizer",
    "Sampling",
    "Simulator",
    "Tables",
    "Task",
    "Tfds",
    "Train",
]

accept_old_names()
