"""Fields of tokens of packed rows as inputs of the model, on the device.

Axis letters: B rows, P stored tokens, L positions.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.core.batch import Outcome, after
from jaxrec.core.row_format import Layout
from jaxrec.core.rows.sequence_fields import has_text, parse_kinds
from jaxrec.models.features.tokens import NextRequest, TokenInputs

_REQUEST = ("categories", "numbers", "query")


def token_inputs(past: dict[str, Any], request: dict[str, Any]) -> TokenInputs:
    """Return the fields that positions read.

    Args:
        past: Field of tokens -> values [B, L, ...] of the tokens of the positions.
        request: The same of the tokens after them.
    """
    outcome = Outcome(
        past["progress"].astype(jnp.float32), signals=past.get("values"), kinds=past["kinds"],
        seconds=past["seconds"].astype(jnp.float32),
    )  # fmt: skip
    categories, numbers, query = (request.get(name) for name in _REQUEST)
    return TokenInputs(
        after(outcome), NextRequest(categories, numbers, None if query is None else query.astype(jnp.int32))
    )


def of_windows(rows: dict[str, Any], index: jax.Array) -> TokenInputs:
    """Return the fields of training windows.

    Args:
        rows: Decoded training rows of tokens.
        index: [B, L + 1] int32 stored tokens of the windows, the last one of which is a target only.
    """
    taken = {
        name: jnp.take_along_axis(x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), axis=1)
        for name, x in rows.items()
        if name in ("progress", "values", "kinds", "seconds", *_REQUEST)
    }
    return token_inputs(
        {name: x[:, :-1] for name, x in taken.items()}, {name: x[:, 1:] for name, x in taken.items()}
    )


def of_queries(rows: dict[str, Any], size: int) -> TokenInputs:
    """Return the fields of the latest `size` tokens before each target.

    Args:
        rows: Decoded query rows of tokens.
        size: Number of positions.
    """
    prefix, past, request = "history_", {}, {}
    for name, x in rows.items():
        if name.startswith(prefix):
            past[name.removeprefix(prefix)] = x[:, -size:]
    for name in (n for n in _REQUEST if n in past):
        request[name] = jnp.concatenate([past[name][:, 1:], rows[f"target_{name}"][:, None]], axis=1)
    return token_inputs(past, request)


def empty_inputs(layout: Layout, size: int) -> TokenInputs:
    """Return the fields of one window of padding, to initialise the parameters."""
    dtype = layout.row_dtype()
    zeros: dict[str, Any] = {
        name: jnp.zeros((1, size, *dtype[name].shape[1:]), jnp.float32)
        for name in ("progress", "values", "seconds", "categories", "numbers")
        if name in (dtype.names or ())
    }
    if "categories" in zeros:
        zeros["categories"] = zeros["categories"].astype(jnp.int32)
    if has_text(parse_kinds(layout.token_kinds)):
        zeros["query"] = jnp.zeros((1, size), jnp.uint32)
    return token_inputs(zeros | {"kinds": jnp.zeros((1, size), jnp.uint32)}, zeros)
