"""SASRec (Kang & McAuley 2018): causal self-attention, dot-product scores.

One expert reads the ids of the last 20 titles. The objective is the click loss alone, with PHNS. Arguments as
in smoe.py.

python -m jaxrec.train --config configs/sasrec.py:small
python -m jaxrec.train --config configs/sasrec.py:small --config.model.head=matcher    # with the MLP heads of
smoe.py
"""

from dataclasses import replace

from configs import smoe
from jaxrec.config import Config, Objective


def get_config(scale: str = "small") -> Config:
    """Return the config for "small" or "paper"."""
    config = smoe.get_config(scale)
    config.name = f"sasrec-{scale}"
    config.model.experts = (replace(config.model.experts[-1], encoder="sasrec", mlp_ratio=1.0),)
    config.model.head, config.model.features = "dot", ("title_id",)
    config.objective = Objective(ranking=0.0, regression=0.0, personalised=False)
    return config
