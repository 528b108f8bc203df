"""Rules of a config: every value fits its annotation, and the fields fit one another.

Nothing reads a config before `check` has passed it.
"""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from jaxrec.config.migrations import adopt_task
from jaxrec.config.rules.codes import check_codes
from jaxrec.config.rules.data import DATA_RULES, whole
from jaxrec.config.rules.declared.availability import check_observed_labels
from jaxrec.config.rules.declared.contexts import check_matching
from jaxrec.config.rules.declared.heads import check_heads
from jaxrec.config.rules.declared.strata import check_strata
from jaxrec.config.rules.declared.trunks import check_cross, check_trunk
from jaxrec.config.rules.entity import check_entity
from jaxrec.config.rules.limits import check_limits
from jaxrec.config.rules.post import check_post
from jaxrec.config.rules.sequences import (
    check_attention_span,
    check_delay_hours,
    check_horizon,
    check_projection,
    check_title_weight,
    check_windows,
)
from jaxrec.config.rules.sessions import check_intent, check_session_experts
from jaxrec.config.rules.start import check_start
from jaxrec.config.schema import Config, Mix
from jaxrec.config.tree import among, require, walk
from jaxrec.core import registry
from jaxrec.core.errors import InputError
from jaxrec.core.ids import POOLS, SERVED, SHARD_SLOTS

UNITS = ("epochs", "steps")

# Fields that name an extension point, and the names that the registry holds. Fields with a fixed set of words
# are annotated as a Literal.
NAMES: dict[str, Iterable[str]] = {
    "task.name": registry.TASKS,
    "next_item.negative_distribution": registry.NEGATIVE_SAMPLERS,
    "next_item.loss": registry.NEXT_ITEM_LOSSES,
    "objective.ranking_loss": registry.RANKING_LOSSES,
    "post.objective": registry.POST_OBJECTIVES,
}
SEQUENCE_POSITIONS = ("index", "none")


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
    """Return the value at a dotted key, as "model.width".

    Raises:
        AttributeError: The config has no such field.
    """
    for part in key.split("."):
        config = getattr(config, part)
    return config


def mix_counts(mix: Mix, negatives: int, key: str = "sampling.mix") -> tuple[int, ...]:
    """Return the number of negatives of each pool (Table 2, and served titles).

    Args:
        mix: Shares of the pools, each in [0, 1].
        negatives: Number of negatives of an example.
        key: Name of the mix in messages.

    Returns:
        Numbers of negatives in the order of `POOLS`; their sum is `negatives`.

    Raises:
        InputError: The shares do not add to 1, or a count is not whole.
    """
    shares = {pool: getattr(mix, pool) for pool in POOLS}
    for pool, share in shares.items():
        require(0 <= share <= 1, f"{key}.{pool}", share, "be in [0, 1]")
    total = math.fsum(shares.values())
    require(abs(total - 1) < 1e-9, key, tuple(shares.values()), f"add to 1, not {total:g}")
    for pool, share in shares.items():
        allowed = f"give a whole count of {negatives} negatives, not {share * negatives:g}"
        require(whole(share * negatives), f"{key}.{pool}", share, allowed)
    return tuple(round(share * negatives) for share in shares.values())


_MAX_DURATION = 10**9  # epochs or steps


def parse_length(text: str) -> tuple[int, str]:
    """Return number and unit of a duration: "20 epochs" gives (20, "epochs").

    Raises:
        InputError: The number is below 1 or too large, or the unit is not one of UNITS.
    """
    match = re.fullmatch(r"([0-9]+) (epoch|step)s?", text)
    if not match or int(match[1]) < 1:
        raise InputError(f"train.duration={text!r} must be a whole number of epochs or steps, as '20 epochs'")
    if int(match[1]) > _MAX_DURATION:
        raise InputError(f"train.duration={text!r} must be at most {_MAX_DURATION:,} epochs or steps")
    return int(match[1]), match[2] + "s"


# ---------------------------------------------------------------- rules between fields


def _check_sampling(config: Config) -> None:
    sampling = config.sampling
    _at_least(config, 1, "sampling.negatives", "sampling.next_k")
    _rate(config, "sampling.id_dropout")
    _rate(config, "sampling.context_dropout")
    contexts, rate = [f for f in config.features if f.where == "context"], config.sampling.context_dropout
    require(bool(contexts) or not rate, "sampling.context_dropout", rate, "be 0 without context features")
    for pool, count in zip(POOLS, mix_counts(sampling.mix, sampling.negatives), strict=True):
        stored = getattr(config.data, pool)
        least = 0 if pool == SERVED and config.data.directory and not stored else count  # the task checks
        require(stored >= least, f"data.{pool}", stored, f"be at least {count}, which sampling.mix takes")
    most, stored = min(config.data.num_targets, len(sampling.target_weights)), config.data.num_targets
    weights = len(sampling.target_weights)
    allowed = f"be at most {most}: data.num_targets={stored}, {weights} sampling.target_weights"
    require(sampling.next_k <= most, "sampling.next_k", sampling.next_k, allowed)
    for i, label in enumerate(sampling.target_weights):
        require(0 < label <= 1, f"sampling.target_weights[{i}]", label, "be in (0, 1]")


