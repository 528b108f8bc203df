"""SASRec (Kang & McAuley 2018): one expert of causal self-attention over the last 20 titles, which it knows
by their ids alone, scored by the dot product; clicks alone, with PHNS. Takes smoe.py's arguments.

python -m jaxrec.train --config configs/sasrec.py:small
python -m jaxrec.train --config configs/sasrec.py:small --config.model.head=matcher    # with our matchers
"""

from dataclasses import replace

from configs import smoe
from jaxrec.config import Config, Objective


def get_config(scale: str = "small") -> Config:
    """ "small" or "paper"."""
    config = smoe.get_config(scale)
    config.name = f"sasrec-{scale}"
    config.model.experts = (replace(config.model.experts[-1], kind="sasrec", feedforward=1.0),)
    config.model.head, config.model.reads = "dot", ("title_id",)
    config.objective = Objective(ranking=0.0, regression=0.0, personalised=False)
    return config
