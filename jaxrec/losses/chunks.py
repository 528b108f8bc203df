"""Chunks of positions, and the dtype of their sums, for the losses of next-title prediction."""

import jax
import jax.numpy as jnp

# Largest chunk of positions on a CPU, for any budget: larger logits do not fit into its caches. Measured in
# milliseconds of one core (jax 0.10.2): 25,600 positions and 3,708 titles take 655, and 820 with chunks of
# 18,000 positions; 800 positions and 100,000 titles take 1090, and 1430 in one chunk.
_CPU_POSITIONS = 256


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


def positions_per_chunk(positions: int, bytes_per_position: int, budget_bytes: int) -> int:
    """Return the chunk size for `positions` whose largest arrays fit into a budget."""
    most = budget_bytes // bytes_per_position
    if jax.default_backend() == "cpu":
        most = min(most, _CPU_POSITIONS)
    return chunk_size(positions, most)