def _check_model(config: Config) -> None:
    model, gate = config.model, config.model.gate
    _at_least(config, 1, "model.width")
    _positive(config, "model.embedding_init_std")
    allowed = "be False unless model.head is 'dot' and model.cosine False: there is no dot product"
    has_product = model.head == "dot" and not model.cosine
    require(has_product or not model.output_maps, "model.output_maps", model.output_maps, allowed)
    require(bool(model.experts), "model.experts", model.experts, "hold at least one Expert")
    allowed = "be True with rows of sequences, which are histories"
    require(model.reads_history or config.rows == "ranking", "model.reads_history", False, allowed)
    for i, expert in enumerate(model.experts):
        key = f"model.experts[{i}]"
        among(f"{key}.encoder", expert.encoder, registry.TASKS[config.task.name].encoders)
        for name in ("max_len", "num_layers", "num_heads"):
            require(getattr(expert, name) >= 1, f"{key}.{name}", getattr(expert, name), "be at least 1")
        history = config.data.max_history
        allowed = f"be at most data.max_history={history}"
        reads_history = expert.encoder not in registry.SESSION_ENCODERS
        require(not reads_history or expert.max_len <= history, f"{key}.max_len", expert.max_len, allowed)
        require(
            model.width % expert.num_heads == 0,
            "model.width",
            model.width,
            f"divide by num_heads={expert.num_heads}",
        )
        require(expert.mlp_ratio * model.width >= 1, f"{key}.mlp_ratio", expert.mlp_ratio, "give a width")
        require(0 <= expert.dropout < 1, f"{key}.dropout", expert.dropout, "be in [0, 1)")
    require(0 <= model.dropout < 1, "model.dropout", model.dropout, "be in [0, 1)")
    for key, sizes in (("model.head_hidden", model.head_hidden), ("model.gate.hidden", gate.hidden)):
        for i, size in enumerate(sizes):
            require(size >= 1, f"{key}[{i}]", size, "be at least 1")
    _at_least(config, 0, "model.gate.noise_std")
    _positive(config, "model.gate.start_temperature", "model.gate.temperature")
    _rate(config, "model.gate.anneal_fraction")
    if gate.target_entropy is not None and len(model.experts) > 1:
        ceiling, value = math.log(len(model.experts)), gate.target_entropy
        allowed = (
            f"be in [0, {ceiling:.3f}), below the entropy of {len(model.experts)} equal experts, or None"
        )
        require(0 <= value < ceiling, "model.gate.target_entropy", value, allowed)
    _check_reads(config)


def _check_reads(config: Config) -> None:
    reads, where = config.model.features, {f.name: f.where for f in config.features}
    for i, name in enumerate(reads):
        among(f"model.features[{i}]", name, where)
    allowed = "be empty, for all, or hold at least one feature of where='title'"
    require(not reads or "title" in {where[name] for name in reads}, "model.features", reads, allowed)


def _check_sequences(config: Config) -> None:
    """Check the model and objective of a task on sequences, and refuse their fields for other tasks."""
    model, objective = config.model, config.next_item
    if config.rows == "ranking":
        for key, wanted in (
            ("model.cosine", False), ("model.untied_item_embeddings", False), ("model.scaled_inputs", True),
            ("sampling.window", "latest"),
            ("sampling.stochastic_length", 0),
        ):  # fmt: skip
            allowed = f"be {wanted} where task.name is {config.task.name!r}"
            require(at(config, key) == wanted, key, at(config, key), allowed)
        return
    such = f"where task.name is {config.task.name!r}"
    require(len(model.experts) == 1, "model.experts", model.experts, f"hold one Expert {such}")
    for key, wanted in (("head", "dot"), ("target_in_sequence", False)):
        require(getattr(model, key) == wanted, f"model.{key}", getattr(model, key), f"be {wanted} {such}")
    among("model.position", model.position, SEQUENCE_POSITIONS)
    alpha = config.sampling.stochastic_length
    require(alpha == 0 or 1 < alpha < 2, "sampling.stochastic_length", alpha, "be 0 or in (1, 2)")
    _at_least(config, 1, "next_item.negatives", "next_item.logits_budget_mib")
    _at_least(config, 0, "next_item.alpha")
    _positive(config, "next_item.temperature")
    _rate(config, "next_item.calibration")
    allowed = f"be False with loss={objective.loss!r}: it is of sampled_softmax"
    sampled = objective.loss == "sampled_softmax"
    require(
        sampled or not objective.logq_correction,
        "next_item.logq_correction",
        objective.logq_correction,
        allowed,
    )


def _check_split(config: Config) -> None:
    """Refuse what a sharded title table does not support."""
    if config.model.item_table_sharding == "split":
        allowed = f"be replicated with task.name={config.task.name!r}: outputs meet all titles there"
        require(config.rows == "ranking", "model.item_table_sharding", "split", allowed)
        allowed = "be 0 with model.item_table_sharding='split': its negatives are drawn while the step runs"
        require(not config.model.retrieval_dim, "model.retrieval_dim", config.model.retrieval_dim, allowed)


