"""Best config beyond the paper: personalised click task, averaged parameters.

The config ranked best of all changes tried.

python -m jaxrec.train --config configs/best.py              # simulated service, as smoe.py:small
python -m jaxrec.train --config configs/best.py:kuairand --config.source.directory=DIR

The config is configs/smoe.py, or configs/kuairand.py, without the ranking and completion tasks, evaluated
with a moving average of the parameters. The gain of each change is measured by

python -m jaxrec.study --config configs/study.py:small --tables beyond

These gains and the other changes tried are in benchmarks/results/quality.md. `paper` has not been run.
"""

from configs import kuairand, smoe
from jaxrec.config import Config
from jaxrec.core.errors import InputError


def get_config(scale: str = "small") -> Config:
    """Return the config for "small" or "paper" (as in smoe.py), or "kuairand"."""
    if scale not in ("small", "paper", "kuairand"):
        raise InputError(f"configs/best.py:{scale}: the argument must be small, paper or kuairand")
    config = kuairand.get_config() if scale == "kuairand" else smoe.get_config(scale)
    config.name = f"best-{scale}"
    config.objective.ranking = config.objective.regression = 0.0
    config.optimizer.ema_decay = 0.995
    return config
