"""BST: one expert over the last 20 titles, no gate. Arguments as in smoe.py.

python -m jaxrec.train --config configs/bst.py:small
"""

from configs import smoe
from jaxrec.config import Config


def get_config(scale: str = "small") -> Config:
    """Return the config for "small" or "paper"."""
    config = smoe.get_config(scale)
    config.name = f"bst-{scale}"
    # The second expert of smoe.py: window 20, feed-forward twice the width.
    config.model.experts = config.model.experts[-1:]
    return config
