"""The typed config tree: every choice a run makes, with the paper's value as its default.

A file under `configs/` returns one `Config` from `get_config()`. Loading, overriding and checking it
are in the other modules of this package.
"""

from dataclasses import dataclass, field
from typing import Literal

from jaxrec.core.registry import TASKS


@dataclass
class Feature:
    """A column that is a feature, so that columns of another service need no code."""

    name: str  # name of the column in its table; of an interaction: completion, sessions or age
    kind: str  # "category", "categories" (list-valued) or "number"
    where: str  # "title", "user", "context" or "interaction"
    width: int  # of its embedding
    most: int = 0  # longest list kept of a "categories" column


# ---------------------------------------------------------------- sources, one of which is `Config.source`


@dataclass
class Simulator:
    """The simulated streaming service of `jaxrec/sources/simulator/source.py`.

    A strength of 1 is the default service; 0 removes its premise. `taste`, `interest` (a genre of the week),
    `mood` (a genre of the sitting) and `appeal` change what is chosen; `satisfaction`, `match` and `patience`
    (its spread over users) change what is abandoned.
    """

    seed: int = 0
    users: int = 20_000
    test_only_users: int = 20_000
    titles: int = 1_000
    weeks: int = 12
    plays_per_user: float = 12.0  # mean titles played per user; heavy-tailed
    sitting: float = 4.0  # mean plays per sitting; a mood lasts one sitting
    slate: int = 100  # titles that a play is chosen from
    taste: float = 1.0
    interest: float = 1.0
    interest_moves: float = 0.15  # probability per week that the interest moves to another genre
    mood: float = 1.0
    popularity: float = 1.0  # Zipf exponent of exposure; 0: all titles alike
    appeal: float = 1.0
    satisfaction: float = 1.0
    clickbait: float = 1.0  # how far appeal and satisfaction differ; 0: not at all
    match: float = 1.0  # strength with which a match of title and user keeps the user watching
    patience: float = 1.0
    interruptions: float = 0.1  # fraction of plays cut short whatever the title
    replay_watched: float = 0.05  # fraction of watched titles that are played again later
    replay_abandoned: float = 0.02  # fraction of abandoned titles that are played again later


@dataclass
class Columns:
    """Names of the columns of `Tables`. Of several names, "user|user_id", the first that exists is read."""

    user: str = "user_id"
    title: str = "title_id"
    time: str = "time"
    time_unit: Literal["s", "ms", "us"] = "ms"  # of a whole-number column
    seconds: str = "seconds_viewed"  # "": the log has no watch time
    title_key: str = "title_id"  # in the titles table
    runtime: str = "runtime_minutes"  # "": not known
    user_key: str = "user_id"  # in the users table
    list_separator: str = ","  # of list-valued columns in CSV


@dataclass
class Tables:
    """CSV or Parquet: each a file, a folder or a glob."""

    interactions: str = ""  # or the config's data.path
    titles: str = ""  # "": the titles of the log, without features
    users: str = ""  # may stay empty
    columns: Columns = field(default_factory=Columns)


@dataclass
class KuaiRand:
    """A folder in the official KuaiRand layout."""

    directory: str = ""
    logs: str = "log_standard_*.csv"


@dataclass
class Tfds:
    """A TensorFlow Datasets name of ratings, stored as array_record."""

    name: str = ""
    split: str = "train"
    data_dir: str = ""
    user: str = "user_id"
    title: str = "movie_id"
    time: str = "timestamp"  # seconds


# ---------------------------------------------------------------- preparation


@dataclass
class Task:
    """The training task, which decides the rows of the dataset."""

    name: str = "ranking"  # of `registry.TASKS`: "ranking" (the paper's) or "next_item" (whole sequences)


@dataclass
class Data:
    """The prepared dataset. All fields but `directory`, `workers` and `partitions` enter its digest."""

    directory: str = ""  # of the prepared dataset; empty: data/<source>-<digest>
    path: str = ""  # the log of a Tables source that names none: what varies where columns are all alike
    seed: int = 0  # of the split, the pools and the evaluation lists
    max_history: int = 32  # titles stored per row, a multiple of 4; of sequences, per position
    num_targets: int = 3  # next titles stored
    abandon_threshold: float = 0.05  # completion below which a title is abandoned
    targets: Literal["new", "any"] = "new"  # first plays of titles not abandoned, or every play of one
    split: Literal["users", "last", "time"] = "users"  # "last": each user's last target is tested
    train_share: float = 0.8  # fraction of users, where users are split
    validation_share: float = 0.1  # with "last", fraction of users whose last target but one is held out too
    validation_from: str = ""  # with "time": first day of the validation targets, which end before test_from
    test_from: str = ""  # with "time": first day of the test targets
    hard: int = 16  # stored columns of each pool
    trending: int = 32
    tailing: int = 20
    random: int = 8
    negatives: int = 20  # in an evaluation list
    max_invalid_fraction: float = 0.05  # of rows, copies aside; above it preparation stops
    earliest: str = "1990-01-01"  # times outside are dropped and counted
    latest: str = "2100-01-01"
    partitions: int = 8  # least number of partitions of users; changes memory, never bytes
    workers: int = 0  # threads; 0: one per core; changes time, never bytes


