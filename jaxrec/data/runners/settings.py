"""Settings that fit a log: threshold of abandonment, batch size, allowed fraction of invalid rows."""

from copy import deepcopy

import numpy as np

from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.data.runners.statistics import LogStatistics, propose_threshold

_LEAST_BATCH, _MOST_BATCH = 8, 1024
_STEPS_PER_EPOCH = 200
_MOST_INVALID = 0.5  # above this fraction of invalid rows, the columns or units are wrong


def fit_settings(config: Config, statistics: LogStatistics) -> tuple[Config, dict[str, str]]:
    """Return the config with settings that fit a log, and the reason of each by its dotted key.

    Raises:
        InputError: More than half of the rows are invalid.
    """
    config, reasons = deepcopy(config), {}
    dropped, rows = statistics.dropped_share, statistics.rows
    if dropped > _MOST_INVALID:
        worst = max(statistics.drops.counts, key=lambda reason: statistics.drops.counts[reason])
        raise InputError(
            f"{dropped:.0%} of {rows} rows are invalid, most of them: {worst}, the first at "
            f"{statistics.drops.examples[worst]}; allowed: at most {_MOST_INVALID:.0%}, or a config with "
            "other columns or units"
        )
    if dropped > config.data.max_invalid_fraction:
        limit = config.data.max_invalid_fraction
        why = f"{dropped:.1%} of the rows are invalid; {limit:g} would stop preparation"
        reasons["data.max_invalid_fraction"] = why
        config.data.max_invalid_fraction = float(np.ceil(dropped * 100) / 100)
    examples = statistics.examples
    if statistics.thresholds:
        config.data.abandon_threshold, reasons["data.abandon_threshold"] = propose_threshold(statistics)
        chosen = {t.threshold: t for t in statistics.thresholds}[config.data.abandon_threshold]
        examples = chosen.examples
        reasons["data.abandon_threshold"] += (
            f"; {chosen.users:.0%} of the users have such a title, and {chosen.hard_fill:.0%} of the places "
            "of the hard pools are filled"
        )
    if config.rows == "next_item":  # a row is a sequence of a user
        examples = statistics.users
    training = int(
        examples * statistics.one_in * (config.data.train_share if config.data.split == "users" else 1)
    )
    size = 2 ** int(np.log2(max(training / _STEPS_PER_EPOCH, 1)))
    config.train.batch_size = int(np.clip(size, _LEAST_BATCH, _MOST_BATCH))
    reasons["train.batch_size"] = (
        f"about {training:,} training examples make {training // config.train.batch_size:,} steps an epoch; "
        "an accelerator takes larger batches"
    )
    return config, reasons
