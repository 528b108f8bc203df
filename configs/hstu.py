"""HSTU (Zhai et al. 2024, Actions Speak Louder than Words): sasrec.py with gated pointwise attention in place
of softmax and feed-forward, which knows when titles were played too. Takes smoe.py's arguments.

python -m jaxrec.train --config configs/hstu.py:small

Neither scale has been run. The objective is sasrec.py's, so that the encoders are compared; the source's own
is a softmax over sampled titles, of deeper models and longer histories.
"""

from dataclasses import replace

from configs import sasrec
from jaxrec.config import Config


def get_config(scale: str = "small") -> Config:
    """ "small" or "paper"."""
    config = sasrec.get_config(scale)
    config.name = f"hstu-{scale}"
    config.model.experts = (replace(config.model.experts[0], kind="hstu"),)
    return config
