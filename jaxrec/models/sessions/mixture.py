"""Vectors of the experts of a mixture some of which read the session of the request, in two parts.

The first part reads the history, which is the same for all requests of a session; the second part reads the
session, and what the first part kept.

Axis letters: B examples, S events, M outputs of the history's experts, D width, K categories of a title.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.config.schema import Model
from jaxrec.core.batch import SessionTail, TitleTable
from jaxrec.core.registry import ALL_ENCODERS, SESSION_ENCODERS
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.encoders.base import PackedTitles
from jaxrec.models.encoders.session import CachedMemory, Memory, SessionExpert, SessionInputs, by_example
from jaxrec.models.layers.dense import rematerialize
from jaxrec.models.layers.title_encoder import TitleLookup


def create_expert(
    config: Model, dtype: str, features: tuple[FeatureSpec, ...], e: int, sizes: tuple[int, int]
) -> Any:
    """Create the expert of index `e`, of the history or of the session; the calling module owns it.

    Args:
        config: Config of the model.
        dtype: Compute dtype.
        features: Features of the layout.
        e: Index among `config.experts`.
        sizes: Number of kinds of events of sessions, and width of a title's vector.
    """
    fields, (session_kinds, title_width) = config.experts[e], sizes
    encoder, name = ALL_ENCODERS.resolve(fields.encoder), f"expert_{e}"
    if fields.encoder not in SESSION_ENCODERS:
        return encoder(dtype, fields, config.attention_impl, name=name)
    counts = counts_categories(config)
    categories = category_feature(features, config.intent_of).size if counts else 0
    return encoder(
        dtype, fields, config.width, title_width, session_kinds + 1, categories, config.attention_impl,
        config.dropout, name=name,
    )  # fmt: skip


def reads_session(expert: Any) -> bool:
    """Return True for an expert of the session, False for one of the history."""
    return expert.fields.encoder in SESSION_ENCODERS


def encode_histories(
    experts: Sequence[Any],
    titles_by_window: dict[int, PackedTitles],
    longest: int,
    examples: int,
    remat: bool,
) -> tuple[tuple[jax.Array, ...], tuple[CachedMemory | None, ...]]:
    """Encode the history by its experts, for the experts of the session.

    Without an expert of the history, experts of the session read the inputs of its longest window.

    Args:
        experts: All experts of the mixture.
        titles_by_window: Inputs of the experts of the history.
        longest: Longest window.
        examples: Number of examples B.
        remat: True to recompute the forward pass of experts in the backward pass.

    Returns:
        Vectors [B, D] of the experts of the history, and keys and values for each expert of the session.
    """
    pooled, outputs = [], []
    for expert in experts:
        if reads_session(expert):
            continue
        window = expert.fields.max_len
        titles = titles_by_window[window]
        vectors_BxD, h_RxLxD = rematerialize(
            remat, lambda expert, titles: expert.outputs(titles, examples), expert, titles
        )
        pooled.append(vectors_BxD)
        if h_RxLxD is None:  # an encoder without an output for each title
            outputs.append(Memory(vectors_BxD[:, None], jnp.ones((examples, 1), bool)))
        else:
            outputs.append(by_example(h_RxLxD, titles.example_RxL, examples, window))
    if not outputs:
        titles = titles_by_window[longest]
        outputs.append(by_example(titles.x_RxLxD, titles.example_RxL, examples, longest))
    memory = Memory(*(jnp.concatenate(parts, axis=1) for parts in zip(*outputs, strict=True)))
    cached = tuple(
        expert.encode_memory(memory) if isinstance(expert, SessionExpert) else None
        for expert in experts
        if reads_session(expert)
    )
    return tuple(pooled), cached


def encode_sessions(
    experts: Sequence[Any], of_history: tuple[jax.Array, ...], memories: tuple[CachedMemory | None, ...],
    tail: SessionTail, inputs_of: Callable[[SessionTail], SessionInputs], remat: bool,
) -> list[jax.Array]:  # fmt: skip
    """Return the vectors [B, D] of all experts, from the results of `encode_histories` and the sessions.

    Args:
        experts: All experts of the mixture.
        of_history: Vectors of the experts of the history.
        memories: Keys and values for each expert of the session.
        tail: Sessions of B requests.
        inputs_of: Function from the events that an expert reads to its inputs.
        remat: As for `encode_histories`.
    """
    vectors, cached, pooled = iter(of_history), iter(memories), []
    for expert in experts:
        if not reads_session(expert):
            pooled.append(next(vectors))
            continue
        window = expert.fields.max_len
        inputs = inputs_of(jax.tree.map(lambda x, n=window: x[:, -n:], tail))
        run = lambda expert, memory, inputs=inputs: expert(inputs, memory)  # noqa: E731
        pooled.append(rematerialize(remat, run, expert, next(cached)))
    return pooled


def session_inputs(
    tail: SessionTail, titles: TitleLookup, counted: tuple[int, int] | None, table: TitleTable,
    key_Bx2: jax.Array | None,
) -> SessionInputs:  # fmt: skip
    """Return the inputs of an expert of the session.

    Args:
        tail: Events that the expert reads.
        titles: Vectors of their titles.
        counted: From `counted_columns`; None if no expert counts categories.
        table: Features of all titles.
        key_Bx2: uint32 keys of the examples; None for no dropout.
    """
    if counted is None:
        return SessionInputs(tail, titles, None, key_Bx2)
    first, columns = counted
    category_BxSxK = jnp.take(jnp.asarray(table.categories)[:, first : first + columns], tail.title, axis=0)
    return SessionInputs(tail, titles, category_BxSxK, key_Bx2)


def counted_columns(features: tuple[FeatureSpec, ...], name: str) -> tuple[int, int]:
    """Return the first column of a category in the title table, and the number of its columns."""
    of_titles = [f for f in features if f.where == "title" and f.kind != "number"]
    at = [f.name for f in of_titles].index(name)
    return sum(f.columns for f in of_titles[:at]), of_titles[at].columns


def category_feature(features: tuple[FeatureSpec, ...], name: str) -> FeatureSpec:
    """Return the title feature of a name, whose categories the intent predicts and experts count."""
    return next(f for f in features if f.where == "title" and f.name == name)


def counts_categories(config: Model) -> bool:
    """Return True if an expert counts the categories of the session's titles."""
    return any(e.encoder == "session_counts" for e in config.experts)
