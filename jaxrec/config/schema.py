"""The typed config tree: every choice a run makes, with the paper's value as its default.

A file under `configs/` returns one `Config` from `get_config()`. Loading, overriding and checking it
are in the other modules of this package.
"""

from dataclasses import dataclass, field
from typing import Literal

from jaxrec.config.declarations import Blend, BlendTerm, Codes, Head, Label, Post, Reward, Signal, Start, Term
from jaxrec.config.sources import AnySource, Columns, FileFormat, KuaiRand, Simulator, Source, Tables, Tfds
from jaxrec.core.registry import TASKS

# Exported by `jaxrec.config`.
__all__ = [
    "LIST_MIXES", "TRAIN_MIXES", "Blend", "BlendTerm", "Codes", "Columns", "Config", "Data", "Evaluate",
    "Expert", "Feature", "FileFormat", "Gate", "Head", "KuaiRand", "Label", "Mix", "Model", "NextItem",
    "Objective", "Optimizer", "Post", "Reward", "Sampling", "Signal", "Simulator", "Source", "Start",
    "Tables", "Task", "Term", "Tfds", "Train",
]  # fmt: skip


@dataclass
class Feature:
    """Column of a table that the model reads as a feature."""

    name: str  # column of its table; an interaction: completion, sessions, age or a signal; a label: its name
    kind: str  # "category", "categories" (list-valued), "number", "text" of titles and contexts, read as
    # hashed character n-grams, "codes" of titles: the prefixes of a title's code, of `codes.path`, or "title"
    # of contexts, the key of a title, read as that title's vector
    where: str  # "title", "user", "context", "interaction" or "label", a stored label of the target
    width: int  # width of the embedding
    most: int = 0  # maximum number of values that are read from a list, for "categories"
    available: Literal["request", "after"] = "request"  # "after": an outcome, which offline models alone read
    impute: str = "null"  # what stands for a missing context: "null", "most_frequent" (of a category), or
    # "name_of:<feature>" (of a text): the name of the title in that feature of kind "title"


# ---------------------------------------------------------------- preparation


@dataclass
class Task:
    """The training task, which decides the rows of the dataset."""

    name: str = "ranking"  # key of `registry.TASKS`: "ranking" (the paper), "next_item" (whole sequences),
    # "preference" (sequences whose positions have rewards) or "generative" (titles of sequences as codes)


@dataclass
class Data:
    """Settings of the prepared dataset.

    All fields but `directory`, `workers`, `partitions` and `verify` enter its digest. Dates are ISO dates,
    midnight UTC. Thresholds and shares are fractions, in [0, 1].
    """

    directory: str = ""  # folder of the prepared dataset; "": data/<source>-<digest>
    path: str = ""  # the log of a Tables source with an empty `interactions`
    seed: int = 0  # seed of the split, the pools and the evaluation lists
    max_history: int = 32  # titles stored per row, a multiple of 4; for sequences, per position
    num_targets: int = 3  # number of stored next titles
    abandon_threshold: float = 0.05  # a title with a lower completion is abandoned
    targets: Literal["new", "any", "every"] = "new"  # "new": first plays of titles that are not
    # abandoned; "any": all plays of such titles; "every": first plays of all titles, abandoned or not
    examples: Literal["requests", "impressions"] = "requests"  # rows of the ranking task. "impressions": a
    # row for each event of the signal "impression", with the title that was shown, and without negatives
    split: Literal["users", "last", "time"] = "users"  # "last": the last target of each user is the test
    train_share: float = 0.8  # fraction of users for training, with split="users"
    validation_share: float = 0.1  # fraction of users for validation; with "last", fraction of users whose
    # target before the last is held out too
    validation_from: str = ""  # with "time": first day of the validation targets, until `test_from`
    test_from: str = ""  # with "time": first day of the test targets
    fold: str = ""  # with split="users": "2/5" tests the users of the second of five equal ranges of the
    # user hash; the two shares divide the other users. "": a range by the shares
    hard: int = 16  # stored hard negatives per row
    trending: int = 32  # stored trending negatives per row
    tailing: int = 20  # stored tailing negatives per row
    random: int = 8  # stored random negatives per row
    served: int = 0  # stored titles that were shown and not chosen, of each request, or of each play of a
    # policy's rows: events of the signal "impression"; 0: none, and no served list
    matching: int = 0  # stored titles per row whose names match the text of the request, the best first;
    # 0: none
    request_window_seconds: int = 0  # longest time from an impression to the play that it led to; 0: the same
    # time
    session: int = 0  # stored events of the request's session, plays and signals before the request, a
    # multiple of 4; histories then end where the session begins. 0: none, and histories end at the request
    session_gap_minutes: float = (
        30.0  # longest time without an event within a session, from the end of a play
    )
    tokens: tuple[str, ...] = ("play",)  # kinds of events in sequences: "play", and names of signals. With
    # "play" alone a sequence has the plays that are targets, else all plays and events of these kinds
    merge_minutes: float = 10.0  # longest time between two events of one title in a token
    negatives: int = 20  # negatives of an evaluation list
    max_invalid_fraction: float = 0.05  # maximum fraction of invalid rows, without copies; above it
    # preparation stops
    earliest: str = "1990-01-01"  # events before this day are dropped and counted
    latest: str = "2100-01-01"  # events from this day on are dropped and counted
    partitions: int = 8  # minimum number of partitions of users; affects memory, not the dataset
    truth_queries: int = 4096  # test queries whose choice probabilities and rewards are stored, for a
    # simulated source with signals or targets="every"; 0: none
    validation_truth_queries: int = 0  # the same of validation queries, by which settings can be chosen
    workers: int = 0  # threads; 0: one per core; affects time, not the dataset
    since: str = (
        ""  # first day of the targets; histories still reach back over all earlier plays. "": all days
    )
    until: str = ""  # the day before which the log ends: later plays and signals count for nothing; "": none
    replay: float = 0.0  # share of the training targets before `since` that are kept, by hash
    only: str = ""  # "country=BR": rows of the users, or of the requests, of one category; "": all rows
    continues: str = ""  # an earlier dataset, whose title ids, categories, means and deviations stay; new
    # titles and categories get the next ids. "": ids by popularity
    capacity: int = 1  # number of title ids, rounded up to a multiple; ids without a title are no candidates
    verify: bool = True  # after preparation read a sample of the rows back and check it; compare arrays with
    # their checksums when they are read


