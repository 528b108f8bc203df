"""The typed config tree: every choice a run makes, with the paper's value as its default.

A file under `configs/` returns one `Config` from `get_config()`. Loading, overriding and checking it
are in `jaxrec/config/validation.py` and `jaxrec/cli/app.py`; this file only says what there is.
"""

from dataclasses import dataclass, field


@dataclass
class Feature:
    """A column that is a feature, so that another service's columns need no code."""

    name: str  # the column's name in its table; of an interaction: completion, sessions or age
    kind: str  # "category", "categories" (list-valued) or "number"
    where: str  # "title", "user", "context" or "interaction"
    width: int  # of its embedding
    most: int = 0  # longest list kept of a "categories" column


# ---------------------------------------------------------------- sources, one of which is `Config.source`


@dataclass
class Simulator:
    """The embedded streaming service of `jaxrec/sources/simulator/source.py`.

    A strength of 1 is the default service, 0 takes its premise away: `taste`, `interest` (a genre of the
    week), `mood` (a genre of the sitting) and `appeal` move what is chosen, `satisfaction`, `match` and
    `patience` (its spread over users) what is abandoned.
    """

    seed: int = 0
    users: int = 20_000
    test_only_users: int = 20_000
    titles: int = 1_000
    weeks: int = 12
    plays_per_user: float = 12.0  # titles played, mean; heavy-tailed
    sitting: float = 4.0  # plays a sitting, mean; a mood lasts as long
    slate: int = 100  # places a play is chosen from
    taste: float = 1.0
    interest: float = 1.0
    interest_moves: float = 0.15  # chance a week that the interest moves to another genre
    mood: float = 1.0
    popularity: float = 1.0  # Zipf exponent of exposure; 0: all titles alike
    appeal: float = 1.0
    satisfaction: float = 1.0
    clickbait: float = 1.0  # how far appeal and satisfaction part; 0: they are the same
    match: float = 1.0  # how far one stays with what one is after
    patience: float = 1.0
    interruptions: float = 0.1  # share of plays cut short whatever the title
    replay_watched: float = 0.05  # share of the titles watched that are played again later
    replay_abandoned: float = 0.02  # share of those abandoned


@dataclass
class Columns:
    """Whose column is what in `Tables`. Of several names, as "user|user_id", the first that there is."""

    user: str = "user_id"
    title: str = "title_id"
    time: str = "time"
    time_unit: str = "ms"  # "s", "ms" or "us" for a whole-number column
    seconds: str = "seconds_viewed"  # "": the log has no watch time
    title_key: str = "title_id"  # in the titles table
    runtime: str = "runtime_minutes"  # "": not known
    user_key: str = "user_id"  # in the users table
    list_separator: str = ","  # of list-valued columns in CSV


@dataclass
class Tables:
    """CSV or Parquet: each a file, a folder or a glob."""

    interactions: str = ""  # or the config's data.path
    titles: str = ""  # "": those that the log names, of which nothing else is known
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
class Data:
    """What the prepared dataset is; all of it but `directory` and `workers` enters its fingerprint."""

    directory: str = ""  # where it lies; empty: data/<source>-<digest>
    path: str = ""  # the log, of a Tables source that names none: what varies where columns are all alike
    seed: int = 0  # split, pools and evaluation lists
    examples: str = "requests"  # or "sequences": a user's targets in order, trained on at every place
    rows: str = "one"  # of a user's sequence in training, the latest; or "many", which cover all of it
    history: int = 32  # titles stored a row, a multiple of 4; of sequences, how many a place looks back on
    next_k: int = 3  # next titles stored
    abandon_below: float = 0.05  # completion under which a title is abandoned
    targets: str = "new"  # "new": first plays of titles not abandoned; "any": every play of one
    split: str = "users"  # or "last" (each user's last target is tested) or "time" (by days)
    train_share: float = 0.8  # of users, where they are split
    validation_share: float = 0.1  # with "last", of users whose last target but one is held out too
    validation_from: str = ""  # with "time": the days whose targets are the validation's, up to test_from
    test_from: str = ""
    hard: int = 16  # stored columns of each pool
    trending: int = 32
    tailing: int = 20
    random: int = 8
    negatives: int = 20  # in an evaluation list
    max_dropped: float = 0.05  # share of rows left out (copies aside) past which preparation stops
    earliest: str = "1990-01-01"  # times outside are dropped and counted
    latest: str = "2100-01-01"
    partitions: int = 8  # of users, at least; more where the source is large; changes memory, never bytes
    workers: int = 0  # threads; 0: one a core; changes time, never bytes


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
    """What a training example shows of its stored row."""

    mix: Mix = field(default_factory=Mix)
    negatives: int = 20  # per positive
    history_keeps_abandoned: bool = False
    unknown_rate: float = 0.01  # of history titles, shown as unknown
    window: str = "latest"  # of a sequence's stored row; or "random", another one each epoch
    stochastic_length: float = 0.0  # HSTU's alpha, in (1, 2): long windows are thinned; 0: none is
    next_k: int = 1
    labels: tuple[float, ...] = (1.0, 0.6, 0.3)  # of the next titles; the first next_k are used


