"""Attention of many short rows as one kernel, forward and back, written in Pallas for its Triton compiler.

XLA makes a batched product of every sum over places and features. With heads 8 wide and rows of 7 or 20
places those are products of single tiles, a hundred thousand of them, and each one's scores go to the
device's memory and back: two fifths of a step on an H200. Here a program holds a few whole rows and works
through some of their heads on the chip. Rows are short, so there is no running softmax (Dao et al. 2022,
"FlashAttention", for those that are not), and the way back works scores out again rather than read them.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.models.kernels.pallas import load, number, pallas_call, power_of_two, store

LONGEST = 64  # places of a row: what is kept on the chip grows with their square
_LEAST = 16  # the narrowest product of a Hopper chip's matrix units
_HEADS = 4  # of a program, at most: they share the lines of memory that their features lie in


class Tiles(NamedTuple):
    """How R rows of L places, H heads d wide, are dealt to programs: `each` rows and `heads` heads to one."""

    R: int
    L: int
    H: int
    d: int
    each: int
    heads: int

    @property
    def places(self) -> int:
        """Of a program, padding included: a power of two."""
        return max(_LEAST, power_of_two(self.L))

    @property
    def features(self) -> int:
        """Of a head, padding included: a power of two."""
        return max(_LEAST, power_of_two(self.d))

    @property
    def warps(self) -> int:
        return max(1, self.places // 16)

    @property
    def grid(self) -> tuple[int, int]:
        return -(-self.R // self.each), self.H // self.heads


def tiles(R: int, L: int, H: int, d: int) -> Tiles:
    """As many whole rows as fit into the power of two that holds one."""
    each = max(_LEAST, power_of_two(L)) // L
    return Tiles(R, L, H, d, each, max(n for n in range(1, _HEADS + 1) if H % n == 0))


def _mine(t: Tiles, same_ref: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A program's places [T] among all R L, which of them there are, and who sees whom [T, T]."""
    i = jnp.arange(t.places)
    row, there = number(0) * t.each + i // t.L, i < t.each * t.L
    there = there & (row < t.R)
    both = (row[:, None] == row[None]) & there[:, None] & there[None]
    at = (row * t.L + i % t.L)[:, None] * t.L + (i % t.L)[None]
    same = load(same_ref, at, both)
    return row * t.L + i % t.L, there, both & (same != 0)


def _head(t: Tiles, h: int, place: jax.Array, there: jax.Array) -> tuple[list[tuple[Any, Any]], jax.Array]:
    """Where q, k and v of head h of a program's heads lie at its places, and which of them there are."""
    f = jnp.arange(t.features)
    column = (number(1) * t.heads + h) * t.d + f
    at = [(place[:, None], (n * t.H * t.d + column)[None]) for n in range(3)]
    return at, there[:, None] & (f < t.d)[None]


def _weights(q: jax.Array, k: jax.Array, same: jax.Array, width: int) -> jax.Array:
    """softmax(q k^T / sqrt(d)) over those seen, [T, T] float32; all 0 where none is."""
    s = jnp.where(same, _dot(q, k.T) * width**-0.5, -jnp.inf)
    e = jnp.where(same, jnp.exp(s - s.max(1, keepdims=True)), 0.0)
    return e / jnp.maximum(e.sum(1, keepdims=True), jnp.finfo(jnp.float32).tiny)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _forward(t: Tiles, qkv_ref: Any, same_ref: Any, y_ref: Any) -> None:
    place, there, same = _mine(t, same_ref)
    for h in range(t.heads):
        at, mask = _head(t, h, place, there)
        q, k, v = (load(qkv_ref, x, mask) for x in at)
        store(y_ref, at[0], _dot(_weights(q, k, same, t.d).astype(v.dtype), v), mask)


def _backward(t: Tiles, qkv_ref: Any, same_ref: Any, g_ref: Any, of_ref: Any) -> None:
    """`of_ref` are the gradients of q, k and v, `g_ref` those of what `_forward` gave."""
    place, there, same = _mine(t, same_ref)
    for h in range(t.heads):
        at, mask = _head(t, h, place, there)
        q, k, v = (load(qkv_ref, x, mask) for x in at)
        g = load(g_ref, at[0], mask)
        p = _weights(q, k, same, t.d)
        of_p = _dot(g, v.T)
        of_s = (p * (of_p - (p * of_p).sum(1, keepdims=True)) * t.d**-0.5).astype(q.dtype)
        found = _dot(of_s, k), _dot(of_s.T, q), _dot(p.astype(g.dtype).T, g)
        for x, y in zip(at, found, strict=True):
            store(of_ref, x, y, mask)


def _run(kernel: Any, heads: int, qkv: jax.Array, same: jax.Array, *others: jax.Array, out: int) -> jax.Array:
    """What `kernel` makes of qkv [R, L, 3 D], `same` and arrays [R, L, D]: one of [R, L, out]."""
    R, L, D = *qkv.shape[:2], qkv.shape[2] // 3
    t, wide = tiles(R, L, heads, D // heads), [x.reshape(R * L, x.shape[-1]) for x in (qkv, *others)]
    (found,) = pallas_call(
        partial(kernel, t), f"attention{kernel.__name__}", t.grid, t.warps,
        [jax.ShapeDtypeStruct((R * L, out), qkv.dtype)],
        wide[0], same.astype(jnp.int8).reshape(-1), *wide[1:],
    )  # fmt: skip
    return found.reshape(R, L, out)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def attend(qkv_RxLx3D: jax.Array, same_RxLxL: jax.Array, heads: int) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v of each head, [R, L, D], q, k and v lying side by side; `same` is bool. A
    place that sees none gets zeros. On a CPU it is interpreted, for tests."""
    return _run(_forward, heads, qkv_RxLx3D, same_RxLxL, out=qkv_RxLx3D.shape[-1] // 3)


def _back(heads: int, given: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, None]:
    qkv, same = given
    return _run(_backward, heads, qkv, same, g.astype(qkv.dtype), out=qkv.shape[-1]), None


attend.defvjp(lambda qkv, same, heads: (attend(qkv, same, heads), (qkv, same)), _back)
