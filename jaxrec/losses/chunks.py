"""Chunks of positions, and the dtype of their sums, for the losses of next-title prediction."""

import jax
import jax.numpy as jnp


def sum_dtype(*arrays: jax.Array) -> jnp.dtype:
    """Return the dtype in which scores of `arrays` are summed: at least float32."""
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def chunk_size(positions: int, max_size: int) -> int:
    """Return the most even chunk size from 1 to `max_size` for `positions`."""
    chunks = -(-positions // max(1, max_size))
    return -(-positions // chunks)


def to_chunks(x: jax.Array, size: int) -> jax.Array:
    """Reshape [P, ...] to [chunks, size, ...], padded with 0."""
    chunks = -(-len(x) // size)
    padded = jnp.pad(x, [(0, chunks * size - len(x)), *[(0, 0)] * (x.ndim - 1)])
    return padded.reshape(chunks, size, *x.shape[1:])
