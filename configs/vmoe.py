"""V-MoE: smoe.py with two equal experts, both over the last 20 titles.

python -m jaxrec.train --config configs/vmoe.py:small
"""

from copy import deepcopy

from configs import smoe
from jaxrec.config import Config


def get_config(scale: str = "small") -> Config:
    """Return the config for "small" or "paper"."""
    config = smoe.get_config(scale)
    config.name = f"vmoe-{scale}"
    long = config.model.experts[-1]  # window 20, feed-forward twice the width
    # A copy, so that an override of one expert does not change the other.
    config.model.experts = (long, deepcopy(long))
    return config