@dataclass
class Mix:
    """Shares of the pools of negatives (Table 2, and served titles), each in [0, 1].

    The shares add to 1 and give whole counts of negatives. A request without a slate has no served negatives;
    with `served` 1 such requests are left out of training.
    """

    hard: float = 0.3
    trending: float = 0.4
    tailing: float = 0.3
    random: float = 0.0
    served: float = 0.0


TRAIN_MIXES = {
    "hard": Mix(0.5, 0.3, 0.2, 0.0),
    "medium": Mix(0.3, 0.4, 0.3, 0.0),
    "easy": Mix(0.2, 0.3, 0.5, 0.0),
    "none": Mix(0.0, 0.5, 0.3, 0.2),
}
LIST_MIXES = {"enabled": Mix(0.3, 0.3, 0.2, 0.2), "disabled": Mix(0.0, 0.5, 0.3, 0.2)}


@dataclass
class Sampling:
    """Selection of the part of a stored row that a training example shows."""

    mix: Mix = field(default_factory=Mix)
    negatives: int = 20  # negatives per example
    history_keeps_abandoned: bool = False  # True: histories contain titles that the user abandoned
    id_dropout: float = 0.01  # fraction of history titles that are replaced by the unknown title
    matching: int = 0  # negatives per example that match the text of the request, where it has some, in place
    # of as many from the pools
    context_dropout: float = 0.0  # probability that training hides a feature of the context, each by itself
    window: Literal["latest", "random", "mixed"] = "latest"  # window of a sequence; "random": a new one each
    # epoch; "mixed": the latest or a new one
    latest_share: float = 0.5  # of "mixed": probability that an epoch shows the latest window of a row
    stochastic_length: float = 0.0  # alpha of HSTU, in (1, 2), which shortens long windows; 0: off
    session_events: tuple[str, ...] = ()  # events of the session that the model reads: "play" and names of
    # signals; empty: all
    next_k: int = 1  # number of next titles that are positives
    target_weights: tuple[float, ...] = (1.0, 0.6, 0.3)  # weights of the next titles; `next_k` are used
    strata: str = (
        ""  # a feature of kind "category" of the user, by whose values examples are weighed; "": all
    )
    # examples weigh alike
    strata_power: float = (
        1.0  # a stratum of n training rows weighs as n to this power: 1, as its rows do; 0, as
    )
    # any other stratum. The mean weight of the training rows is 1


# ---------------------------------------------------------------- model and objective
# `unsafe_hash`: Flax modules hold these three, and jax hashes a module that is jitted. None is changed there.


