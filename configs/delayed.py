"""Delayed feedback on the simulated service: is a title finished within 30 days of its first play?

python -m jaxrec.train --config configs/delayed.py:offline --config.data.directory=D --workdir O
python -m jaxrec.fill --checkpoint O --data D --out D2
python -m jaxrec.train --config configs/delayed.py:online --config.data.directory=D2

The label is unknown for the requests of the last 30 days. `offline` is a model that predicts it from labels
of the first day, trained on the older requests; `fill` writes its predictions where the label is unknown;
`online` is S-MoE with a head that learns known and predicted labels. Both configs have one dataset.

All first plays are targets: which of them are abandoned at the end of the log is not known after a day.
"""

from configs import smoe
from jaxrec.config import Config, Feature, Head, Label, Objective
from jaxrec.core.errors import InputError

LATE = Label("finished", "at_least", hours=720, at=0.9, of_drawn="unknown")
EARLY = (
    Label("finished_1d", "at_least", hours=24, at=0.9),
    Label("completion_1d", "completion", hours=24),
    Label("seconds_1d", "seconds", hours=24),
)
OBSERVED = tuple(Feature(label.name, "number", "label", 16, available="after") for label in EARLY)


def get_config(model: str = "offline") -> Config:
    """Return the config of the model "offline" or "online"."""
    if model not in ("offline", "online"):
        raise InputError(f"configs/delayed.py:{model}: the argument must be offline or online")
    config = smoe.get_config("small")
    config.name = f"delayed-{model}"
    config.labels, config.data.targets = (LATE, *EARLY), "every"
    config.objective.heads = (Head("finished", "finished"),)
    if model == "offline":
        config.offline, config.features = True, (*config.features, *OBSERVED)
        config.objective = Objective(ctr=0.0, ranking=0.0, regression=0.0, heads=config.objective.heads)
    return config
