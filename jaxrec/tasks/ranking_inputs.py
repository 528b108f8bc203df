"""Conversion of packed rows to batches, on the device.

The steps are decoding, the choice of negatives, and the filters of histories.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.core.batch import Batch, History, ObservedOutcome, Outcome, Packing, after, observed
from jaxrec.core.ids import PAD
from jaxrec.core.row_format import Layout, label_is_known
from jaxrec.models.layers import rng
from jaxrec.tasks.inputs.hidden_contexts import hide_contexts
from jaxrec.tasks.inputs.pool_negatives import choose_negatives, no_negatives
from jaxrec.tasks.inputs.session import session_tail
from jaxrec.tasks.inputs.unknown_titles import mask_to_unknown


def decode(words: Any, dtype: np.dtype) -> dict[str, jax.Array]:
    """Decode packed rows into the fields of a structured dtype.

    Args:
        words: [B, words] uint32.
        dtype: Structured dtype of a row, in which every field starts on a word.

    Returns:
        Field name -> [B, ...]. One-byte integers are uint8, half floats float16.
    """
    chex.assert_rank(words, 2, custom_message="words [B, words]")
    chex.assert_type(words, jnp.uint32, custom_message="words")
    chex.assert_axis_dimension_gteq(words, 1, dtype.itemsize // 4, custom_message="words [B, words]")
    out = {}
    for name in dtype.names or ():
        field, offset = dtype.fields[name][:2]  # type: ignore[index]
        base, shape = field.base, field.shape
        count = int(np.prod(shape, dtype=int))
        span = words[:, offset // 4 : offset // 4 + -(-count * base.itemsize // 4)]
        target = jnp.dtype(base.newbyteorder("="))
        flat = _bitcast(span, target).reshape(len(words), -1)[:, :count]
        out[name] = flat.reshape(len(words), *shape)
    return out


def _bitcast(words: jax.Array, dtype: np.dtype) -> jax.Array:
    """Return the numbers of `dtype` in words [B, N] uint32, [B, N] or [B, N, numbers of a word].

    The first number is in the lowest bits. XLA has no change of width for a batch size that is a symbol, as
    in an export, so shifts take narrow numbers apart.
    """
    bits = 8 * dtype.itemsize
    if bits == 32:
        return jax.lax.bitcast_convert_type(words, dtype)
    parts = words[..., None] >> jnp.arange(0, 32, bits, dtype=jnp.uint32)
    return jax.lax.bitcast_convert_type(parts.astype(f"uint{bits}"), dtype)


class HistoryView(NamedTuple):
    """Settings that select the titles of a row's history; static under `jit`.

    Attributes:
        layout: Layout of the rows.
        windows: Unique numbers of titles that experts read, in decreasing order.
        keeps_abandoned: True to keep titles that the user abandoned.
        unknown_rate: Fraction of titles that are replaced by the unknown title, in [0, 1].
        observed: Names of the labels of the first target that the model reads.
        session_kinds: Kinds of the events of sessions that the model reads; () if it reads no session.
        context_dropout: Probability that a feature of the context is hidden in training.
        matching: Largest number of negatives that match the text of the request.
    """

    layout: Layout
    windows: tuple[int, ...]
    keeps_abandoned: bool
    unknown_rate: float = 0.0
    observed: tuple[str, ...] = ()
    session_kinds: tuple[int, ...] = ()
    context_dropout: float = 0.0
    matching: int = 0


def history(rows: dict[str, jax.Array], view: HistoryView, key: jax.Array | None = None) -> History:
    """Build the histories of a batch, one example per row.

    Abandoned titles are removed unless `view.keeps_abandoned`, and the gaps are closed, so a window holds the
    latest remaining titles of the stored history. The rows are as long as the longest window. `packed` gives
    the same histories with several examples per row.

    Args:
        rows: Fields of B rows, from `decode`.
        view: Selection of the titles.
        key: [B, 2] uint32, one key for each example. With a key, a fraction `view.unknown_rate` of the titles
            is replaced by the unknown title.
    """
    titles, length, width = rows["history_title"], view.layout.max_history, view.windows[0]
    columns = {"title": titles}
    columns |= {name: x.astype(jnp.float32) for name, x in _interactions(rows).items()}
    if not view.keeps_abandoned:
        kept = (titles != PAD) & (rows["history_abandoned"] == 0)
        from_right = jnp.cumsum(kept[:, ::-1], axis=1)[:, ::-1] * kept
        moves = from_right[:, None, :] == (length - jnp.arange(length))[None, :, None]  # [B, to, from]
        source = jnp.argmax(moves, axis=2)
        present = moves.any(axis=2)

        def close_gaps(x: jax.Array) -> jax.Array:
            """Move the kept positions of [B, history] or [B, history, signals] to the right."""
            each = (..., None) if x.ndim == 3 else ...
            return jnp.where(present[each], jnp.take_along_axis(x, source[each], axis=1), 0)

        columns = {name: close_gaps(x) for name, x in columns.items()}
    columns = {name: x[:, length - width :] for name, x in columns.items()}
    example, newer, shorter = alone(columns["title"], view.windows)
    return _history(rows, columns | {"example": example, "newer": newer}, shorter, view, key)


def alone(title: jax.Array, windows: tuple[int, ...]) -> tuple[jax.Array, jax.Array, dict[int, jax.Array]]:
    """Return `example`, `newer` and `shorter` of a `History` with one example per row.

    Args:
        title: [B, L] ids, right-aligned.
        windows: Unique numbers of titles that experts read, in decreasing order.
    """
    B, L = title.shape
    slot = jnp.arange(B * L, dtype=jnp.int32).reshape(B, L)
    example = jnp.where(title != PAD, slot // L, B)
    return example, L - 1 - slot % L, {w: slot[:, L - w :] for w in windows if w != L}


def packed(
    rows: dict[str, jax.Array], view: HistoryView, packing: Packing, key: jax.Array | None = None
) -> History:
    """Build the histories of `history` with several examples per row.

    Args:
        rows: Fields of B rows, from `decode`.
        view: Selection of the titles.
        packing: Layout of the rows.
        key: [B, 2] uint32, one key for each example, as for `history`.
    """
    width, stored = view.windows[0], view.layout.max_history
    source = packing.titles // width
    columns = {
        name: x.reshape(-1, *x.shape[2:]).at[source].get(mode="fill", fill_value=0)
        for name, x in {"title": rows["history_title"], **_interactions(rows)}.items()
    }
    columns |= {name: columns[name].astype(jnp.float32) for name in _interactions(rows)}
    columns |= {"example": source // stored, "newer": packing.titles % width}
    return _history(rows, columns, dict(zip(view.windows[1:], packing.shorter, strict=True)), view, key)


def _interactions(rows: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Return the stored interactions of histories, [B, history] and of signals [B, history, signals]."""
    names = ("completion", "sessions", "age", "signals")
    return {name: rows[f"history_{name}"] for name in names if f"history_{name}" in rows}