@dataclass(unsafe_hash=True)
class Expert:
    """An encoder of the last `max_len` titles; `dropout` is a rate in [0, 1)."""

    max_len: int = 20  # maximum number of titles
    num_layers: int = 2  # number of layers
    num_heads: int = 12  # number of attention heads; not used by gru4rec
    mlp_ratio: float = 2.0  # feed-forward width divided by `model.width`; not used by gru4rec and hstu
    dropout: float = 0.2  # dropout rate in the layers
    encoder: str = "transformer"  # key of `registry.ENCODERS`: "transformer", "sasrec" (causal, output of the
    # newest title), "gru4rec" (state of a GRU), "hstu" (causal, gated, without softmax), "ligr" (causal,
    # gated residuals, SwiGLU) or "fuxi" (causal, channels of content, position and time). "session" reads
    # the last `max_len` events of the session and the outputs of the other experts, "session_counts" the
    # categories of the session's titles


@dataclass(unsafe_hash=True)
class Gate:
    """Gate of the experts: temperature and noise (Eq. 9), and target entropy (Eq. 10)."""

    hidden: tuple[int, ...] = (128, 64)  # hidden widths
    noise_std: float = 0.1  # standard deviation of the noise per expert, in training only
    start_temperature: float = 2.0  # temperature at the first step
    temperature: float = 1.0  # final temperature
    anneal_fraction: float = 0.5  # fraction of training with a changing temperature, which is exponential
    target_entropy: float | None = 0.52  # nats; None: no entropy term


@dataclass(unsafe_hash=True)
class Model:
    """The recommender: one expert is BST, equal experts V-MoE, unequal experts S-MoE."""

    width: int = 96  # width of the model
    experts: tuple[Expert, ...] = field(
        default_factory=lambda: (Expert(max_len=7, mlp_ratio=1.0), Expert(max_len=20, mlp_ratio=2.0))
    )
    gate: Gate = field(default_factory=Gate)
    dropout: float = 0.2  # rate of the "initial dropout", on the input of the experts
    head_hidden: tuple[int, ...] = (128, 64)  # hidden widths of the tasks' MLP heads
    matcher_product: bool = True  # the heads also read the product of user and title projections
    cross: int = 0  # cross layers (DCN-v2) on user, title and product, whose output the heads also read
    cross_rank: int = 0  # rank of the matrices of cross layers; 0: full
    trunk: Literal["shared", "mmoe", "ple"] = "shared"  # "shared": each head reads user and title by itself;
    # else the heads mix experts by gates: of all heads ("mmoe"), or shared and their own ("ple")
    trunk_experts: int = 4  # shared experts of a trunk; "ple" has one more for each head
    trunk_width: int = 64  # width of an expert of a trunk
    trunk_levels: int = 1  # levels of "ple", 1 or 2
    intent_of: str = "genres"  # title feature with categories that the intent predicts and that an expert
    # with encoder="session_counts" counts
    head: Literal["matcher", "dot"] = "matcher"  # "dot", for one task: user vector times title vector
    output_maps: bool = False  # with a dot head: two square matrices, first the identity, map the vectors of
    # users and of titles; `python -m jaxrec.stabilise` sets them
    cosine: bool = False  # for sequences: the score is the cosine of the vectors
    untied_item_embeddings: bool = False  # for sequences: separate vectors of scored titles, as in gSASRec
    scaled_inputs: bool = True  # for sequences: as inputs, vectors of titles are multiplied by sqrt(width)
    features: tuple[str, ...] = ()  # names of the features that the model reads; empty: all
    reads_history: bool = True  # False: a ranking model treats all users as users without a play
    item_table_sharding: Literal["replicated", "split"] = "replicated"  # "split": rows of the titles'
    # embeddings, and of their optimizer state, are sharded over the devices
    embedding_init_std: float = 0.2  # standard deviation of initial embeddings
    entity: Literal["concat", "mixed"] = "concat"  # vector of a title: "concat" of its features' vectors;
    # "mixed": embedding of the id and projected metadata, weighed by the title's age and plays
    launch_day: str = ""  # title feature, in days since 1970, that "mixed" reads ages from; "": plays alone
    cold_masking: float = 0.0  # probability that a step replaces the id of a much-played title by the unknown
    cold_masking_new: float = 0.0  # the same of a title without plays; 0: no cold masking
    position: Literal["index", "time_gap", "none"] = "index"  # "time_gap": time since the last play
    target_in_sequence: bool = False  # each candidate is appended to the history as the newest title, as in
    # BST: transformer and gru4rec then encode each candidate; sasrec and hstu encode a history once
    retrieval_dim: int = 0  # width of the vectors of the retrieval head; 0: no retrieval head
    attention_span: int = 0  # for sequences: positions of a chunk of block-local attention, which divide
    # `max_len`; 0: all positions attend to all earlier positions
    project: int = 0  # for sequences: width of the projections of outputs and of titles whose product is the
    # score; 0: the outputs and the titles themselves
    remat: bool = False  # experts recompute their forward pass in the backward pass, to save memory
    attention_impl: Literal["auto", "einsum", "dot_product", "pallas"] = "auto"
    # implementation of attention; "auto" selects the fastest allowed implementation
    dtype: Literal["float32", "bfloat16"] = "float32"  # compute dtype; parameters, softmax and losses are
    # float32


