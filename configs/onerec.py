"""Generative model on the simulated service: titles written as codes, after OneRec (arXiv 2502.18965).

python -m jaxrec.train --config configs/onerec.py:title --workdir TITLE               # the title policy
python -m jaxrec.tokenise --config configs/onerec.py:small --config.start.workdir=TITLE --workdir CODES
python -m jaxrec.train --config configs/onerec.py:small --config.codes.path=CODES --workdir ONEREC
python -m jaxrec.evaluate --checkpoint ONEREC --lists catalogue,truth

| argument | model |
|---|---|
| title | softmax over titles, of the same encoder: its vectors are coded, and it is the rival |
| small | codes of 3 levels of 16 tokens, a decoder of 2 layers |
| mixture | `small` with 8 experts in each feed-forward |
| coded_title | `title`, whose title vectors also read the prefixes of the titles' codes |
| title_tiny, tiny | `title` and `small` at the size of configs/tiny.py, for tests |

`docs/semantic_ids.md` has the results.
"""

from jaxrec.config import (
    Codes,
    Config,
    Data,
    Evaluate,
    Expert,
    Feature,
    Model,
    Optimizer,
    Sampling,
    Simulator,
    Task,
    Train,
)
from jaxrec.core.errors import InputError

ARGUMENTS = ("title", "small", "mixture", "coded_title", "title_tiny", "tiny")
_TITLE_POLICIES = ("title", "title_tiny", "coded_title")


def _title() -> Config:
    """Return the title policy."""
    return Config(
        name="onerec-title",
        source=Simulator(users=20_000, test_only_users=5_000, habit=0.2, ratings=1.0),
        features=(
            Feature("title_id", "category", "title", width=48),
            Feature("genres", "categories", "title", width=48, most=3),
        ),
        task=Task("next_item"),
        data=Data(targets="every", max_history=16, num_targets=1, train_share=0.9, validation_share=0.05),
        sampling=Sampling(id_dropout=0.0),
        model=Model(
            width=48,
            experts=(Expert(max_len=16, num_layers=2, num_heads=2, dropout=0.2, encoder="hstu"),),
            dropout=0.2,
            head="dot",
            features=("title_id",),
            embedding_init_std=0.02,
        ),
        optimizer=Optimizer(learning_rate=5e-3, weight_decay=0.0, plateau_factor=1.0),
        train=Train(duration="16 epochs", batch_size=128),
        evaluate=Evaluate(batch_size=512, next_k=(1,), checkpoint="best"),
    )


def _tiny(config: Config) -> Config:
    config.name, config.source = f"{config.name}-tiny", Simulator(
        users=240, test_only_users=40, titles=60, slate=20, habit=0.2, ratings=1.0
    )  # fmt: skip
    config.data.max_history, config.data.truth_queries, config.data.partitions = 8, 64, 2
    config.features = tuple(Feature(f.name, f.kind, f.where, width=8, most=f.most) for f in config.features)
    config.model.width = 8
    config.model.experts = (Expert(max_len=8, num_layers=1, num_heads=2, dropout=0.1, encoder="hstu"),)
    config.train, config.evaluate.batch_size = Train(duration="2 epochs", batch_size=64, log_seconds=0.5), 64
    return config


def get_config(name: str = "small") -> Config:
    """Return the config of a name in ARGUMENTS."""
    if name not in ARGUMENTS:
        raise InputError(f"configs/onerec.py:{name}: the argument must be one of {', '.join(ARGUMENTS)}")
    config = _title()
    if name == "coded_title":
        config.name = "onerec-coded-title"
        config.features += (Feature("codes", "codes", "title", width=48),)
        config.model.features += ("codes",)
    if name not in _TITLE_POLICIES:
        config.name, config.task = f"onerec-{name.removesuffix('tiny') or 'small'}", Task("generative")
        config.optimizer.learning_rate = 3e-3
    if name == "mixture":
        config.codes.experts = 8
    if name.endswith("tiny"):
        config = _tiny(config)
    if name == "tiny":
        config.codes = Codes(levels=2, size=8, places=3, decoder=1, beam=8)
    return config