def _history(
    rows: dict[str, jax.Array], columns: dict[str, jax.Array], shorter: dict[int, jax.Array],
    view: HistoryView, key: jax.Array | None,
) -> History:  # fmt: skip
    if key is not None and view.unknown_rate:
        of_title = rng.fold_in(jnp.take(key, columns["example"], axis=0, mode="clip"), columns["newer"])
        columns["title"] = mask_to_unknown(columns["title"], view.unknown_rate, of_title)
    past = after(Outcome(columns.pop("completion"), signals=columns.pop("signals", None)))
    count = len(rows["history_title"])
    empty = {
        "categories": jnp.zeros((count, 0), jnp.int32),
        "numbers": jnp.zeros((count, 0), jnp.float32),
    }
    features = {
        f"{where}_{kind}": rows.get(f"{where}_{kind}", empty[kind])
        for where in ("user", "context")
        for kind in empty
    }
    if key is not None and view.context_dropout:
        values = features["context_categories"], features["context_numbers"]
        hidden = hide_contexts(*values, view.layout.of("context"), view.context_dropout, key)
        features["context_categories"], features["context_numbers"] = hidden
    early = _observed(rows, view) if view.observed else None
    session = None
    if view.session_kinds:
        session = session_tail(rows, view.session_kinds, view.unknown_rate, key)
    return History(past=past, **columns, shorter=shorter, **features, observed=early, session=session)


