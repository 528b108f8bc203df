"""KuaiRand with a row for each exposure: its labels are the feedback on the title that was shown.

python -m jaxrec.describe --config configs/kuairand_impressions.py --config.source.directory=DIR

python -m jaxrec.prepare --config configs/kuairand_impressions.py:2/5 --config.source.directory=DIR

`configs/kuairand.py` describes DIR. Every row of the log is an exposure. The argument "2/5" tests the second
of five folds of the users, so that five datasets test each user once.

The feedback on an exposure is logged in its row, at its own time. A window of one second holds it, and labels
are unknown for the exposures of the log's last second alone.

The model reads the same feedback on earlier exposures, each of which is a play in the history. It reads those
that were skipped too: without them a history would not show how often a user likes what is shown.
benchmarks/results/history-signals.md has what both are worth.
"""

from configs import kuairand_signals
from configs.kuairand_labels import FEEDBACK
from jaxrec.config import Config, Feature, Head, Label, Signal

SECOND = 1 / 3600  # hours
LABELS = tuple(Label(name, "happened", name, hours=SECOND) for name in FEEDBACK)


def get_config(fold: str = "") -> Config:
    """Return the config of a fold, such as "2/5", or of the split by shares."""
    config = kuairand_signals.get_config()
    config.signals = (*config.signals, Signal("impression", column="*"))
    config.labels = LABELS
    config.features += tuple(Feature(name, "number", "interaction", width=8) for name in FEEDBACK)
    config.sampling.history_keeps_abandoned = True
    config.data.examples, config.data.num_targets, config.data.fold = "impressions", 1, fold
    config.evaluate.next_k = (1,)
    # Click, ranking and completion learn from plays and from titles that were not shown.
    config.objective.ctr = config.objective.ranking = config.objective.regression = 0.0
    config.objective.heads = tuple(Head(name, name) for name in FEEDBACK)
    config.name = "kuairand_impressions" + (f"-{fold.replace('/', '-of-')}" if fold else "")
    return config
