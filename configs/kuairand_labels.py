"""S-MoE on KuaiRand with labels of the feedback, and a reward.

python -m jaxrec.describe --config configs/kuairand_labels.py --config.source.directory=DIR

`configs/kuairand.py` describes DIR, and `configs/kuairand_signals.py` the signals. The feedback on an
exposure is logged with it, so that an hour after the request is enough.
"""

from configs import kuairand_signals
from jaxrec.config import Config, Label, Reward, Term

FEEDBACK = ("click", "long_view", "like", "profile_enter", "comment", "follow", "forward", "hate")
LABELS = (
    *(Label(name, "happened", name, hours=1) for name in FEEDBACK),
    Label("finished", "at_least", hours=1, at=0.9),
    Label("returned", "returned", hours=24),
)
REWARDS = (
    Reward(
        "satisfaction",
        (Term("long_view", 1.0), Term("like", 1.0), Term("comment", 1.0), Term("hate", -2.0)),
    ),
)


def get_config(split: str = "users") -> Config:
    """Return the config of a split in `kuairand.SPLITS`."""
    config = kuairand_signals.get_config(split)
    config.labels, config.rewards = LABELS, REWARDS
    config.name = config.name.replace("kuairand_signals", "kuairand_labels")
    return config
