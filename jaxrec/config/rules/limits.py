"""Upper limits of all whole numbers of a config.

A number far above what any run needs is a slip of the keyboard. Without a limit it ends in hours of compiling
or in a request for more memory than there is.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from jaxrec.config.schema import Config
from jaxrec.config.tree import require

_MOST = 2**40  # of fields that are not named here, such as the users of a simulator
_LIMITS = {
    "features.width": 2**16,
    "features.most": 2**10,
    "data.max_history": 2**14,
    "data.num_targets": 2**8,
    "data.hard": 2**12,
    "data.trending": 2**12,
    "data.tailing": 2**12,
    "data.random": 2**12,
    "data.served": 2**12,
    "data.matching": 2**12,
    "data.session": 2**10,
    "data.request_window_seconds": 7 * 24 * 3600,
    "data.negatives": 2**14,
    "data.capacity": 2**24,
    "data.partitions": 2**16,
    "data.workers": 2**12,
    "sampling.negatives": 2**14,
    "sampling.matching": 2**12,
    "sampling.next_k": 2**8,
    "model.width": 2**16,
    "model.attention_span": 2**14,
    "model.project": 2**16,
    "model.experts.num_layers": 2**8,
    "model.experts.num_heads": 2**10,
    "model.head_hidden": 2**16,
    "model.gate.hidden": 2**16,
    "model.cross": 2**5,
    "model.cross_rank": 2**12,
    "model.trunk_experts": 2**8,
    "model.trunk_width": 2**16,
    "model.retrieval_dim": 2**16,
    "objective.retrieval_negatives": 2**20,
    "next_item.negatives": 2**20,
    "next_item.most": 2**6,
    "post.reward_models": 2**8,
    "post.samples": 2**8,
    "codes.levels": 2**3,
    "codes.size": 2**12,
    "codes.places": 2**14,
    "codes.decoder": 2**8,
    "codes.experts": 2**10,
    "codes.beam": 2**12,
    "codes.titles": 2**6,
    "train.batch_size": 2**24,
    "train.patience": 2**24,
    "train.microbatch_size": 2**24,
    "train.steps_per_call": 2**14,
    "train.prefetch": 2**10,
    "evaluate.batch_size": 2**24,
    "evaluate.next_k": 2**8,
}


def check_limits(config: Config) -> None:
    """Raise InputError for the first whole number of a config that is above its limit."""
    for key, name, value in _whole_numbers(config, "", ""):
        most = _LIMITS.get(name, _MOST)
        require(abs(value) <= most, key, value, f"be at most {most:,}")


def _whole_numbers(tree: Any, key: str, name: str) -> Iterator[tuple[str, str, int]]:
    """Yield the dotted key, the same without indices, and the value of each whole number of a config."""
    if isinstance(tree, tuple | list):
        for i, value in enumerate(tree):
            yield from _whole_numbers(value, f"{key}[{i}]", name)
    elif dataclasses.is_dataclass(tree):
        for field in dataclasses.fields(tree):
            inner, dot = getattr(tree, field.name), "." if key else ""
            yield from _whole_numbers(inner, f"{key}{dot}{field.name}", f"{name}{dot}{field.name}")
    elif isinstance(tree, int) and not isinstance(tree, bool):
        yield key, name, tree