@dataclass
class Objective:
    """Objective of the task "ranking" (Eq. 12 to 15): weights and settings of terms.

    A task of weight 0 has no head; CTR alone is the paper's STL. `alpha` is that of Eq. 13.
    """

    ctr: float = 1.0  # weight of the click term (Eq. 14)
    ranking: float = 1.0  # weight of the ranking term (Eq. 12)
    regression: float = 0.2  # weight of the completion term
    entropy: float = 0.1  # weight of the entropy term (Eq. 10)
    balance: float = 0.0  # weight of the load-balancing term over all users; 0: no such term
    retrieval: float = 0.0  # weight of the retrieval head's softmax over the positive and random titles
    retrieval_negatives: int = 64  # titles drawn from the whole catalogue for each example and step
    personalised: bool = True  # True: the personalised loss (Eq. 13)
    alpha: float = 1.0  # alpha of Eq. 13
    weighting: Literal["fixed", "uncertainty", "averaging"] = "fixed"  # "uncertainty": learned weights;
    # "averaging": dynamic weight average by epoch
    ranking_loss: str = "hinge"  # key of `registry.RANKING_LOSSES`: "hinge" (Eq. 12) or "softmax"
    margin: float = 1.0  # margin of the hinge loss
    soft_negative: float = 0.1  # click label of the negatives that `soft_on` selects
    soft_on: Literal["hard", "all", "none"] = "hard"  # negatives with the label `soft_negative`
    intent: float = (
        0.0  # weight of the term of the intent, the next title's first value of `model.intent_of`,
    )
    # of which the predicted probabilities are a part of the user's vector (IntentRec); 0: no such head
    distil: float = 0.0  # weight of the KL divergence of the scores of an example's candidates from those of
    # the run of `start.workdir`
    heads: tuple[Head, ...] = ()  # heads on labels and rewards, beside those of the paper


@dataclass
class NextItem:
    """Objective of the task "next_item": the next title at every position.

    It replaces `Objective`. `alpha` is that of Eq. 13.
    """

    loss: str = "softmax"  # key of `registry.NEXT_ITEM_LOSSES`: over all titles, or over sampled titles
    negatives: int = 128  # sampled titles for each position
    negative_distribution: str = "uniform"  # key of `registry.NEGATIVE_SAMPLERS`
    negatives_shared_by: Literal["position", "sequence"] = (
        "position"  # a position, or all positions of a sequence
    )
    logq_correction: bool = False  # sampled_softmax: subtract the log of the sampling frequency from scores
    calibration: float = 0.75  # t of gbce: 0 is bce, 1 gives the probabilities of a softmax
    temperature: float = 1.0  # divisor of the scores
    logits_budget_mib: int = 256  # memory of the logits of a chunk, in MiB
    horizon_hours: float = 0.0  # the plays of so many hours after the next play are targets too; 0: none
    half_life_hours: float = 24.0  # hours in which the weight of a later target falls by half
    most: int = 8  # maximum number of plays among which the targets of a position are
    weight: float = 1.0  # weight of the next titles beside the terms of heads; 0: heads alone are trained
    personalised: bool = False  # True: weights of Eq. 13; the source must have watch times
    alpha: float = 1.0  # alpha of Eq. 13


@dataclass
class Optimizer:
    """Adam, weight decay, and PyTorch's ReduceLROnPlateau on the validation loss."""

    learning_rate: float = 1e-3  # initial learning rate, after the warm-up
    beta2: float = 0.999  # Adam's decay of squared gradients
    warmup_steps: int = 0  # number of steps with a linearly increasing rate
    weight_decay: float = 0.01  # coefficient of the weight decay
    weight_decay_mode: Literal["decoupled", "coupled"] = "decoupled"  # "coupled": as in PyTorch's Adam
    ema_decay: float = 0.0  # decay of the moving average of the parameters for evaluation; 0: no average
    plateau_factor: float = 0.5  # factor of the learning rate after a plateau, in (0, 1]; 1: no schedule
    plateau_patience: int = 2  # number of evaluations without improvement, as in PyTorch


