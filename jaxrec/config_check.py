"""The rules of a config: every value fits its annotation, and the fields fit one another.

Nothing reads a config before `check` has passed it.
"""

import math
import re
from collections.abc import Callable
from datetime import date
from typing import Any

from jaxrec.config import LIST_MIXES, Config, KuaiRand, Mix, Tables, Tfds
from jaxrec.config_tree import among, require, walk
from jaxrec.errors import InputError
from jaxrec.schema import INTERACTION_FEATURES, POOLS

UNITS = ("epochs", "steps")

# What each name may be; the modules that hold the functions are held to these by tests of their own.
NAMES: dict[str, tuple[str, ...]] = {
    "data.examples": ("requests", "sequences"),
    "data.rows": ("one", "many"),
    "data.split": ("users", "last", "time"),
    "data.targets": ("new", "any"),
    "model.attention": ("auto", "einsum", "dot_product", "cudnn", "broadcast"),
    "model.dtype": ("float32", "bfloat16"),
    "model.head": ("matcher", "dot"),
    "model.position": ("index", "time_gap", "none"),
    "next_title.drawn": ("uniform", "popularity", "in_batch"),
    "next_title.loss": ("softmax", "sampled_softmax", "bce", "gbce"),
    "next_title.shared": ("place", "sequence"),
    "objective.weighting": ("fixed", "uncertainty", "averaging"),
    "objective.ranking_loss": ("hinge", "softmax"),
    "objective.soft_on": ("hard", "all", "none"),
    "optimizer.decay": ("decoupled", "coupled"),
    "optimizer.decay_spares": ("nothing", "biases_and_norms"),
    "sampling.window": ("latest", "random"),
    "evaluate.score": ("auto", "ranking", "ctr"),
    "evaluate.which": ("best", "last"),
}
EXPERT_KINDS = ("transformer", "sasrec", "gru4rec", "hstu")
FEATURE_KINDS = ("category", "categories", "number")
FEATURE_PLACES = ("title", "user", "context", "interaction")
TIME_UNITS = ("s", "ms", "us")


# ---------------------------------------------------------------- helpers of the rules


def _at_least(config: Any, low: float, *keys: str) -> None:
    for key in keys:
        value = at(config, key)
        require(value >= low, key, value, f"be at least {low}")


def _positive(config: Any, *keys: str) -> None:
    for key in keys:
        require(at(config, key) > 0, key, at(config, key), "be above 0")


def _rate(config: Any, *keys: str) -> None:
    for key in keys:
        require(0 <= at(config, key) <= 1, key, at(config, key), "be in [0, 1]")


def at(config: Any, key: str) -> Any:
    """The value at a dotted key."""
    for part in key.split("."):
        config = getattr(config, part)
    return config


def mix_counts(mix: Mix, negatives: int, key: str = "sampling.mix") -> tuple[int, int, int, int]:
    """How many of `negatives` each of POOLS gives (Table 2). Raises InputError unless the shares add
    to 1 and every count is whole; `key` names the mix in the message."""
    shares = {pool: getattr(mix, pool) for pool in POOLS}
    for pool, share in shares.items():
        require(0 <= share <= 1, f"{key}.{pool}", share, "be in [0, 1]")
    total = math.fsum(shares.values())
    require(abs(total - 1) < 1e-9, key, tuple(shares.values()), f"add to 1, not {total:g}")
    for pool, share in shares.items():
        allowed = f"give a whole count of {negatives} negatives, not {share * negatives:g}"
        require(_whole(share * negatives), f"{key}.{pool}", share, allowed)
    hard, trending, tailing, random = (round(share * negatives) for share in shares.values())
    return hard, trending, tailing, random


def _whole(count: float) -> bool:
    return abs(count - round(count)) < 1e-6


