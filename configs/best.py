"""What ranked best of what was tried beyond the paper: one task, click, personalised; averaged parameters.

python -m jaxrec.train --config configs/best.py              # the simulated service, as smoe.py:small
python -m jaxrec.train --config configs/best.py:kuairand --config.source.directory=DIR

It is configs/smoe.py, or configs/kuairand.py, without the ranking and the completion task, judged by a moving
average of the parameters. What each gains is `python -m jaxrec.study --config configs/study.py:small --tables
beyond`; that and what else was tried is in benchmarks/results/quality.md. `paper` has not been run.
"""

from configs import kuairand, smoe
from jaxrec.config import Config
from jaxrec.core.errors import InputError


def get_config(scale: str = "small") -> Config:
    """ "small" or "paper", as smoe.py has them, or "kuairand"."""
    if scale not in ("small", "paper", "kuairand"):
        raise InputError(f"configs/best.py:{scale}: the argument must be small, paper or kuairand")
    config = kuairand.get_config() if scale == "kuairand" else smoe.get_config(scale)
    config.name = f"best-{scale}"
    config.objective.ranking = config.objective.regression = 0.0
    config.optimizer.average = 0.995
    return config
