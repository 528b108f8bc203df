"""Declarations of what a run learns from: the run that it starts from.

`config.schema` holds them in its tree and exports their names.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass
class Start:
    """Checkpoint of another run that a run starts from.

    Names of parameters are those that `train --dry-run` prints, such as "title/title_id/embedding"; a `*` of
    a pattern also matches slashes. Without a `workdir` all other fields must have their defaults.
    """

    workdir: str = ""  # workdir of the run to start from; empty: the parameters are initialised
    which: Literal["best", "last"] = "best"  # checkpoint of that run
    take: tuple[str, ...] = ("*",)  # patterns of the parameters that are taken; others are initialised
    freeze: tuple[str, ...] = ()  # patterns of the parameters that neither gradients nor weight decay change
    optimizer: Literal["fresh", "kept"] = "fresh"  # "kept": Adam's moments are taken too, 0 for new rows
    anchor: float = 0.0  # weight of L2-SP, which pulls taken parameters to their first values; 0: off
    rows: Literal["initial", "mean", "metadata"] = "metadata"  # first values of rows for new titles and new
    # categories: the initialisation; the mean row; of titles the mean of the 20 nearest by their features
    noise: float = 0.01  # standard deviation of noise on rows by "mean" and "metadata", relative to that of
    # the table


__all__ = ["Start"]
