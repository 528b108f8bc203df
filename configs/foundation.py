"""Model of long histories on the simulated service, for scores that are served hours later.

python -m jaxrec.train --config configs/foundation.py:small --workdir W
python -m jaxrec.evaluate --checkpoint W --delay-hours 0,6,24,48

| argument | model |
|---|---|
| small | d=64, 3 layers, windows of 128 plays, mixed; targets of the next 72 hours with a half-life of 24 |
| tokens | small, on tokens: all plays, trailers, thumbs and list adds; heads on what comes next |
| uses | tokens, on a service of six countries, with the labels of all uses: the run that uses start from |
| thumb, list_add, returned | a use: a thumb on the next title; a list add, a play 36 to 72 hours later |
| country | one use: the next title of the users of one country |
| tiny | small in windows of 8 plays in chunks of 4, for tests |
| tiny_tokens, tiny_uses, tiny_thumb and so on | the same in the size of tiny |

python -m jaxrec.train --config configs/foundation.py:thumb --config.start.workdir=W --workdir F

goes on from a run W of `uses`. Without `start.workdir` the same model is trained from nothing. A use of a
label has a head on states, and no loss of titles. `docs/foundation.md` has frozen encoders and vectors too.

8,000 users with 40 plays on average and 500 at most; the last title of each user is the test. The rival that
learns the next title alone is the same with --config.next_item.horizon_hours=0. `docs/foundation.md` has the
parts.
"""

from typing import Any

from jaxrec.config import (
    Config,
    Data,
    Evaluate,
    Expert,
    Feature,
    Head,
    Label,
    Model,
    NextItem,
    Optimizer,
    Sampling,
    Signal,
    Simulator,
    Task,
    Train,
)
from jaxrec.core.errors import InputError

LABELS_OF_USES = {"thumb": "thumb", "list_add": "adds", "returned": "back"}
USES = (*LABELS_OF_USES, "country")
COUNTRY = "MX"  # 7% of the users
HOURS = 72.0  # of the labels of a use; `returned` and `list_add` are about their second half
_OF_SMALL = ("small", "tokens", "uses", *USES)
ARGUMENTS = (*_OF_SMALL, "tiny", *(f"tiny_{name}" for name in _OF_SMALL[1:]))
SIGNALS = (Signal("trailer", "seconds"), Signal("thumb", "sign"), Signal("list_add"))


def _small() -> Config:
    """Return the config of the argument "small"."""
    return Config(
        source=Simulator(users=8_000, test_only_users=0, plays_per_user=40.0),
        features=(Feature("title_id", "category", "title", width=64),),
        task=Task("next_item"),
        data=Data(split="last", max_history=128, num_targets=1, validation_share=0.2),
        sampling=Sampling(id_dropout=0.0, window="mixed", latest_share=0.5),
        model=Model(
            width=64,
            experts=(Expert(max_len=128, num_layers=3, num_heads=2, dropout=0.1, encoder="sasrec"),),
            dropout=0.1,
            head="dot",
            embedding_init_std=0.02,
        ),
        next_item=NextItem(horizon_hours=72.0, half_life_hours=24.0, most=8),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.0, plateau_factor=1.0),
        train=Train(duration="9 epochs", batch_size=64),
        evaluate=Evaluate(batch_size=256, next_k=(1,)),
    )


def _tiny() -> Config:
    """Return the config of the argument "tiny"."""
    config = _small()
    config.source = Simulator(users=240, test_only_users=0, titles=60, slate=20, plays_per_user=20.0)
    config.features = (Feature("title_id", "category", "title", width=8),)
    config.data.max_history, config.data.partitions = 8, 2
    config.model.width, config.model.attention_span = 8, 4
    config.model.experts = (Expert(max_len=8, num_layers=1, num_heads=2, dropout=0.1, encoder="sasrec"),)
    config.train = Train(duration="2 epochs", batch_size=64, log_seconds=0.5)
    config.evaluate.batch_size = 64
    return config


def with_tokens(config: Config) -> Config:
    """Return a config whose sequences are of tokens, with heads on the kind, the genre and the return."""
    width = config.features[0].width
    config.signals, config.data.tokens = SIGNALS, ("play", *(signal.name for signal in SIGNALS))
    config.features = (
        *config.features, Feature("genres", "categories", "title", width // 4, most=3),
        Feature("device", "category", "context", width // 4),
    )  # fmt: skip
    config.model.features = ("title_id", "device")
    config.labels = (Label("back", "returned", hours=7 * 24.0),)
    config.objective.heads = (
        Head("kind", "token:kind", "state", "softmax", 0.1),
        Head("genre", "title:genres", "state", "softmax", 0.1),
        Head("back", "back", "state", "bce", 0.1),
    )
    return config


def with_uses(config: Config) -> Config:
    """Return a config on tokens of a service of six countries, whose rows have the labels of all uses."""
    config = with_tokens(config)
    assert isinstance(config.source, Simulator)
    config.source.countries, config.source.country_taste = 6, 1.0
    # The last play of a user has nothing after it: labels of what comes later need a split by time. The log
    # has twelve weeks from 2024-11-01.
    config.data.split, config.data.validation_from, config.data.test_from = "time", "2025-01-03", "2025-01-10"
    config.labels = (
        Label("back", "returned", hours=HOURS),
        Label("thumb", "happened", "thumb", hours=24.0),
        Label("adds", "returned", "list_add", hours=HOURS),
    )
    return config


def edits_of_use(base: Config, use: str) -> dict[str, Any]:
    """Return dotted key -> value of what a use changes in `base`, a config of `with_uses`."""
    if use == "country":
        country = Feature("country", "category", "user", 4)  # selects rows; no model of sequences reads it
        return {
            "features": (*base.features, country), "data.only": f"country={COUNTRY}", "objective.heads": (),
        }  # fmt: skip
    label = LABELS_OF_USES[use]
    return {
        "objective.heads": (Head(label, label, "state", "bce"),),
        "next_item.weight": 0.0, "next_item.horizon_hours": 0.0,
    }  # fmt: skip


def get_config(name: str = "small") -> Config:
    """Return the config of a name in ARGUMENTS."""
    if name not in ARGUMENTS:
        raise InputError(f"configs/foundation.py:{name}: the argument must be one of {', '.join(ARGUMENTS)}")
    config, use = _tiny() if name.startswith("tiny") else _small(), name.removeprefix("tiny_")
    if use == "tokens":
        config = with_tokens(config)
    elif use in ("uses", *USES):
        config = with_uses(config)
        for key, value in edits_of_use(config, use).items() if use in USES else ():
            part, _, field = key.rpartition(".")
            setattr(getattr(config, part) if part else config, field, value)
    config.name = f"foundation-{name.replace('_', '-')}"
    return config
