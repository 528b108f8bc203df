"""GRU4Rec (Hidasi et al. 2016): sasrec.py with a GRU over the last 20 titles.

The order of the titles in the GRU is the only information on their positions. Arguments as in smoe.py.

python -m jaxrec.train --config configs/gru4rec.py:small
"""

from dataclasses import replace

from configs import sasrec
from jaxrec.config import Config


def get_config(scale: str = "small") -> Config:
    """Return the config for "small" or "paper"."""
    config = sasrec.get_config(scale)
    config.name = f"gru4rec-{scale}"
    config.model.experts = (replace(config.model.experts[0], encoder="gru4rec", num_layers=1),)
    config.model.position = "none"
    return config