def parse_length(text: str) -> tuple[int, str]:
    """("20 epochs") -> (20, "epochs"); the unit is one of UNITS, the number at least 1.

    Raises InputError on anything else.
    """
    found = re.fullmatch(r"([0-9]+) (epoch|step)s?", text)
    if not found or int(found[1]) < 1:
        raise InputError(f"train.length={text!r} must be a whole number of epochs or steps, as '20 epochs'")
    return int(found[1]), found[2] + "s"


# ---------------------------------------------------------------- rules between fields


def _check_source(config: Config) -> None:
    """What needs no look at the source; the ranges of a simulator's knobs are the simulator's own check."""
    source = config.source
    needed = {Tables: ("interactions", "titles"), KuaiRand: ("directory", "logs"), Tfds: ("name", "split")}
    for name in needed.get(type(source), ()):
        require(
            bool(getattr(source, name)), f"source.{name}", getattr(source, name), "say where the rows are"
        )
    if isinstance(source, Tables):
        among("source.columns.time_unit", source.columns.time_unit, TIME_UNITS)
        for name, value in vars(source.columns).items():
            require(bool(value), f"source.columns.{name}", value, "not be empty")
    if isinstance(source, Tfds):
        _check_without_watch_time(config)


def _check_without_watch_time(config: Config) -> None:
    """Such a source trains STL with non-personalised negatives; the rest is refused, not guessed."""
    why = "a Tfds source holds ratings, which do not say how much of a title was seen"
    for key, allowed in (
        ("sampling.mix.hard", "0, for nobody is known to have abandoned one"),
        ("objective.personalised", "False, for Eq. 13 weighs by completion"),
        ("objective.regression", "0, for it predicts completion"),
    ):
        require(not at(config, key), key, at(config, key), f"be {allowed}: {why}")
    for i, feature in enumerate(config.features):
        known = (feature.where, feature.name) != ("interaction", "completion")
        require(known, f"features[{i}].name", feature.name, f"be sessions or age: {why}")


def _check_features(config: Config) -> None:
    seen: set[str] = set()
    for i, feature in enumerate(config.features):
        key = f"features[{i}]"
        require(bool(feature.name), f"{key}.name", feature.name, "not be empty")
        require(feature.name not in seen, f"{key}.name", feature.name, "be unlike the features before it")
        seen.add(feature.name)
        among(f"{key}.kind", feature.kind, FEATURE_KINDS)
        among(f"{key}.where", feature.where, FEATURE_PLACES)
        require(feature.width >= 1, f"{key}.width", feature.width, "be at least 1")
        if feature.where == "interaction":
            among(f"{key}.name", feature.name, INTERACTION_FEATURES)
            require(
                feature.kind == "number", f"{key}.kind", feature.kind, "be number, as of every interaction"
            )
        if feature.kind == "categories":
            require(
                feature.where == "title", f"{key}.where", feature.where, "be title: only titles have lists"
            )
            require(feature.most >= 1, f"{key}.most", feature.most, "be at least 1: the longest list kept")
        else:
            require(feature.most == 0, f"{key}.most", feature.most, "be 0 unless kind is categories")
    titles = [f for f in config.features if f.where == "title"]
    require(bool(titles), "features", tuple(sorted(seen)), "hold at least one of where='title'")


def _check_data(config: Config) -> None:
    data = config.data
    require(0 <= data.seed < 2**32, "data.seed", data.seed, "be in [0, 2**32)")
    _at_least(config, 1, "data.next_k", "data.negatives", "data.partitions")
    _at_least(config, 0, "data.workers", *(f"data.{pool}" for pool in POOLS))
    _rate(config, "data.abandon_below", "data.max_dropped")
    for name in ("history", "hard"):  # rows are read as words of four bytes
        value = getattr(data, name)
        require(value >= 4 and value % 4 == 0, f"data.{name}", value, "be a multiple of 4, at least 4")
    _positive(config, "data.train_share", "data.validation_share")
    both = data.train_share + data.validation_share
    held = f"leave a share of users for the test with train_share={data.train_share:g} (they add to {both:g})"
    require(both < 1 - 1e-9, "data.validation_share", data.validation_share, held)
    days = {}
    for name in ("earliest", "latest"):
        try:
            days[name] = date.fromisoformat(getattr(data, name))
        except ValueError:
            raise InputError(f"data.{name}={getattr(data, name)!r} must be a date, as '2024-01-31'") from None
    require(
        days["earliest"] < days["latest"], "data.earliest", data.earliest, f"be before latest={data.latest!r}"
    )
    for name, mix in LIST_MIXES.items():
        for pool in POOLS:
            allowed = (
                f"give the {name} list a whole count of {pool} negatives, {getattr(mix, pool):g} of them"
            )
            require(_whole(getattr(mix, pool) * data.negatives), "data.negatives", data.negatives, allowed)