# ---------------------------------------------------------------- model and objective
# `unsafe_hash`: Flax modules hold these three, and jax hashes a module that is jitted. None is changed there.


@dataclass(unsafe_hash=True)
class Expert:
    """An encoder of the last `window` titles."""

    window: int = 20
    layers: int = 2
    heads: int = 12  # gru4rec has none
    feedforward: float = 2.0  # times the width; gru4rec and hstu have none
    dropout: float = 0.2
    kind: str = "transformer"  # or "sasrec" (causal, the newest title's output), "gru4rec" (a GRU's state),
    # or "hstu" (causal, gated, with no softmax)


@dataclass(unsafe_hash=True)
class Gate:
    """Eq. 9 and 10."""

    hidden: tuple[int, ...] = (128, 64)
    noise: float = 0.1  # standard deviation, training only, drawn per expert
    start_temperature: float = 2.0
    temperature: float = 1.0  # final
    anneal: float = 0.5  # share of training over which it falls, exponentially
    target_entropy: float | None = 0.52  # nats; None: no such term


@dataclass(unsafe_hash=True)
class Model:
    """The recommender. One expert is BST, equal ones V-MoE, unequal ones S-MoE."""

    width: int = 96
    experts: tuple[Expert, ...] = field(
        default_factory=lambda: (Expert(window=7, feedforward=1.0), Expert(window=20, feedforward=2.0))
    )
    gate: Gate = field(default_factory=Gate)
    dropout: float = 0.2  # "initial dropout", on the experts' input
    matcher: tuple[int, ...] = (128, 64)
    matcher_product: bool = True  # a projection of the user vector times one of the title joins the matcher
    head: str = "matcher"  # or "dot", for one task: user vector times title, as SASRec and GRU4Rec score
    cosine: bool = False  # of sequences: both vectors are brought to length 1 before they meet
    two_tables: bool = False  # of sequences: titles have another vector where they are scored, as in gSASRec
    reads: tuple[str, ...] = ()  # names of the features it reads; empty: all there are
    title_table: str = "replicated"  # or "split": the titles' embeddings and their optimizer's state are
    # dealt to the devices by rows, so that none holds them all
    embedding_spread: float = 0.2  # standard deviation of embeddings at the start
    position: str = "index"  # of a title in the history; or "time_gap", since its last play, or "none"
    target_in_sequence: bool = False  # each candidate joins the history as its newest title, as BST has it:
    # as many times the experts' work as there are candidates, but sasrec and hstu read a history once
    retrieval: int = 0  # width of the vectors of a head that finds titles in the whole catalogue; 0: none
    remat: bool = False  # experts work their forward pass out again in the backward one, to hold less of it
    attention: str = "auto"  # or "einsum", "dot_product" (jax's), "broadcast", "cudnn" or "pallas" (GPU)
    dtype: str = "float32"  # of the compute; "bfloat16" keeps parameters, softmax and losses in float32


