"""S-MoE on KuaiRand with the ten feedback fields of the logs as signals.

python -m jaxrec.prepare --config configs/kuairand_signals.py --config.source.directory=DIR

The rows of the dataset are those of `configs/kuairand.py`, which describes DIR. On the sample of 228,329 rows
the command prints these numbers of events read: click 100,900, long_view 70,963, comment_stay 9,966,
profile_enter 4,231, like 3,915, comment 579, follow 304, forward 195, hate 190, profile_stay 18.
"""

from configs import kuairand
from jaxrec.config import Config, Signal

SIGNALS = (
    Signal("click", column="is_click"),
    Signal("long_view", column="long_view"),
    Signal("like", column="is_like"),
    Signal("follow", column="is_follow"),
    Signal("comment", column="is_comment"),
    Signal("forward", column="is_forward"),
    Signal("hate", column="is_hate"),
    Signal("profile_enter", column="is_profile_enter"),
    Signal("profile_stay", "seconds", column="profile_stay_time", unit=0.001),  # milliseconds
    Signal("comment_stay", "seconds", column="comment_stay_time", unit=0.001),
)


def get_config(split: str = "users") -> Config:
    """Return the config of a split in `kuairand.SPLITS`."""
    config = kuairand.get_config(split)
    config.signals, config.name = SIGNALS, config.name.replace("kuairand", "kuairand_signals")
    return config
