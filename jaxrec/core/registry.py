"""The registry of extension points: each name that a config may give, and the object it stands for.

An entry is text, "module:object", so that listing the names imports nothing; `resolve` imports one object.
Config validation takes the allowed names from here. To add a loss, an encoder, a head or a task, write its
module and add one line to the table it belongs to; `tests/core/test_registry.py` resolves every entry. The
class of a source, in `config/schema.py`, names its reader in the same form.

Rules of labels and encoders may also come from an installed distribution, by the entry points of the groups
that `Extensible` tables name. They are read when a name is first looked up, and listing them imports nothing.
"""

import functools
import importlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jaxrec.core.errors import InputError


def resolve(entry: str) -> Any:
    """Import and return the object of a "module:object" entry.

    Raises:
        ImportError: The module, or a library that it needs, is not installed.
        AttributeError: The module has no such object.
    """
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)


class Extensible(Mapping[str, str]):
    """Table of the registry with the entry points of other distributions: name -> "module:object".

    Attributes:
        group: Group of the entry points.
        attribute: Attribute of an entry point's object that is used in its place; empty: the object.
    """

    def __init__(self, built_in: Mapping[str, str], group: str, attribute: str = ""):
        self.built_in, self.group, self.attribute = built_in, group, attribute

    def _own(self) -> Mapping[str, importlib.metadata.EntryPoint]:
        own = entry_points(self.group)
        for name in own:
            if name in self.built_in:
                raise InputError(f"{_place(own[name])} must not have the name of a built-in one")
        return own

    def __getitem__(self, name: str) -> str:
        return self.built_in[name] if name in self.built_in else self._own()[name].value

    def __iter__(self) -> Iterator[str]:
        yield from self.built_in
        yield from self._own()

    def __len__(self) -> int:
        return len(self.built_in) + len(self._own())

    def resolve(self, name: str) -> Any:
        """Import and return the object of a name.

        Raises:
            InputError: There is no such name, or the entry point cannot be imported, or it has the name of
                another one.
        """
        if name in self.built_in:
            return resolve(self.built_in[name])
        own = self._own()
        if name not in own:
            raise InputError(f"{self.group}: {name!r} must be one of {', '.join(self)}")
        try:
            target = own[name].load()
        except Exception as error:  # whatever a foreign module raises while it is imported
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(f"{_place(own[name])} cannot be imported: {text}") from error
        if self.attribute and not hasattr(target, self.attribute):
            raise InputError(f"{_place(own[name])} must have an attribute {self.attribute!r} for this task")
        return getattr(target, self.attribute) if self.attribute else target


def _place(entry: importlib.metadata.EntryPoint) -> str:
    """Return group, name, value and distribution of an entry point, for a message."""
    owner = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"
    return f"entry point {entry.name!r} = {entry.value!r} of group {entry.group!r} in {owner}"


@functools.cache
def entry_points(group: str) -> Mapping[str, importlib.metadata.EntryPoint]:
    """Return the entry points of a group by name, in the order of the names; read once a process.

    Raises:
        InputError: Two entry points have one name.
    """
    out: dict[str, importlib.metadata.EntryPoint] = {}
    for entry in sorted(importlib.metadata.entry_points(group=group), key=lambda entry: entry.name):
        if entry.name in out:
            raise InputError(f"{_place(entry)} must not have the name of {_place(out[entry.name])}")
        out[entry.name] = entry
    return out


# Kind of a feature -> the module that turns its columns into a vector.
FEATURE_KINDS = {
    "category": "jaxrec.models.layers.embedding:CategoryEmbedding",
    "categories": "jaxrec.models.layers.embedding:CategoryEmbedding",
    "number": "jaxrec.models.layers.dense:Dense",
    "text": "jaxrec.models.features.text:TextEmbedding",
    "codes": "jaxrec.models.features.codes:CodeEmbedding",
    "title": "jaxrec.models.features.source_title:PageTitles",
}

# Encoder of an expert -> a SequenceEncoder: each example's history to one vector.
ENCODERS = {
    "transformer": "jaxrec.models.mixture:TransformerExpert",
    "sasrec": "jaxrec.models.encoders.sasrec:SasRec",
    "gru4rec": "jaxrec.models.encoders.gru4rec:Gru4Rec",
    "hstu": "jaxrec.models.encoders.hstu:Hstu",
    "ligr": "jaxrec.models.encoders.ligr:Ligr",
    "fuxi": "jaxrec.models.encoders.fuxi:Fuxi",
    "session": "jaxrec.models.encoders.session:SessionExpert",
    "session_counts": "jaxrec.models.encoders.session:SessionCounts",
}