@dataclass
class Mix:
    """Shares of the four pools (Table 2); they add to 1 and give whole counts."""

    hard: float = 0.3
    trending: float = 0.4
    tailing: float = 0.3
    random: float = 0.0


TRAIN_MIXES = {
    "hard": Mix(0.5, 0.3, 0.2, 0.0),
    "medium": Mix(0.3, 0.4, 0.3, 0.0),
    "easy": Mix(0.2, 0.3, 0.5, 0.0),
    "none": Mix(0.0, 0.5, 0.3, 0.2),
}
LIST_MIXES = {"enabled": Mix(0.3, 0.3, 0.2, 0.2), "disabled": Mix(0.0, 0.5, 0.3, 0.2)}


@dataclass
class Sampling:
    """The part of a stored row that a training example shows."""

    mix: Mix = field(default_factory=Mix)
    negatives: int = 20  # per positive
    history_keeps_abandoned: bool = False  # whether histories show titles that the user abandoned
    id_dropout: float = 0.01  # fraction of history titles shown as unknown
    window: Literal["latest", "random"] = "latest"  # of a sequence's row; "random": another each epoch
    stochastic_length: float = 0.0  # HSTU's alpha, in (1, 2), by which long windows are thinned; 0: off
    next_k: int = 1  # next titles that are positives
    target_weights: tuple[float, ...] = (1.0, 0.6, 0.3)  # of the next titles; the first next_k are used


# ---------------------------------------------------------------- model and objective
# `unsafe_hash`: Flax modules hold these three, and jax hashes a module that is jitted. None is changed there.


@dataclass(unsafe_hash=True)
class Expert:
    """An encoder of the last `max_len` titles."""

    max_len: int = 20
    num_layers: int = 2
    num_heads: int = 12  # gru4rec has none
    mlp_ratio: float = 2.0  # hidden width of the feed-forward over `model.width`; gru4rec and hstu have none
    dropout: float = 0.2
    encoder: str = "transformer"  # of `registry.ENCODERS`: or "sasrec" (causal, the newest title's output),
    # "gru4rec" (the state of a GRU), "hstu" (causal, gated, without softmax)


@dataclass(unsafe_hash=True)
class Gate:
    """Eq. 9 and 10."""

    hidden: tuple[int, ...] = (128, 64)
    noise_std: float = 0.1  # standard deviation, training only, drawn per expert
    start_temperature: float = 2.0
    temperature: float = 1.0  # final
    anneal_fraction: float = 0.5  # share of training over which it falls, exponentially
    target_entropy: float | None = 0.52  # nats; None: no such term


