"""What ranked best of what was tried beyond the paper: the S-MoE with one task, click, still personalised.

python -m jaxrec.train --config configs/best.py              # the simulated service, as smoe.py:small
python -m jaxrec.train --config configs/best.py:kuairand --config.source.directory=DIR

It is configs/smoe.py:small, or configs/kuairand.py, without the ranking and the completion task. What that
gains, and what else was tried, is in benchmarks/results/quality.md.
"""

from configs import kuairand, smoe
from jaxrec.config import Config
from jaxrec.errors import InputError


def get_config(source: str = "small") -> Config:
    """ "small" or "kuairand"."""
    if source not in ("small", "kuairand"):
        raise InputError(f"configs/best.py:{source}: the argument must be small or kuairand")
    config = smoe.get_config("small") if source == "small" else kuairand.get_config()
    config.name = f"best-{source}"
    config.objective.ranking = config.objective.regression = 0.0
    return config
