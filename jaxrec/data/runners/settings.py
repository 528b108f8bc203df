"""Settings that fit a log: threshold of abandonment, pools, batch size, allowed invalid rows."""

from copy import deepcopy

import numpy as np

from jaxrec.config.rules.examples import IMPRESSION, training_share
from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.ids import DRAWN_POOLS
from jaxrec.data.runners.statistics import LogStatistics, propose_threshold

_LEAST_BATCH, _MOST_BATCH = 8, 1024
_STEPS_PER_EPOCH = 200
# Widths of the pools of negatives (hard, trending, tailing, random) for small catalogues, widest first.
_POOLS = ((8, 12, 8, 4), (8, 8, 6, 0))
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
    is_exposure = config.data.examples == "impressions"
    if config.rows == "ranking" and not is_exposure:
        _fit_pools(config, statistics, reasons)
    examples = statistics.examples
    if statistics.thresholds:
        config.data.abandon_threshold, reasons["data.abandon_threshold"] = propose_threshold(statistics)
        chosen = {t.threshold: t for t in statistics.thresholds}[config.data.abandon_threshold]
        examples = chosen.examples
        reasons["data.abandon_threshold"] += (
            f"; {chosen.users:.0%} of the users have such a title, and {chosen.hard_fill:.0%} of the slots "
            "of the hard pools hold one"
        )
    if config.rows == "next_item":  # a row is a sequence of a user
        examples = statistics.users
    total = statistics.signals[IMPRESSION]["read"] if is_exposure else examples * statistics.one_in
    training = int(total * training_share(config.data))
    size = 2 ** int(np.log2(max(training / _STEPS_PER_EPOCH, 1)))
    config.train.batch_size = int(np.clip(size, _LEAST_BATCH, _MOST_BATCH))
    reasons["train.batch_size"] = (
        f"about {training:,} training examples make {training // config.train.batch_size:,} steps an epoch; "
        "an accelerator takes larger batches"
    )
    return config, reasons


def _fit_pools(config: Config, statistics: LogStatistics, reasons: dict[str, str]) -> None:
    """Narrow the pools of negatives where a user has too few titles left that are not in the log.

    Raises:
        InputError: The catalogue is too small for any pools.
    """
    played = max((n for q, n in statistics.lengths.items() if q < 1), default=0)  # by all but 1% of the users
    left = statistics.titles - played
    if sum(getattr(config.data, pool) for pool in DRAWN_POOLS) <= left:
        return
    for widths in _POOLS:
        if sum(widths) <= left:
            for pool, width in zip(DRAWN_POOLS, widths, strict=True):
                setattr(config.data, pool, width)
                reasons[f"data.{pool}"] = (
                    f"the negatives of a user are drawn from {left} titles that are left"
                )
            return
    raise InputError(
        f"source: the catalogue has {statistics.titles} titles, and users played up to {played} of them; "
        f"allowed: {sum(_POOLS[-1])} more titles than that, from which negatives are drawn"
    )