def _check_retrieval(config: Config) -> None:
    width, weight = config.model.retrieval_dim, config.objective.retrieval
    _at_least(config, 0, "model.retrieval_dim", "objective.retrieval")
    _at_least(config, 1, "objective.retrieval_negatives")
    allowed = "be 0 with model.retrieval_dim=0: there is no such head"
    require(bool(width) or not weight, "objective.retrieval", weight, allowed)
    allowed = "be above 0, or model.retrieval_dim 0: a head that is not trained finds nothing"
    require(bool(weight) or not width, "objective.retrieval", weight, allowed)
    allowed = "be 0 with model.target_in_sequence=True: a user has a vector for each candidate"
    require(not (width and config.model.target_in_sequence), "model.retrieval_dim", width, allowed)
    allowed = f"be 0 with task.name={config.task.name!r}: every score is a dot product there"
    require(not (width and config.rows == "next_item"), "model.retrieval_dim", width, allowed)


def _check_objective(config: Config) -> None:
    _check_retrieval(config)
    if config.rows == "next_item":
        return  # theirs is next_title
    terms = [head.weight for head in registry.HEADS.values()]
    _at_least(
        config, 0, *(f"objective.{name}" for name in (*terms, "entropy", "balance", "retrieval", "alpha"))
    )
    _positive(config, "objective.margin")
    _rate(config, "objective.soft_negative")


def _check_run(config: Config) -> None:
    optimizer, train, evaluate = config.optimizer, config.train, config.evaluate
    require(
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", config.name) is not None,
        "name", config.name, "be letters, digits, '.', '_' or '-', at most 200: it names a directory",
    )  # fmt: skip
    _positive(config, "optimizer.learning_rate", "train.log_seconds", "train.checkpoint_every_seconds")
    _positive(config, "train.grace_seconds")
    _at_least(config, 1, "train.heartbeat_seconds", "train.join_seconds")
    _at_least(config, 0, "optimizer.warmup_steps", "optimizer.weight_decay", "optimizer.plateau_patience")
    factor = optimizer.plateau_factor
    require(0 <= optimizer.beta2 < 1, "optimizer.beta2", optimizer.beta2, "be in [0, 1)")
    require(0 <= optimizer.ema_decay < 1, "optimizer.ema_decay", optimizer.ema_decay, "be in [0, 1)")
    require(0 < factor <= 1, "optimizer.plateau_factor", factor, "be in (0, 1]")
    require(0 <= train.seed < 2**32, "train.seed", train.seed, "be in [0, 2**32)")
    parse_length(train.duration)
    _at_least(config, 1, "train.batch_size", "train.prefetch", "evaluate.batch_size")
    _at_least(config, 0, "train.microbatch_size", "train.steps_per_call", "train.patience")
    require(
        0 <= train.preemption_exit_code <= 255,
        "train.preemption_exit_code",
        train.preemption_exit_code,
        "be in [0, 255]",
    )
    _at_least(config, 0, "evaluate.report_users")
    ks = evaluate.next_k
    require(
        bool(ks) and len(set(ks)) == len(ks), "evaluate.next_k", ks, "hold at least one number, each once"
    )
    for i, k in enumerate(ks):
        require(
            1 <= k <= config.data.num_targets,
            f"evaluate.next_k[{i}]",
            k,
            f"be in 1..{config.data.num_targets} (data.num_targets)",
        )


_RULES: tuple[Callable[[Config], None], ...] = (
    *DATA_RULES, _check_sampling, check_matching, check_strata, _check_model, check_session_experts,
    _check_sequences, check_windows, check_attention_span, check_horizon, check_projection,
    check_title_weight, _check_split,
    _check_objective, check_intent, check_heads, check_observed_labels, check_cross, check_trunk,
    check_entity, check_post, check_codes, check_start, check_delay_hours, _check_run,
)  # fmt: skip


def check(config: Config) -> None:
    """Check a whole config.

    Raises:
        InputError: One line for the first wrong value: key, value, what is allowed.
    """
    adopt_task(config)
    walk(config, Config)
    check_limits(config)
    for key, names in NAMES.items():
        among(key, at(config, key), names)
    for rule in _RULES:
        rule(config)


def check_devices(config: Config, devices: int) -> None:
    """Check a config against the number of devices of all hosts together.

    Raises:
        InputError: A batch size is not a multiple of `devices`, or a sharded table cannot have so many
            shards.
    """
    check_sharding(config, devices)
    for key in ("train.batch_size", "evaluate.batch_size"):
        size = at(config, key)
        require(size % devices == 0, key, size, f"divide by the {devices} devices")


def check_sharding(config: Config, devices: int) -> None:
    """Check that the rows of a sharded table can be spread over so many devices.

    Raises:
        InputError: `devices` does not divide SHARD_SLOTS.
    """
    if config.model.item_table_sharding == "split":
        allowed = (
            f"be replicated on {devices} devices: rows are sharded over a power of two, {SHARD_SLOTS} at most"
        )
        require(SHARD_SLOTS % devices == 0, "model.item_table_sharding", "split", allowed)