def _observed(rows: dict[str, jax.Array], view: HistoryView) -> ObservedOutcome:
    """Return the labels of the first target that the model reads.

    Values are sign(y) log(1 + |y|): seconds and counts spread over orders of magnitude.
    """
    numbers = []
    for name in view.observed:
        i = view.layout.labels.index(name)
        known = label_is_known(rows["label_known"][:, 0], i)
        y = rows["label"][:, 0, i].astype(jnp.float32)
        numbers += [jnp.where(known, jnp.sign(y) * jnp.log1p(jnp.abs(y)), 0.0), known.astype(jnp.float32)]
    return observed(Outcome(None, jnp.stack(numbers, axis=1)))


def training(
    words: Any, valid: Any, view: HistoryView, counts: tuple[int, ...], next_k: int,
    epoch: jax.Array, key: jax.Array, packing: Packing | None = None,
) -> Batch:  # fmt: skip
    """Build a training batch.

    Args:
        words: [B, words] uint32 packed rows.
        valid: [B] bool, False for padding rows of the batch.
        view: Selection of the history's titles.
        counts: Number of negatives of each pool, in the order of `POOLS`.
        next_k: Number of targets per example.
        epoch: Scalar, from 0.
        key: [B, 2] uint32, one key for each example.
        packing: Layout of several histories per row; None for one history per row.
    """
    rows = decode(words, view.layout.row_dtype())
    negative, hard = choose_negatives(rows, counts, epoch, view.matching)
    return Batch(
        history(rows, view, key) if packing is None else packed(rows, view, packing, key),
        rows["target"][:, :next_k],
        _outcome(rows, next_k, filled=True),
        negative,
        hard,
        valid,
    )


def _outcome(rows: dict[str, jax.Array], next_k: int, filled: bool = False) -> Outcome:
    """Return the completions and the stored labels of the first `next_k` targets.

    Args:
        rows: Fields of B rows, from `decode`.
        next_k: Number of targets per example.
        filled: True to mark the labels that are predictions; otherwise they are unknown.
    """
    label, known, predicted = (
        rows[name][:, :next_k] if name in rows else None for name in ("label", "label_known", "label_filled")
    )
    completion = rows["target_completion"][:, :next_k]
    return Outcome(completion, label, known, label_filled=predicted if filled else None)


class QueryBatch(NamedTuple):
    """Evaluation batch.

    Attributes:
        rows: Fields of B rows, from `decode`.
        history: Inputs of the model.
        candidate: [B, lists, K, 1 + negatives] int32 ids of the lists of the layout, the target first, 0
            where absent; for exposures [B, 1, 1, 1], the title shown.
    """

    rows: dict[str, jax.Array]
    history: History
    candidate: jax.Array


def queries(words: Any, view: HistoryView, packing: Packing | None = None) -> QueryBatch:
    """Build an evaluation batch.

    Args:
        words: [B, words] uint32 packed query rows.
        view: Selection of the history's titles.
        packing: Layout of several histories per row; None for one history per row.
    """
    rows = decode(words, view.layout.query_dtype())
    target = rows["target"][:, :, None]
    lists = [target]
    if view.layout.has_candidates:
        lists = [jnp.concatenate([target, rows[f"list_{name}"]], axis=2) for name in view.layout.lists]
    histories = history(rows, view) if packing is None else packed(rows, view, packing)
    return QueryBatch(rows, histories, jnp.stack(lists, axis=1))


def validation(query_batch: QueryBatch, valid: Any, next_k: int, served: bool = False) -> Batch:
    """Build a training batch from the "enabled" list of queries; exposures have no negatives.

    The plateau schedule monitors the loss of this batch.

    Args:
        query_batch: Queries of B rows.
        valid: [B] bool, False for padding rows of the batch.
        next_k: Number of targets per example.
        served: True to take the served list instead, and no query without one.
    """
    rows = query_batch.rows
    negative, hard = no_negatives(rows)
    if "list_enabled" in rows:
        negative = rows["list_enabled"][:, 0]
        hard = jnp.arange(negative.shape[1])[None] < rows["num_hard"][:, :1]
    if served:
        negative = rows["list_served"][:, 0]
        hard, valid = jnp.zeros(negative.shape, bool), valid & (negative[:, 0] != PAD)
    return Batch(
        query_batch.history,
        rows["target"][:, :next_k],
        _outcome(rows, next_k),
        negative,
        hard,
        valid,
    )
