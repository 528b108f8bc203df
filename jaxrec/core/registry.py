"""The registry of extension points: each name that a config may give, and the object it stands for.

An entry is text, "module:object", so that listing the names imports nothing; `resolve` imports one object.
Config validation takes the allowed names from here. To add a loss, an encoder, a head or a task, write its
module and add one line to the table it belongs to; `tests/core/test_registry.py` resolves every entry. The
class of a source, in `config/schema.py`, names its reader in the same form.
"""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

# Kind of a feature -> the module that turns its columns into a vector.
FEATURE_KINDS = {
    "category": "jaxrec.models.layers.embedding:CategoryEmbedding",
    "categories": "jaxrec.models.layers.embedding:CategoryEmbedding",
    "number": "jaxrec.models.layers.dense:Dense",
}

# Encoder of an expert -> a SequenceEncoder: each example's history to one vector.
ENCODERS = {
    "transformer": "jaxrec.models.mixture:TransformerExpert",
    "sasrec": "jaxrec.models.encoders.sasrec:SasRec",
    "gru4rec": "jaxrec.models.encoders.gru4rec:Gru4Rec",
    "hstu": "jaxrec.models.encoders.hstu:Hstu",
}

# Encoders with softmax attention; `model.attention_impl` selects the implementation for these encoders only.
SOFTMAX_ENCODERS = ("transformer", "sasrec")

# Causal encoders of whole sequences -> an `encoders.base.PositionEncoder`: every position is encoded.
SEQUENCE_ENCODERS = {
    "sasrec": "jaxrec.models.encoders.sasrec:encode_positions",
    "hstu": "jaxrec.models.encoders.hstu:encode_positions",
    "gru4rec": "jaxrec.models.encoders.gru4rec:encode_positions",
}


class HeadEntry(NamedTuple):
    """A head of the ranking model, and the term of Eq. 15 that trains it."""

    weight: str  # field of the config's `objective`, and the term's name; at 0 there is no such head
    target: str  # the term: a `losses.ranking.HeadTerm`
    ranks: bool = False  # its scores can order titles; False: a value in (0, 1) of the positives
    metrics: str = ""  # predictions [Q] and completions [Q] of the test targets -> metric -> value


HEADS = {
    "ctr": HeadEntry("ctr", "jaxrec.losses.ranking:ctr_term", ranks=True),
    "ranking": HeadEntry("ranking", "jaxrec.losses.ranking:ranking_term", ranks=True),
    "completion": HeadEntry("regression", "jaxrec.losses.ranking:completion_term"),
}

# Loss of the ranking head, Eq. 12 -> a function of the scores of an example's candidates.
RANKING_LOSSES = {
    "hinge": "jaxrec.losses.ranking:hinge",
    "softmax": "jaxrec.losses.ranking:softmax",
}

# Loss of the next title -> a function of outputs and titles at every position.
NEXT_ITEM_LOSSES = {
    "softmax": "jaxrec.losses.next_item:softmax_loss",
    "sampled_softmax": "jaxrec.losses.next_item:sampled_softmax_loss",
    "bce": "jaxrec.losses.next_item:bce_loss",
    "gbce": "jaxrec.losses.next_item:gbce_loss",
}

# Distribution of sampled negatives of sequences -> a NegativeSampler.
NEGATIVE_SAMPLERS = {
    "uniform": "jaxrec.tasks.negative_sampling:UNIFORM",
    "in_batch": "jaxrec.tasks.negative_sampling:IN_BATCH",
}

# Metrics of ranks -> a function of ranks [...] from 1 and a cutoff.
METRICS = {
    "ndcg": "jaxrec.evaluation.metrics:ndcg",
    "recall": "jaxrec.evaluation.metrics:recall",
    "mrr": "jaxrec.evaluation.metrics:mrr",
}


class TaskEntry(NamedTuple):
    """A training task.

    Attributes:
        target: "module:object" of the task.
        rows: Kind of the dataset rows that it trains on, one of `core.row_format.ROWS`.
        encoders: The names that `encoder` of an expert may have, with the encoders.
    """

    target: str
    rows: str
    encoders: Mapping[str, str]


TASKS = {
    "ranking": TaskEntry("jaxrec.tasks.ranking:RankingTask", "ranking", ENCODERS),
    "next_item": TaskEntry("jaxrec.tasks.next_item:NextItemTask", "next_item", SEQUENCE_ENCODERS),
}


def resolve(entry: str) -> Any:
    """Import and return the object of a "module:object" entry.

    Raises:
        ImportError: The module, or a library that it needs, is not installed.
        AttributeError: The module has no such object.
    """
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)
