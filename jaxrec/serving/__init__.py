"""Serving of trained checkpoints and of exports; `load` reads an export with jax and NumPy alone."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxrec.serving.exported import ExportedRecommender


def load(folder: str | os.PathLike) -> "ExportedRecommender":
    """Load the folder of an export; see `exported.ExportedRecommender.load`."""
    from jaxrec.serving.exported import ExportedRecommender

    return ExportedRecommender.load(folder)
