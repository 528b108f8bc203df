"""HSTU (Zhai et al. 2024, Actions Speak Louder than Words), based on sasrec.py.

Gated pointwise attention replaces softmax attention and feed-forward layers, and uses the times of the plays
too. Arguments as in smoe.py.

python -m jaxrec.train --config configs/hstu.py:small

Neither scale has been run. The objective is that of sasrec.py, so that the encoders can be compared. The
paper uses a softmax over sampled titles, deeper models and longer histories.
"""

from dataclasses import replace

from configs import sasrec
from jaxrec.config import Config


def get_config(scale: str = "small") -> Config:
    """Return the config for "small" or "paper"."""
    config = sasrec.get_config(scale)
    config.name = f"hstu-{scale}"
    config.model.experts = (replace(config.model.experts[0], encoder="hstu"),)
    return config