# Encoders of the session of a request, and not of the history; rows hold it where `data.session` is above 0.
SESSION_ENCODERS = ("session", "session_counts")

# Encoders with softmax attention; `model.attention_impl` selects the implementation for these encoders only.
SOFTMAX_ENCODERS = ("transformer", "sasrec", "ligr", "session")

# Causal encoders of whole sequences -> an `encoders.base.PositionEncoder`: every position is encoded.
SEQUENCE_ENCODERS = {
    "sasrec": "jaxrec.models.encoders.sasrec:encode_positions",
    "hstu": "jaxrec.models.encoders.hstu:encode_positions",
    "gru4rec": "jaxrec.models.encoders.gru4rec:encode_positions",
    "ligr": "jaxrec.models.encoders.ligr:encode_positions",
    "fuxi": "jaxrec.models.encoders.fuxi:encode_positions",
}

# Those whose attention may be block-local: `model.attention_span`.
BLOCK_LOCAL_ENCODERS = ("sasrec", "hstu", "ligr")

# Those whose keys and values can be cached -> an `encoders.base.CachedEncoder`: one position more at a time.
CACHED_ENCODERS = {
    "sasrec": "jaxrec.models.encoders.sasrec:encode_with_keys",
    "hstu": "jaxrec.models.encoders.hstu:encode_with_keys",
    "ligr": "jaxrec.models.encoders.ligr:encode_with_keys",
    "fuxi": "jaxrec.models.encoders.fuxi:encode_with_keys",
}

# All encoders with those of other distributions, group "jaxrec.encoders". An entry point names a
# SequenceEncoder; with a static method `encode_positions`, a PositionEncoder, it encodes whole sequences too.
ALL_ENCODERS = Extensible(ENCODERS, "jaxrec.encoders")
ALL_SEQUENCE_ENCODERS = Extensible(SEQUENCE_ENCODERS, "jaxrec.encoders", attribute="encode_positions")

# Rule of a label -> a function of anchors, events, titles and the label; see `data.labels.rules`.
LABEL_RULES = {
    "happened": "jaxrec.data.labels.rules:happened",
    "count": "jaxrec.data.labels.rules:count",
    "seconds": "jaxrec.data.labels.rules:seconds",
    "last": "jaxrec.data.labels.rules:last",
    "positive": "jaxrec.data.labels.rules:positive",
    "completion": "jaxrec.data.labels.rules:completion",
    "at_least": "jaxrec.data.labels.rules:at_least",
    "quick": "jaxrec.data.labels.rules:quick",
    "discovery": "jaxrec.data.labels.discovery:discovery",
    "continues": "jaxrec.data.labels.rules:continues",
    "returned": "jaxrec.data.labels.rules:returned",
    "switched_off": "jaxrec.data.labels.rules:switched_off",
}
ALL_LABEL_RULES = Extensible(LABEL_RULES, "jaxrec.labels")


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

# Loss of a declared head -> a `losses.ranking.HeadTerm`: of candidates, and of the user's state.
PAIR_LOSSES = {
    "bce": "jaxrec.losses.label_terms:pair_bce",
    "mse": "jaxrec.losses.label_terms:pair_mse",
    "hinge": "jaxrec.losses.label_terms:pair_hinge",
    "softmax": "jaxrec.losses.label_terms:pair_softmax",
}
STATE_LOSSES = {
    "bce": "jaxrec.losses.label_terms:state_bce",
    "mse": "jaxrec.losses.label_terms:state_mse",
    "softmax": "jaxrec.losses.label_terms:state_softmax",
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

# Objective of post-training -> a function of logged choices, draws or pairs, and `config.post`.
POST_OBJECTIVES = {
    "bc": "jaxrec.losses.preference:bc",
    "reward": "jaxrec.losses.preference:reward",
    "exponential": "jaxrec.losses.preference:exponential",
    "cql": "jaxrec.losses.preference:cql",
    "wbc": "jaxrec.losses.preference:wbc",
    "ppo": "jaxrec.losses.preference:ppo",
    "dpo": "jaxrec.losses.preference:dpo",
    "ipo": "jaxrec.losses.preference:ipo",
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
    "ranking": TaskEntry("jaxrec.tasks.ranking:RankingTask", "ranking", ALL_ENCODERS),
    "next_item": TaskEntry("jaxrec.tasks.next_item:NextItemTask", "next_item", ALL_SEQUENCE_ENCODERS),
    "preference": TaskEntry(
        "jaxrec.tasks.preference.task:PreferenceTask", "next_item", ALL_SEQUENCE_ENCODERS
    ),
    "generative": TaskEntry(
        "jaxrec.tasks.generative.task:GenerativeTask", "next_item", ALL_SEQUENCE_ENCODERS
    ),
}
