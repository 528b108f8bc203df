"""BST: one expert over the last 20 titles, no gate. Takes smoe.py's arguments.

python -m jaxrec.train --config configs/bst.py:small
"""

from configs import smoe
from jaxrec.config import Config


def get_config(scale: str = "small") -> Config:
    """ "small" or "paper"."""
    config = smoe.get_config(scale)
    config.name = f"bst-{scale}"
    config.model.experts = config.model.experts[-1:]  # smoe's second: window 20, feed-forward twice the width
    return config
