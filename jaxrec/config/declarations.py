"""Declarations of what a run learns from: signals, labels, rewards, and the run that it starts from.

`config.schema` holds them in its tree and exports their names.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass
class Start:
    """Checkpoint of another run that a run starts from.

    Names of parameters are those that `train --dry-run` prints, such as "title/title_id/embedding"; a `*` of
    a pattern also matches slashes. Without a `workdir` all other fields must have their defaults.
    """

    workdir: str = ""  # workdir of the run to start from; empty: the parameters are initialised
    which: Literal["best", "last"] = "best"  # checkpoint of that run
    take: tuple[str, ...] = ("*",)  # patterns of the parameters that are taken; others are initialised
    freeze: tuple[str, ...] = ()  # patterns of the parameters that neither gradients nor weight decay change
    optimizer: Literal["fresh", "kept"] = "fresh"  # "kept": Adam's moments and the count of updates are taken
    # too, moments of new rows are 0, and the gate stays at its final temperature
    anchor: float = 0.0  # weight of L2-SP, which pulls taken parameters to their first values; 0: off
    low_rank: int = 0  # rank of the factors that are trained in place of dense kernels (LoRA); all other
    # parameters stay as they are; 0: off
    adapt: tuple[str, ...] = ("*kernel",)  # patterns of the dense kernels that `low_rank` adapts
    rows: Literal["initial", "mean", "metadata"] = "metadata"  # first values of rows for new titles and new
    # categories: the initialisation; the mean row; of titles the mean of the 20 nearest by their features
    noise: float = 0.01  # standard deviation of noise on rows by "mean" and "metadata", relative to that of
    # the table


@dataclass
class Post:
    """Post-training of a policy from rewards: the task "preference", and pairs of the task "generative"."""

    objective: str = "bc"  # key of `registry.POST_OBJECTIVES`: "bc" (imitation), "reward", "exponential",
    # "cql", "wbc", "ppo", "dpo" or "ipo"
    reward: str = ""  # name of a reward of the config; empty: none, for "bc", "dpo" and "ipo"
    source: Literal["observed", "model", "ensemble"] = "observed"  # rewards of the objective: those of the
    # log, or of the reward models: their mean, or mean - pessimism * standard deviation
    baseline: Literal["zero", "user", "title", "value", "soft", "group"] = "value"  # V of "exponential": 0;
    # the mean of the user's earlier rewards; that of the title; a value of the state, expected or soft. V of
    # "ppo": "value", or "group", the mean of the draws of the state, as in GRPO
    beta: float = 0.5  # temperature of "exponential", in units of the reward; weight of log-ratios of "dpo"
    # and "ipo"
    clip: float = 20.0  # largest weight of "exponential"
    alpha: float = 1.0  # weight of the conservative term of "cql"
    tau: float = 1.0  # temperature of the policy of "cql", softmax(Q / tau), in units of the reward
    ratio_clip: float = 0.2  # the ratio of "ppo" is clipped to 1 - ratio_clip and 1 + ratio_clip
    kappa: float = 0.0  # weight of the KL to the reference of "ppo", in units of the advantage
    samples: int = 4  # titles that are drawn at a position, by "ppo" and by `python -m jaxrec.pairs`
    refresh: int = 8  # steps of "ppo" between two copies of the policy, from which titles are drawn
    eta: float = 0.1  # weight of imitation beside the pairs of "dpo" and "ipo"
    rest: float = 0.0  # weight of imitation at the positions without a pair, for "dpo" and "ipo"
    candidates: Literal["drawn", "best"] = (
        "drawn"  # titles among which `python -m jaxrec.pairs` finds a pair:
    )
    # drawn from the policy, or its `samples` best ones, which are the beams of a generative model
    pair_users: float = 1.0  # share of the users at whose positions `python -m jaxrec.pairs` finds pairs
    reward_models: int = 0  # number of reward models, each of a bootstrap sample of the users
    pessimism: float = 1.0  # standard deviations of the reward models between the mean and a bound: that of
    # "ensemble", and those of `python -m jaxrec.pairs`
    reward_gradient: bool = False  # True: values and reward models train the encoder too


@dataclass(unsafe_hash=True)  # the model holds it, and jax hashes a model
class Codes:
    """Codes of titles, and the decoder that generates them: the task "generative".

    With a feature of kind "codes", models of other tasks read `levels`, `size` and `path`. A code is a token
    of each level, and a last token that separates titles with the same tokens.
    """

    levels: int = 3  # levels of clusters; size^levels is at least the number of titles
    size: int = 16  # clusters of a level, and values of the last token
    vectors: Literal["model", "metadata", "random"] = "model"  # what `python -m jaxrec.tokenise` clusters:
    # title vectors of the run `start.workdir`, features of titles but their ids, or nothing: tokens are drawn
    path: str = ""  # folder that `python -m jaxrec.tokenise` wrote; empty: the run cannot be trained
    places: int = 4  # positions of a window that train the decoder in a step
    decoder: int = 2  # layers of the decoder, of the width, heads and mlp_ratio of the encoder
    titles: int = 1  # next titles of a session that are written one after another; 1: single titles
    gap_hours: float = 4.0  # longest time between the starts of two plays of a session, for `titles` above 1
    reward: str = ""  # reward of the config whose mean over a session has to be in the upper half of the
    # batch, for `titles` above 1; empty: all sessions are trained
    experts: int = 1  # experts of a feed-forward, two for each token beside a shared one; 1: no mixture
    beam: int = 32  # beams of a recommendation; an evaluation scores all titles


@dataclass
class Signal:
    """Kind of event beside plays, such as a thumb, a list add or a search.

    Events are read from a column of the interactions, or from a table of their own: one of `column` and
    `table` is set for `Tables`, and `column` for `KuaiRand`. An event is kept if its user has a play.
    """

    name: str  # a Python identifier other than "play"
    value: Literal["event", "seconds", "number", "sign", "text"] = "event"  # what an event carries beside its
    # time; "event": nothing, value 1; "sign": -1 or 1; "text": text, of which a hash is kept
    about: Literal["title", "user"] = "title"  # "user": events without a title, such as a search
    column: str = ""  # column of the interactions; "*": every row is an event; a name: the rows where it is
    # neither 0 nor empty
    table: str = ""  # pattern of files with the columns user, title, time and value of `source.columns`
    unit: float = 1.0  # seconds per unit of the values, for "seconds"


@dataclass
class Label:
    """Outcome of a user and a title within a time after the request, by a rule.

    A label is known only where its rule is defined and the request's time plus `hours` lies within what the
    split may see.
    """

    name: str
    rule: str  # name of a rule: a key of `core.registry.LABEL_RULES`, or an entry point of "jaxrec.labels"
    signal: str = "play"  # kind of event that the rule reads: "play" or the name of a signal
    hours: float = 24.0  # length of the window after the request
    at: float = 0.0  # completion from which the rules "at_least" and "quick" are 1
    feature: str = ""  # category feature of titles, for the rule "discovery"
    of_drawn: Literal["zero", "unknown"] = "zero"  # value at titles that are drawn as negatives: 0 or unknown


@dataclass
class Term:
    """Term of a reward: weight * shape(label)."""

    label: str  # name of a label
    weight: float = 1.0
    shape: Literal["linear", "log1p", "step"] = "linear"
    at: float = 0.0  # threshold of "step", which is 1 from there on and 0 below


@dataclass
class Reward:
    """Reward of a title at a request: clip(base + sum of the terms, low, high)."""

    name: str
    terms: tuple[Term, ...] = ()
    base: float = 3.0
    low: float = 1.0
    high: float = 5.0
    unknown: Literal["drop", "observed", "filled"] = "drop"  # requests with an unknown label have: no
    # reward; that of the events so far; that of the predictions that `python -m jaxrec.fill` wrote


@dataclass
class Head:
    """Head of the ranking model, and the term of the objective that trains it.

    The term of a candidate counts where its label is known, and is divided by the share of entries that are.
    The task "next_item" has heads on the state of each position.
    """

    name: str  # name of the head, of its scores and of its term
    of: str  # what it learns: a label, "reward:<name>", "title:<feature>", a category of the next title, or
    # "token:kind", the kind of the next token
    on: Literal["pair", "state"] = "pair"  # a score of each candidate, or of the user's state alone
    loss: Literal["bce", "mse", "hinge", "softmax"] = "bce"  # "hinge" and "softmax" of a pair: positives
    # against drawn titles, each weighed by its label; "softmax" of a state: over the categories of a feature
    weight: float = 1.0  # weight of the term; 0: no such head
    personalised: bool = False  # True: weights of Eq. 13


@dataclass(unsafe_hash=True)  # models hold blends, and jax hashes a model
class BlendTerm:
    """Term of a blend: weight * log p of "ctr" and of a "bce" head, weight * value of any other head."""

    head: str  # name of a head on a pair
    weight: float = 1.0


@dataclass(unsafe_hash=True)
class Blend:
    """Order of titles by a weighted sum of heads, named by `evaluate.ranking_head` or `--blend`."""

    name: str
    terms: tuple[BlendTerm, ...] = ()
    where: str = ""  # "tab=1": it orders the titles of requests whose category `tab`, of the user or of the
    # context, is 1, and the head of "auto" those of other requests; empty: of all requests


__all__ = ["Blend", "BlendTerm", "Codes", "Head", "Label", "Post", "Reward", "Signal", "Start", "Term"]