@dataclass
class Objective:
    """Eq. 12 to 15. A task of weight 0 has no head; CTR alone is the paper's STL."""

    ctr: float = 1.0
    ranking: float = 1.0
    regression: float = 0.2
    entropy: float = 0.1
    balance: float = 0.0  # of a term that has the experts used evenly, over all users; 0: none
    retrieval: float = 0.0  # of the head of model.retrieval: a softmax over the positive and random titles
    retrieval_negatives: int = 64  # titles of the whole catalogue, drawn for each example and step
    personalised: bool = True  # Eq. 13
    alpha: float = 1.0
    weighting: str = (
        "fixed"  # or these weights to start from: "uncertainty" (learned), "averaging" (by epoch)
    )
    ranking_loss: str = "hinge"  # Eq. 12; or "softmax" over the positive and its negatives
    margin: float = 1.0  # of the hinge
    soft_negative: float = 0.1
    soft_on: str = "hard"  # "hard", "all" or "none"


@dataclass
class NextTitle:
    """The objective of sequences, in place of `Objective`: the next title among all, at every place."""

    loss: str = "softmax"  # over all titles; or over sampled ones: "sampled_softmax", "bce", "gbce"
    negatives: int = 128  # sampled for each place
    drawn: str = "uniform"  # or by "popularity", or "in_batch", from the titles of the batch
    shared: str = "place"  # who has negatives of its own: every place, or every "sequence"
    log_q: bool = False  # sampled_softmax: scores less the log of how often a title is drawn
    calibration: float = 0.75  # t of gbce: 0 is bce, 1 the probabilities that a softmax has
    temperature: float = 1.0  # scores are divided by it
    budget: int = 256  # MiB of logits at a time
    personalised: bool = False  # Eq. 13, where the source has watch times
    alpha: float = 1.0


@dataclass
class Optimizer:
    """Adam, weight decay, ReduceLROnPlateau."""

    learning_rate: float = 1e-3
    b2: float = 0.999  # Adam's decay of squared gradients
    warmup: int = 0  # steps over which the rate rises to that, linearly
    weight_decay: float = 0.01
    decay: str = "decoupled"  # or "coupled", as PyTorch's Adam does
    decay_spares: str = "nothing"  # or "biases_and_norms"
    lazy: bool = False  # embedding rows without a gradient keep moments and value, and do not decay
    average: float = 0.0  # decay of a moving average of the parameters, which is judged; 0: none
    plateau_factor: float = 0.5
    plateau_patience: int = 2  # evaluations, in PyTorch's meaning


# ---------------------------------------------------------------- the run


@dataclass
class Train:
    seed: int = 0  # initialisation, order, dropout, gate noise
    length: str = "20 epochs"  # or "5000 steps"
    batch_size: int = 8192  # of all devices together
    microbatch: int = 0  # examples a device works through at a time; 0: 256 on a CPU, else all it has.
    # Their gradients are accumulated to one update, which is the same whatever their number
    dispatch: int = 0  # steps of one dispatch, whose batches a device holds together; 0: 8 on a GPU, else 1
    log_seconds: float = 5.0  # between lines of metrics.jsonl
    checkpoint_every_seconds: float = 600.0  # between checkpoints, besides one after each validation
    prefetch: int = 2  # dispatches ahead
    preempted_exit: int = 0  # exit status after SIGTERM; 75 in launch/, so that a cluster starts it again
    grace_seconds: float = 25.0  # from SIGTERM on, to save and leave; what is not saved by then is lost
    heartbeat_seconds: int = 30  # of several processes, after which a silent one is lost and all end
    join_seconds: int = 300  # in which all processes must have come together at the start


@dataclass
class Evaluate:
    batch_size: int = 4096
    score: str = "auto"  # "ranking", "ctr", or "auto": ranking where there is one
    which: str = "best"  # checkpoint judged at the end: "best" or "last"
    next_k: tuple[int, ...] = (1, 3)


@dataclass
class Config:
    name: str = "smoe"
    source: Simulator | Tables | KuaiRand | Tfds = field(default_factory=Simulator)
    features: tuple[Feature, ...] = ()
    data: Data = field(default_factory=Data)
    sampling: Sampling = field(default_factory=Sampling)
    model: Model = field(default_factory=Model)
    objective: Objective = field(default_factory=Objective)
    next_title: NextTitle = field(default_factory=NextTitle)  # where data.examples is "sequences"
    optimizer: Optimizer = field(default_factory=Optimizer)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
