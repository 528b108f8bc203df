"""Sessions of packed rows as inputs of the model, on the device."""

import jax
import jax.numpy as jnp

from jaxrec.config.schema import Config
from jaxrec.core.batch import Outcome, SessionTail, after
from jaxrec.core.errors import InputError
from jaxrec.core.registry import SESSION_ENCODERS
from jaxrec.core.row_format import Layout
from jaxrec.models.layers import rng
from jaxrec.tasks.inputs.unknown_titles import mask_to_unknown

_KEY = 0x5E55  # folded into the key of an example for the events of its session


def reads_session(config: Config) -> bool:
    """Return True if an expert of the config reads sessions."""
    return any(expert.encoder in SESSION_ENCODERS for expert in config.model.experts)


def session_kinds(config: Config, layout: Layout) -> tuple[int, ...]:
    """Return the kinds of the events that the model reads; () if it reads no session.

    Args:
        config: Config of the run.
        layout: Layout of the rows.

    Raises:
        InputError: The rows hold no session, or no such events in it.
    """
    if not reads_session(config):
        return ()
    stored = layout.session_kinds
    for name in config.sampling.session_events or stored or ("play",):
        if name not in stored:
            raise InputError(
                f"model.experts read the events {name!r} of sessions, but the dataset's rows store "
                f"{', '.join(stored) or 'no session'}"
            )
    return tuple(1 + stored.index(name) for name in config.sampling.session_events or stored)


def session_tail(
    rows: dict[str, jax.Array], kinds: tuple[int, ...], unknown_rate: float, key: jax.Array | None
) -> SessionTail:
    """Return the events of sessions whose kind the model reads; others become padding.

    Args:
        rows: Fields of B rows, from `ranking_inputs.decode`.
        kinds: Kinds to read.
        unknown_rate: Fraction of titles that are replaced by the unknown title.
        key: [B, 2] uint32, one key for each example; None for no replacement.
    """
    kind = rows["session_kind"].astype(jnp.int32)
    read = (kind[..., None] == jnp.asarray(kinds)).any(-1)
    title, value, age = (jnp.where(read, rows[f"session_{name}"], 0) for name in ("title", "value", "age"))
    if key is not None and unknown_rate:
        of_example = rng.fold_in(key, jnp.full(len(kind), _KEY))
        of_event = rng.fold_in(of_example[:, None], jnp.arange(kind.shape[1])[None])
        title = mask_to_unknown(title, unknown_rate, of_event)
    past = after(Outcome(value.astype(jnp.float32)))
    return SessionTail(title, jnp.where(read, kind, 0), past, age.astype(jnp.float32))