# ---------------------------------------------------------------- the run


@dataclass
class Train:
    """Settings of a training run: seed, duration, batches, checkpoints, preemption."""

    seed: int = 0  # seed of initialisation, order, dropout and gate noise
    duration: str = "20 epochs"  # number of epochs or steps, such as "5000 steps"
    patience: int = 0  # epochs after the last best validation at which the training ends; 0: no such end
    batch_size: int = 8192  # examples per step on all devices together
    microbatch_size: int = 0  # maximum examples of a microbatch on a device; 0: chosen by the task on a CPU,
    # else the whole per-device batch. The gradients of all microbatches give one update
    steps_per_call: int = 0  # steps of one compiled call, whose batches are on the device; 0: 8 on a GPU,
    # else 1
    on_nonfinite: Literal["stop", "skip"] = "stop"  # a step whose loss or gradient is not finite stops the
    # run, or is left out
    log_seconds: float = 5.0  # seconds between lines of metrics.jsonl
    checkpoint_every_seconds: float = 600.0  # seconds between checkpoints; each validation saves one too
    prefetch: int = 2  # number of calls whose batches are read ahead
    resident: Literal["auto", "always", "never"] = "auto"  # training rows in the memory of the devices, so
    # that a batch is transferred as row indices; "auto": on accelerators where they take at most a quarter
    preemption_exit_code: int = 0  # exit status after SIGTERM; 75 in launch/, to restart the run
    grace_seconds: float = 25.0  # seconds to save and exit after SIGTERM; later steps are lost
    heartbeat_seconds: int = 30  # seconds without a sign of a process after which all processes end
    join_seconds: int = 300  # seconds within which all processes must join at the start


@dataclass
class Evaluate:
    """Settings of the evaluation of a checkpoint."""

    batch_size: int = 4096  # queries per step on all devices together
    ranking_head: str = "auto"  # the head or blend that orders titles; "auto": ranking, else ctr, else the
    # first declared head on pairs
    blends: tuple[Blend, ...] = ()  # orders by several heads
    checkpoint: Literal["best", "last"] = "best"  # the checkpoint that is evaluated
    next_k: tuple[int, ...] = (1, 3)  # evaluated numbers of next titles
    seen: Literal["all", "stored", "kept"] = "all"  # titles left out of rankings of all titles: all that the
    # user played before the query; those of the stored history; none
    delay_hours: tuple[float, ...] = ()  # of sequences: delays in hours from the computation of scores to the
    # request, with which every evaluation also ranks all titles; (): none
    report: bool = True  # training and evaluations write report.html
    report_users: int = 10  # users whose histories and recommendations are in report.html; 0: none


@dataclass
class Config:
    """All settings of a run: dataset, model, objective, training and evaluation."""

    name: str = "smoe"
    source: AnySource = field(default_factory=Simulator)
    features: tuple[Feature, ...] = ()
    signals: tuple[Signal, ...] = ()  # kinds of events beside plays
    labels: tuple[Label, ...] = ()  # outcomes of targets, which rows store
    rewards: tuple[Reward, ...] = ()  # functions of the labels
    offline: bool = False  # True: features of "after" are allowed, and the model must not rank titles
    task: Task = field(default_factory=Task)
    data: Data = field(default_factory=Data)
    sampling: Sampling = field(default_factory=Sampling)
    model: Model = field(default_factory=Model)
    objective: Objective = field(default_factory=Objective)
    next_item: NextItem = field(default_factory=NextItem)  # for the tasks on sequences
    post: Post = field(default_factory=Post)  # for the task "preference"
    codes: Codes = field(default_factory=Codes)  # for the task "generative" and features of kind "codes"
    optimizer: Optimizer = field(default_factory=Optimizer)
    start: Start = field(default_factory=Start)  # the run whose parameters this one starts from
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)

    @property
    def rows(self) -> str:
        """Kind of dataset rows that the task trains on: "ranking" or "next_item"."""
        return TASKS[self.task.name].rows

    @property
    def stored_features(self) -> tuple[Feature, ...]:
        """Features that a dataset stores: neither labels of the target nor codes."""
        return tuple(f for f in self.features if f.where != "label" and f.kind != "codes")

    @property
    def observed_labels(self) -> tuple[Feature, ...]:
        """Features that are labels of the target; no dataset stores them a second time."""
        return tuple(feature for feature in self.features if feature.where == "label")
