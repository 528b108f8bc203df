"""Age and plays of titles, which the gate of `model.entity="mixed"` and cold masking read."""

from datetime import date

import numpy as np

from jaxrec.config.schema import Config
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.row_format import Layout
from jaxrec.data.storage.arrays import Arrays, split_columns


def reads_maturity(config: Config) -> bool:
    """Return whether a config's model or its cold masking reads the maturity of titles."""
    return config.model.entity == "mixed" or config.model.cold_masking_new > 0


def maturity_of(arrays: Arrays, layout: Layout, config: Config) -> np.ndarray:
    """Return the maturity of titles: log1p of the age in days, and log1p of the plays.

    The age is that on `data.until`; without such a day, on the launch day of the newest title that training
    users played. It is 0 for later titles, and for all titles without `model.launch_day`. Plays are those of
    training users.

    Args:
        arrays: Arrays of the catalogue, with titles launched since the training or without.
        layout: Layout of the rows, with the mean and the deviation of the launch days.
        config: Config of the run.

    Returns:
        [V, 2] float32; 0 for padding and the unknown title.
    """
    maturity = np.zeros((len(arrays.title_plays), 2), np.float32)
    maturity[:, 1] = np.log1p(arrays.title_plays)
    if config.model.launch_day:
        columns = split_columns(layout.of("title"), None, arrays.title_numbers)
        [spec] = [f for f in layout.of("title") if f.name == config.model.launch_day]
        launch = columns[spec.name][:, 0].astype(np.float64) * spec.std + spec.mean
        today = launch[arrays.title_plays > 0].max(initial=-np.inf)
        if config.data.until:
            today = (date.fromisoformat(config.data.until) - date(1970, 1, 1)).days
        maturity[:, 0] = np.log1p(np.maximum(today - launch, 0))
    maturity[:FIRST_TITLE] = 0
    return maturity