@dataclass(unsafe_hash=True)
class Model:
    """The recommender. One expert is BST, equal ones V-MoE, unequal ones S-MoE."""

    width: int = 96
    experts: tuple[Expert, ...] = field(
        default_factory=lambda: (Expert(max_len=7, mlp_ratio=1.0), Expert(max_len=20, mlp_ratio=2.0))
    )
    gate: Gate = field(default_factory=Gate)
    dropout: float = 0.2  # "initial dropout", on the experts' input
    head_hidden: tuple[int, ...] = (128, 64)  # hidden widths of the tasks' MLP heads
    matcher_product: bool = True  # the product of user and title projections joins the heads' input
    head: Literal["matcher", "dot"] = "matcher"  # "dot", for one task: user vector times title vector
    cosine: bool = False  # of sequences: both vectors have length 1 where they meet
    untied_item_embeddings: bool = False  # of sequences: other vectors for scored titles, as in gSASRec
    features: tuple[str, ...] = ()  # names of the features that the model reads; empty: all
    item_table_sharding: Literal["replicated", "split"] = "replicated"  # "split": rows of the titles'
    # embeddings, and of their optimizer state, are sharded over the devices
    embedding_init_std: float = 0.2  # standard deviation of embeddings at the start
    position: Literal["index", "time_gap", "none"] = "index"  # "time_gap": time since the last play
    target_in_sequence: bool = False  # each candidate joins the history as its newest title, as in BST: the
    # experts' work is multiplied by the candidates, but sasrec and hstu read a history once
    retrieval_dim: int = 0  # width of the retrieval head's vectors; 0: no such head
    remat: bool = False  # experts recompute their forward pass in the backward pass, to hold less of it
    attention_impl: Literal["auto", "einsum", "dot_product", "cudnn", "broadcast", "pallas"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the compute; parameters, softmax and losses stay
    # float32


@dataclass
class Objective:
    """Eq. 12 to 15. A task of weight 0 has no head; CTR alone is the paper's STL."""

    ctr: float = 1.0
    ranking: float = 1.0
    regression: float = 0.2
    entropy: float = 0.1
    balance: float = 0.0  # weight of the load-balancing term over all users; 0: none
    retrieval: float = 0.0  # weight of the retrieval head's softmax over the positive and random titles
    retrieval_negatives: int = 64  # titles drawn from the whole catalogue for each example and step
    personalised: bool = True  # Eq. 13
    alpha: float = 1.0
    weighting: Literal["fixed", "uncertainty", "averaging"] = "fixed"  # or learned from these weights, or
    # averaged by epoch
    ranking_loss: str = "hinge"  # of `registry.RANKING_LOSSES`: Eq. 12; or "softmax" over the candidates
    margin: float = 1.0  # of the hinge
    soft_negative: float = 0.1  # label of the negatives that `soft_on` names
    soft_on: Literal["hard", "all", "none"] = "hard"


@dataclass
class NextItem:
    """The objective of the task "next_item", in place of `Objective`: the next title at every position."""

    loss: str = "softmax"  # of `registry.NEXT_ITEM_LOSSES`: over all titles; or over sampled ones
    negatives: int = 128  # sampled for each position
    negative_distribution: str = "uniform"  # of `registry.NEGATIVE_SAMPLERS`
    negatives_shared_by: Literal["place", "sequence"] = "place"  # each position has its own, or each sequence
    logq_correction: bool = False  # sampled_softmax: scores less the log of how often a title is sampled
    calibration: float = 0.75  # t of gbce: 0 is bce, 1 the probabilities of a softmax
    temperature: float = 1.0  # divides the scores
    logits_budget_mib: int = 256  # MiB of logits at a time
    personalised: bool = False  # Eq. 13, where the source has watch times
    alpha: float = 1.0


@dataclass
class Optimizer:
    """Adam, weight decay, ReduceLROnPlateau."""

    learning_rate: float = 1e-3
    beta2: float = 0.999  # Adam's decay of squared gradients
    warmup_steps: int = 0  # steps over which the rate rises linearly
    weight_decay: float = 0.01
    weight_decay_mode: Literal["decoupled", "coupled"] = "decoupled"  # "coupled": as PyTorch's Adam does
    ema_decay: float = 0.0  # decay of a moving average of the parameters, which is evaluated; 0: none
    plateau_factor: float = 0.5
    plateau_patience: int = 2  # evaluations, in PyTorch's meaning


# ---------------------------------------------------------------- the run


@dataclass
class Train:
    """The training run."""

    seed: int = 0  # initialisation, order, dropout, gate noise
    duration: str = "20 epochs"  # or "5000 steps"
    batch_size: int = 8192  # of all devices together
    microbatch_size: int = 0  # examples a device works through at a time; 0: 256 on a CPU, else all it has.
    # Gradients are accumulated to one update, whatever the number of microbatches
    steps_per_call: int = 0  # steps of one compiled call, whose batches a device holds; 0: 8 on a GPU, else 1
    log_seconds: float = 5.0  # between lines of metrics.jsonl
    checkpoint_every_seconds: float = 600.0  # between checkpoints, besides one after each validation
    prefetch: int = 2  # calls whose batches are read ahead
    preemption_exit_code: int = 0  # after SIGTERM; 75 in launch/, so that a cluster restarts the run
    grace_seconds: float = 25.0  # after SIGTERM, to save and exit; what is not saved by then is lost
    heartbeat_seconds: int = 30  # after which a silent process counts as lost, and all end
    join_seconds: int = 300  # within which all processes must have joined at the start


@dataclass
class Evaluate:
    """The evaluation of a checkpoint."""

    batch_size: int = 4096  # queries, of all devices together
    ranking_head: Literal["auto", "ranking", "ctr"] = "auto"  # "auto": ranking where there is such a head
    checkpoint: Literal["best", "last"] = "best"  # evaluated at the end
    next_k: tuple[int, ...] = (1, 3)
    seen: Literal["all", "stored", "kept"] = "all"  # titles left out of rankings of all titles: all that the
    # user played before the query; those of the stored history; none


@dataclass
class Config:
    name: str = "smoe"
    source: Simulator | Tables | KuaiRand | Tfds = field(default_factory=Simulator)
    features: tuple[Feature, ...] = ()
    task: Task = field(default_factory=Task)
    data: Data = field(default_factory=Data)
    sampling: Sampling = field(default_factory=Sampling)
    model: Model = field(default_factory=Model)
    objective: Objective = field(default_factory=Objective)
    next_item: NextItem = field(default_factory=NextItem)  # where the task is "next_item"
    optimizer: Optimizer = field(default_factory=Optimizer)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)

    @property
    def rows(self) -> str:
        """The rows of a dataset that the task trains on: "requests" or "sequences"."""
        return TASKS[self.task.name].rows
