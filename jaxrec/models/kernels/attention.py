"""Fused attention of many short rows: a Pallas kernel for its Triton compiler.

XLA compiles every sum over positions and features to a batched matrix product. With heads of width 8 and rows
of 7 or 20 positions, the batch has a hundred thousand products of a single tile each, and all scores go to
device memory and back: two fifths of a step on an H200. In this kernel a program loads a few
whole rows and computes some of their heads on the chip. Rows are short, so the kernel needs no running
softmax (Dao et al. 2022, "FlashAttention", for long rows). The backward pass recomputes scores instead of
reading them.

Axis letters: R rows, L positions, H heads, d width of a head, D = H d, T padded positions of a program.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.models.kernels.pallas import load, pallas_call, power_of_two, program_id, store

MAX_LENGTH = 64  # positions of a row: memory on the chip grows with the square of the length
_MIN_TILE = 16  # the narrowest matrix product of a Hopper chip's matrix units
_MAX_HEADS = 4  # of a program: their features share lines of memory


class Tiling(NamedTuple):
    """Partition of R rows of L positions and H heads of width d over programs.

    Attributes:
        rows: Rows of a program.
        heads: Heads of a program.
    """

    R: int
    L: int
    H: int
    d: int
    rows: int
    heads: int

    @property
    def positions(self) -> int:
        """Positions of a program with padding: a power of two."""
        return max(_MIN_TILE, power_of_two(self.L))

    @property
    def features(self) -> int:
        """Features of a head with padding: a power of two."""
        return max(_MIN_TILE, power_of_two(self.d))

    @property
    def warps(self) -> int:
        """Warps of a program: one for 16 positions."""
        return max(1, self.positions // 16)

    @property
    def grid(self) -> tuple[int, int]:
        """Number of programs along rows and along heads."""
        return -(-self.R // self.rows), self.H // self.heads


def make_tiling(R: int, L: int, H: int, d: int) -> Tiling:
    """Tiling with as many whole rows a program as fit into its padded length."""
    rows = max(_MIN_TILE, power_of_two(L)) // L
    return Tiling(R, L, H, d, rows, max(n for n in range(1, _MAX_HEADS + 1) if H % n == 0))


def _positions(t: Tiling, mask_ref: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Positions of this program.

    Returns:
        The index [T] of each position among all R L, bool [T] of the indices in range, and the attention mask
        [T, T].
    """
    i = jnp.arange(t.positions)
    row, in_range = program_id(0) * t.rows + i // t.L, i < t.rows * t.L
    in_range = in_range & (row < t.R)
    same_row = (row[:, None] == row[None]) & in_range[:, None] & in_range[None]
    offsets = (row * t.L + i % t.L)[:, None] * t.L + (i % t.L)[None]
    mask = load(mask_ref, offsets, same_row)
    return row * t.L + i % t.L, in_range, same_row & (mask != 0)


def _head_indices(
    t: Tiling, h: int, position: jax.Array, in_range: jax.Array
) -> tuple[list[tuple[Any, Any]], jax.Array]:
    """Indices of q, k and v of head h of this program, and the mask in range."""
    f = jnp.arange(t.features)
    column = (program_id(1) * t.heads + h) * t.d + f
    indices = [(position[:, None], (n * t.H * t.d + column)[None]) for n in range(3)]
    return indices, in_range[:, None] & (f < t.d)[None]


def _weights(q: jax.Array, k: jax.Array, mask: jax.Array, width: int) -> jax.Array:
    """Masked softmax(q k^T / sqrt(d)) [T, T] in float32; a fully masked row is all 0."""
    s = jnp.where(mask, _dot(q, k.T) * width**-0.5, -jnp.inf)
    e = jnp.where(mask, jnp.exp(s - s.max(1, keepdims=True)), 0.0)
    return e / jnp.maximum(e.sum(1, keepdims=True), jnp.finfo(jnp.float32).tiny)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _forward(t: Tiling, qkv_ref: Any, mask_ref: Any, y_ref: Any) -> None:
    position, in_range, mask = _positions(t, mask_ref)
    for h in range(t.heads):
        indices, valid = _head_indices(t, h, position, in_range)
        q, k, v = (load(qkv_ref, x, valid) for x in indices)
        store(y_ref, indices[0], _dot(_weights(q, k, mask, t.d).astype(v.dtype), v), valid)


def _backward(t: Tiling, qkv_ref: Any, mask_ref: Any, dy_ref: Any, dqkv_ref: Any) -> None:
    """Write the gradients of q, k and v to dqkv_ref; dy_ref is the gradient of y."""
    position, in_range, mask = _positions(t, mask_ref)
    for h in range(t.heads):
        indices, valid = _head_indices(t, h, position, in_range)
        q, k, v = (load(qkv_ref, x, valid) for x in indices)
        dy = load(dy_ref, indices[0], valid)
        p = _weights(q, k, mask, t.d)
        dp = _dot(dy, v.T)
        ds = (p * (dp - (p * dp).sum(1, keepdims=True)) * t.d**-0.5).astype(q.dtype)
        dqkv = _dot(ds, k), _dot(ds.T, q), _dot(p.astype(dy.dtype).T, dy)
        for x, y in zip(indices, dqkv, strict=True):
            store(dqkv_ref, x, y, valid)


def _run(kernel: Any, heads: int, qkv: jax.Array, mask: jax.Array, *arrays: jax.Array, out: int) -> jax.Array:
    """Run `kernel` on qkv [R, L, 3 D], mask [R, L, L] and [R, L, D]; [R, L, out]."""
    R, L, D = *qkv.shape[:2], qkv.shape[2] // 3
    t, flat = make_tiling(R, L, heads, D // heads), [x.reshape(R * L, x.shape[-1]) for x in (qkv, *arrays)]
    (result,) = pallas_call(
        partial(kernel, t), f"attention{kernel.__name__}", t.grid, t.warps,
        [jax.ShapeDtypeStruct((R * L, out), qkv.dtype)],
        flat[0], mask.astype(jnp.int8).reshape(-1), *flat[1:],
    )  # fmt: skip
    return result.reshape(R, L, out)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def attend(qkv_RxLx3D: jax.Array, mask_RxLxL: jax.Array, heads: int) -> jax.Array:
    """Compute softmax(q k^T / sqrt(d)) v of each head, [R, L, D].

    On a CPU the kernel is interpreted, for tests.

    Args:
        qkv_RxLx3D: q, k and v, concatenated.
        mask_RxLxL: bool; a position with an empty mask gets zeros.
        heads: number of heads H; D must be a multiple of H.
    """
    return _run(_forward, heads, qkv_RxLx3D, mask_RxLxL, out=qkv_RxLx3D.shape[-1] // 3)


def _attend_backward(
    heads: int, residuals: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, None]:
    qkv, mask = residuals
    return _run(_backward, heads, qkv, mask, dy.astype(qkv.dtype), out=qkv.shape[-1]), None


attend.defvjp(lambda qkv, mask, heads: (attend(qkv, mask, heads), (qkv, mask)), _attend_backward)