def _check_sampling(config: Config) -> None:
    sampling = config.sampling
    _at_least(config, 1, "sampling.negatives", "sampling.next_k")
    _rate(config, "sampling.unknown_rate")
    for pool, count in zip(POOLS, mix_counts(sampling.mix, sampling.negatives), strict=True):
        stored = getattr(config.data, pool)
        require(stored >= count, f"data.{pool}", stored, f"be at least {count}, which sampling.mix takes")
    most = min(config.data.next_k, len(sampling.labels))
    allowed = f"be at most {most}: data.next_k={config.data.next_k}, {len(sampling.labels)} sampling.labels"
    require(sampling.next_k <= most, "sampling.next_k", sampling.next_k, allowed)
    for i, label in enumerate(sampling.labels):
        require(0 < label <= 1, f"sampling.labels[{i}]", label, "be in (0, 1]")


def _check_model(config: Config) -> None:
    model, gate = config.model, config.model.gate
    _at_least(config, 1, "model.width")
    _positive(config, "model.embedding_spread")
    require(bool(model.experts), "model.experts", model.experts, "hold at least one Expert")
    for i, expert in enumerate(model.experts):
        key = f"model.experts[{i}]"
        among(f"{key}.kind", expert.kind, EXPERT_KINDS)
        for name in ("window", "layers", "heads"):
            require(getattr(expert, name) >= 1, f"{key}.{name}", getattr(expert, name), "be at least 1")
        history = config.data.history
        require(
            expert.window <= history, f"{key}.window", expert.window, f"be at most data.history={history}"
        )
        require(
            model.width % expert.heads == 0, "model.width", model.width, f"divide by heads={expert.heads}"
        )
        require(
            expert.feedforward * model.width >= 1, f"{key}.feedforward", expert.feedforward, "give a width"
        )
        require(0 <= expert.dropout < 1, f"{key}.dropout", expert.dropout, "be in [0, 1)")
    require(0 <= model.dropout < 1, "model.dropout", model.dropout, "be in [0, 1)")
    for key, sizes in (("model.matcher", model.matcher), ("model.gate.hidden", gate.hidden)):
        for i, size in enumerate(sizes):
            require(size >= 1, f"{key}[{i}]", size, "be at least 1")
    _at_least(config, 0, "model.gate.noise")
    _positive(config, "model.gate.start_temperature", "model.gate.temperature")
    _rate(config, "model.gate.anneal")
    if gate.target_entropy is not None and len(model.experts) > 1:
        ceiling, value = math.log(len(model.experts)), gate.target_entropy
        allowed = (
            f"be in [0, {ceiling:.3f}), below the entropy of {len(model.experts)} equal experts, or None"
        )
        require(0 <= value < ceiling, "model.gate.target_entropy", value, allowed)
    _check_reads(config)


def _check_reads(config: Config) -> None:
    reads, where = config.model.reads, {f.name: f.where for f in config.features}
    for i, name in enumerate(reads):
        among(f"model.reads[{i}]", name, where)
    allowed = "be empty, for all, or hold at least one feature of where='title'"
    require(not reads or "title" in {where[name] for name in reads}, "model.reads", reads, allowed)


