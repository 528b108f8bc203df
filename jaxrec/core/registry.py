"""The registry of extension points: each name that a config may give, and the object it stands for.

An entry is text, "module:object", so that listing the names imports nothing; `resolve` imports one object.
Config validation takes the allowed names from here. To add a loss, an encoder, a source or a task, write its
module and add one line to the table it belongs to; `tests/core/test_registry.py` resolves every entry.
"""

import importlib
from typing import Any, NamedTuple

# Class of the config's `source` -> the reader, called as reader(source, features, path).
SOURCES = {
    "Simulator": "jaxrec.sources.simulator.source:open_simulator",
    "Tables": "jaxrec.sources.tables:TablesSource",
    "KuaiRand": "jaxrec.sources.kuairand:open_kuairand",
    "Tfds": "jaxrec.sources.tfds:open_tfds",
}

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

# Causal encoders of whole sequences -> an `encoders.base.PositionEncoder`: every position is encoded.
SEQUENCE_ENCODERS = {
    "sasrec": "jaxrec.models.encoders.sasrec:encode_positions",
    "hstu": "jaxrec.models.encoders.hstu:encode_positions",
    "gru4rec": "jaxrec.models.encoders.gru4rec:encode_positions",
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
    """A training task, and the rows of a dataset that it trains on."""

    target: str
    rows: str  # kind, one of `core.row_format.ROWS`


TASKS = {
    "ranking": TaskEntry("jaxrec.tasks.ranking:RankingTask", "ranking"),
    "next_item": TaskEntry("jaxrec.tasks.next_item:NextItemTask", "next_item"),
}


def resolve(entry: str) -> Any:
    """Import and return the object of a "module:object" entry."""
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)
