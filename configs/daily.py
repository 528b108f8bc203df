"""Daily updates on your own logs: each day's model goes on from that of the day before (docs/incremental.md).

The argument is the day of the update, the first day that the model does not see:

python -m jaxrec.train --config configs/daily.py:2023-12-24 --workdir runs/daily/2023-12-24
python -m jaxrec.train --config configs/daily.py:2023-12-25 --workdir runs/daily/2023-12-25

The tables, columns and features are those of configs/own_data.py.
"""

from datetime import date, timedelta

from configs import own_data
from jaxrec.config import Config, Start

FIRST = date(2023, 12, 24)  # first day of the chain, which trains on everything before it


def get_config(day: str = str(FIRST)) -> Config:
    """Return the config of a day.

    Args:
        day: ISO date.
    """
    config, today = own_data.get_config(), date.fromisoformat(day)
    yesterday = today - timedelta(days=1)
    config.name = "daily"
    config.data.directory = f"data/daily/{today}"
    config.data.until = str(today)  # plays from this day on count for nothing
    config.data.capacity = 1024  # ids are a multiple, so that a day with new titles compiles nothing
    config.train.duration = "2000 steps"
    if today > FIRST:
        config.data.since = str(yesterday)  # targets of one day; histories reach back over all days
        config.data.replay = 0.1  # and a tenth of the older targets, another one each day
        config.data.continues = f"data/daily/{yesterday}"  # ids, categories, means and deviations stay
        config.start = Start(f"runs/daily/{yesterday}", "last", optimizer="kept")
        config.optimizer.learning_rate, config.train.duration = 3e-4, "200 steps"
    return config