def _check_retrieval(config: Config) -> None:
    width, weight = config.model.retrieval, config.objective.retrieval
    _at_least(config, 0, "model.retrieval")
    _at_least(config, 1, "objective.retrieval_negatives")
    allowed = "be 0 with model.retrieval=0: there is no such head"
    require(bool(width) or not weight, "objective.retrieval", weight, allowed)
    allowed = "be above 0, or model.retrieval 0: a head that is not trained finds nothing"
    require(bool(weight) or not width, "objective.retrieval", weight, allowed)
    allowed = "be 0 with model.target_in_sequence=True: a user has a vector for each candidate"
    require(not (width and config.model.target_in_sequence), "model.retrieval", width, allowed)
    allowed = "be 0 with data.examples='sequences': every score is a dot product there"
    require(not (width and config.data.examples == "sequences"), "model.retrieval", width, allowed)


def _check_objective(config: Config) -> None:
    objective, score = config.objective, config.evaluate.score
    weights = ("ctr", "ranking", "regression", "entropy", "balance", "retrieval", "alpha")
    _at_least(config, 0, *(f"objective.{name}" for name in weights))
    _check_retrieval(config)
    _positive(config, "objective.margin")
    _rate(config, "objective.soft_negative")
    require(
        objective.ctr > 0 or objective.ranking > 0,
        "objective.ctr", objective.ctr, "be above 0 where ranking is 0: something must order the titles",
    )  # fmt: skip
    if config.model.head == "dot":
        one = not objective.regression and (objective.ctr > 0) != (objective.ranking > 0)
        allowed = "be matcher unless ctr or ranking is the only task: a dot product is one score"
        require(one, "model.head", "dot", allowed)
    if score != "auto":
        weight = getattr(objective, score)
        require(weight > 0, "evaluate.score", score, f"be auto, or a head with a weight: objective.{score}=0")


def _check_run(config: Config) -> None:
    optimizer, train, evaluate = config.optimizer, config.train, config.evaluate
    require(
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", config.name) is not None,
        "name", config.name, "be letters, digits, '.', '_' or '-': it names a directory",
    )  # fmt: skip
    _positive(config, "optimizer.learning_rate", "train.log_seconds", "train.save_minutes")
    _at_least(config, 0, "optimizer.warmup", "optimizer.weight_decay", "optimizer.plateau_patience")
    factor = optimizer.plateau_factor
    require(0 <= optimizer.average < 1, "optimizer.average", optimizer.average, "be in [0, 1)")
    require(0 < factor <= 1, "optimizer.plateau_factor", factor, "be in (0, 1]")
    require(0 <= train.seed < 2**32, "train.seed", train.seed, "be in [0, 2**32)")
    parse_length(train.length)
    _at_least(config, 1, "train.batch_size", "train.prefetch", "evaluate.batch_size")
    _at_least(config, 0, "train.microbatch", "train.dispatch")
    require(0 <= train.preempted_exit <= 255, "train.preempted_exit", train.preempted_exit, "be in [0, 255]")
    ks = evaluate.next_k
    require(
        bool(ks) and len(set(ks)) == len(ks), "evaluate.next_k", ks, "hold at least one number, each once"
    )
    for i, k in enumerate(ks):
        require(
            1 <= k <= config.data.next_k,
            f"evaluate.next_k[{i}]",
            k,
            f"be in 1..{config.data.next_k} (data.next_k)",
        )


_RULES: tuple[Callable[[Config], None], ...] = (
    _check_source, _check_features, _check_data, _check_sampling, _check_model, _check_objective, _check_run,
)  # fmt: skip


def check(config: Config) -> None:
    """Raises InputError, in one line, at the first value that is wrong: key, value, what is allowed."""
    walk(config, Config)
    for key, names in NAMES.items():
        among(key, at(config, key), names)
    for rule in _RULES:
        rule(config)


def check_devices(config: Config, devices: int) -> None:
    """Raises InputError unless both batch sizes divide by the number of devices of all hosts together."""
    for key in ("train.batch_size", "evaluate.batch_size"):
        size = at(config, key)
        require(size % devices == 0, key, size, f"divide by the {devices} devices")
