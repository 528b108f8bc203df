"""From packed words to a batch, on the device: decoding, the choice of columns, what a history shows."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.core.batch import Batch, History, Packing
from jaxrec.core.ids import LISTS, PAD, POOLS, UNKNOWN
from jaxrec.core.row_format import Layout
from jaxrec.models.layers import rng

_UNKNOWN_DRAW = 0x0BAD  # the layer number of the draw that hides titles


def decode(words: Any, dtype: np.dtype) -> dict[str, jax.Array]:
    """Packed rows [B, words] uint32 as the fields of the structured dtype; each is [B, ...].

    Integers of one byte come as uint8, half floats as float16. Every field starts on a word.
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
        flat = jax.lax.bitcast_convert_type(span, target).reshape(len(words), -1)[:, :count]
        out[name] = flat.reshape(len(words), *shape)
    return out


def mask_to_unknown(title: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """`title` [...] with a share `rate` of the titles shown as unknown; `key` [..., 2] is each one's."""
    hidden = rng.uniform((), key, _UNKNOWN_DRAW) < rate
    return jnp.where(hidden & (title != PAD), UNKNOWN, title)


class HistoryView(NamedTuple):
    """What a model may see of a row; static."""

    layout: Layout
    windows: tuple[int, ...]  # how many titles experts read, each once, the longest first
    keeps_abandoned: bool
    unknown_rate: float = 0.0


def history(rows: dict[str, jax.Array], view: HistoryView, key: jax.Array | None = None) -> History:
    """The request of each row: its last titles, without the abandoned ones unless shown, a history a row.

    The gap they leave is closed, so a window is the latest titles *seen*, from the longest stored
    history. With `key` [B, 2] a share `unknown_rate` of the titles is shown as unknown. This is the plain
    form, with no more padding to a history than the longest window leaves; `packed` is the same.
    """
    titles, length, width = rows["history_title"], view.layout.history, view.windows[0]
    columns = {
        "title": titles,
        "completion": rows["history_completion"].astype(jnp.float32),
        "sessions": rows["history_sessions"].astype(jnp.float32),
        "age": rows["history_age"].astype(jnp.float32),
    }
    if not view.keeps_abandoned:
        kept = (titles != PAD) & (rows["history_abandoned"] == 0)
        from_right = jnp.cumsum(kept[:, ::-1], axis=1)[:, ::-1] * kept
        place = from_right[:, None, :] == (length - jnp.arange(length))[None, :, None]  # [B, to, from]
        source = jnp.argmax(place, axis=2)
        there = place.any(axis=2)
        columns = {
            name: jnp.where(there, jnp.take_along_axis(x, source, axis=1), 0) for name, x in columns.items()
        }
    columns = {name: x[:, length - width :] for name, x in columns.items()}
    example, newer, shorter = alone(columns["title"], view.windows)
    return _history(rows, columns | {"example": example, "newer": newer}, shorter, view, key)


def alone(title: jax.Array, windows: tuple[int, ...]) -> tuple[jax.Array, jax.Array, dict[int, jax.Array]]:
    """`example`, `newer` and `shorter` of a `History` with one request a row, titles [B, L] right-aligned."""
    B, L = title.shape
    place = jnp.arange(B * L, dtype=jnp.int32).reshape(B, L)
    example = jnp.where(title != PAD, place // L, B)
    return example, L - 1 - place % L, {w: place[:, L - w :] for w in windows if w != L}


def packed(
    rows: dict[str, jax.Array], view: HistoryView, packing: Packing, key: jax.Array | None = None
) -> History:
    """What `history` gives, several requests' titles to a row as `packing` says."""
    width, stored = view.windows[0], view.layout.history
    source = packing.titles // width
    columns = {
        name: rows[f"history_{name}"].reshape(-1).at[source].get(mode="fill", fill_value=0)
        for name in ("title", "completion", "sessions", "age")
    }
    columns |= {name: columns[name].astype(jnp.float32) for name in ("completion", "sessions", "age")}
    columns |= {"example": source // stored, "newer": packing.titles % width}
    return _history(rows, columns, dict(zip(view.windows[1:], packing.shorter, strict=True)), view, key)


def _history(
    rows: dict[str, jax.Array], columns: dict[str, jax.Array], shorter: dict[int, jax.Array],
    view: HistoryView, key: jax.Array | None,
) -> History:  # fmt: skip
    if key is not None and view.unknown_rate:
        of_title = rng.fold_in(jnp.take(key, columns["example"], axis=0, mode="clip"), columns["newer"])
        columns["title"] = mask_to_unknown(columns["title"], view.unknown_rate, of_title)
    count = len(rows["history_title"])
    empty = {
        "categories": jnp.zeros((count, 0), jnp.int32),
        "numbers": jnp.zeros((count, 0), jnp.float32),
    }
    given = {
        f"{where}_{kind}": rows.get(f"{where}_{kind}", empty[kind])
        for where in ("user", "context")
        for kind in empty
    }
    return History(**columns, shorter=shorter, **given)


def choose_negatives(
    rows: dict[str, jax.Array], counts: tuple[int, int, int, int], epoch: jax.Array
) -> tuple:
    """Negatives [B, N] of a training mix, and which are hard.

    Epoch e takes the `count` columns (e * count + j) mod width of each pool. Of the hard pool the
    width is the number of real ones, so that all are used where there are no more than `count`; what is
    missing comes from its filled columns, rotated likewise.
    """
    filled = rows["pool_hard_filled"] != 0
    width = filled.shape[1]
    n_hard = (width - filled.sum(axis=1))[:, None]
    j = jnp.arange(counts[0])[None]
    real = jnp.minimum(n_hard, counts[0])
    rotated = (epoch * counts[0] + j) % jnp.maximum(n_hard, 1)
    missing = counts[0] - real
    spare = n_hard + (epoch * missing + j - real) % jnp.maximum(width - n_hard, 1)
    hard_column = jnp.where(j < real, rotated, spare)
    chosen = [jnp.take_along_axis(rows["pool_hard"], hard_column, axis=1)]
    for name, count in zip(POOLS[1:], counts[1:], strict=True):
        pool = rows[f"pool_{name}"]
        column = (epoch * count + jnp.arange(count)) % pool.shape[1]
        chosen.append(pool[:, column])
    negative = jnp.concatenate(chosen, axis=1)
    hard = jnp.concatenate(
        [jnp.broadcast_to(j < real, hard_column.shape), jnp.zeros((len(filled), sum(counts[1:])), bool)],
        axis=1,
    )
    return negative, hard


def training(
    words: Any, valid: Any, view: HistoryView, counts: tuple[int, int, int, int], next_k: int,
    epoch: jax.Array, key: jax.Array, packing: Packing | None = None,
) -> Batch:  # fmt: skip
    """A training batch from rows of words [B, words]; `key` [B, 2] is each example's. Histories share rows
    where `packing` says how."""
    rows = decode(words, view.layout.row_dtype())
    negative, hard = choose_negatives(rows, counts, epoch)
    return Batch(
        history(rows, view, key) if packing is None else packed(rows, view, packing, key),
        rows["target"][:, :next_k],
        rows["target_completion"][:, :next_k],
        negative,
        hard,
        valid,
    )


class QueryBatch(NamedTuple):
    """An evaluation batch: candidates [B, lists, K, 1 + negatives], the target first, 0 where absent."""

    rows: dict[str, jax.Array]
    history: History
    candidate: jax.Array


def queries(words: Any, view: HistoryView, packing: Packing | None = None) -> QueryBatch:
    """From rows of words [B, words]. Histories share rows where `packing` says how."""
    rows = decode(words, view.layout.query_dtype())
    target = rows["target"][:, :, None]
    lists = [jnp.concatenate([target, rows[f"list_{name}"]], axis=2) for name in LISTS]
    shown = history(rows, view) if packing is None else packed(rows, view, packing)
    return QueryBatch(rows, shown, jnp.stack(lists, axis=1))


def validation(found: QueryBatch, valid: Any, next_k: int) -> Batch:
    """The enabled list as a training batch, for the loss the plateau watches."""
    rows = found.rows
    negative = rows["list_enabled"][:, 0]
    hard = jnp.arange(negative.shape[1])[None] < rows["list_hard"][:, :1]
    return Batch(
        found.history,
        rows["target"][:, :next_k],
        rows["target_completion"][:, :next_k],
        negative,
        hard,
        valid,
    )
