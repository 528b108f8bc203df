"""The few plain layers the others share, and the rule of their dtypes.

Parameters are float32, or float64 where the compute is; sums of statistics, softmax and outputs are
never below float32. Keep parameter names: the optimizer spares "bias" and "scale" by name.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.models.layers.rng import uniform

_FEW_ROWS = 64  # of a table


def at_least_float32(dtype) -> jnp.dtype:
    """The dtype of parameters, statistics and outputs for compute in `dtype`."""
    return jnp.promote_types(dtype, jnp.float32)


def uniform_init(std: float) -> Callable:
    """An initializer: uniform with mean 0 and standard deviation `std`.

    Drawn by the counter hash, for XLA spends seconds compiling a model's worth of `jax.random`.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
        words = jax.random.key_data(key).reshape(1, -1)[:, -2:]
        return (2.0 * uniform(shape, words, 0, dtype)[0] - 1.0) * (3.0**0.5 * std)

    return init


def kernel_init(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """Of [in, out]: a variance of 1 / in, which keeps that of what passes through (LeCun)."""
    return uniform_init(shape[0] ** -0.5)(key, shape, dtype)


embedding_init = uniform_init(0.05)
small_init = uniform_init(0.01)  # of last layers: first scores near 0, a first gate near even


def broadcast(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """x broadcast to `shape`. Gradients are added up in at least float32: in bfloat16 a sum that is 256 times
    what is added to it stays as it is."""
    return _sum_in_float32(x, lambda y: jnp.broadcast_to(y, shape))


def embedding_lookup(
    x: jax.Array, ids: jax.Array, mode: str | None = None, fill: float | None = None
) -> jax.Array:
    """`jnp.take` of rows. Gradients are added up in at least float32, as in `repeated`; of few rows by a
    product, on a GPU: one by one, many additions to one place wait for each other there."""
    back = None
    if jax.default_backend() == "gpu" and len(x) <= _FEW_ROWS:
        back = partial(_scatter_sum, ids, len(x), mode)
    return _sum_in_float32(x, lambda y: jnp.take(y, ids, axis=0, mode=mode, fill_value=fill), back)


def _scatter_sum(ids: jax.Array, rows: int, mode: str | None, g: jax.Array) -> jax.Array:
    """The sums [rows, D] of g [..., D] over where each of `rows` was looked up, in at least float32: of all
    its bits, which a GPU's product of float32 would not keep unless asked."""
    of_N = jnp.clip(ids, 0, rows - 1) if mode == "clip" else ids
    hot_NxV = jax.nn.one_hot(of_N.reshape(-1), rows, dtype=g.dtype)  # of another number a row of zeros
    return jax.lax.dot_general(
        hot_NxV, g.reshape(-1, g.shape[-1]), (((0,), (0,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST, preferred_element_type=at_least_float32(g.dtype),
    )  # fmt: skip


def _sum_in_float32(
    x: jax.Array, copy: Callable[[jax.Array], jax.Array], back: Callable[[jax.Array], jax.Array] | None = None
) -> jax.Array:
    """copy(x), a linear function which only copies elements, its transpose in at least float32: `back`, or as
    jax derives it."""
    wide = at_least_float32(x.dtype)
    if back is None:
        if wide == x.dtype:
            return copy(x)
        transposed = jax.linear_transpose(copy, jax.ShapeDtypeStruct(x.shape, wide))

        def back(g: jax.Array) -> jax.Array:
            return transposed(g.astype(wide))[0]

    @jax.custom_vjp
    def forward(y: jax.Array) -> jax.Array:
        return copy(y)

    forward.defvjp(lambda y: (copy(y), None), lambda _, g: (back(g).astype(x.dtype),))
    return forward(x)


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [..., in] times `kernel` [in, out]; for an x that is cheap to have again, and a gradient that is not.

    One of x and g is transposed for the kernel's gradient, and on a CPU XLA works that one out anew from all
    that it is made of, in an order that no vector unit follows. As jax derives it, it is g: behind a
    layer norm and a dropout, a fifth of the step. Here it is x.
    """
    return x @ kernel


def _product_backward(given, g):
    x, kernel = given
    leading = tuple(range(x.ndim - 1))
    return g @ kernel.T, jax.lax.dot_general(x, g, ((leading, leading), ((), ())))


matmul.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _product_backward)


def rematerialize(remat: bool, call: Callable, module: nn.Module, *given: Any) -> Any:
    """call(module, *given), trees of arrays; with `remat` what it works out on the way is not kept for the
    backward pass, but worked out there again (Chen et al. 2016, "Training Deep Nets with Sublinear Memory
    Cost"). Parameters, values and draws stay as they are."""
    return nn.remat(call)(module, *given) if remat else call(module, *given)


class Parameters(nn.Module):
    """A module whose parameters are kept in at least float32 and used in `dtype`."""

    dtype: str

    def weight(self, name: str, init: Callable, *shape: int) -> jax.Array:
        if self.has_variable("params", name):  # `param` would trace `init` again, to compare shapes
            return self.get_variable("params", name).astype(self.dtype)
        return self.param(name, init, shape, at_least_float32(self.dtype)).astype(self.dtype)


class Dense(Parameters):
    """x [..., in] to [..., width]; the last dimension is the features."""

    width: int
    bias: bool = True
    kernel_init: Callable = kernel_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = matmul(x.astype(self.dtype), self.weight("kernel", self.kernel_init, x.shape[-1], self.width))
        if not self.bias:
            return y
        return y + broadcast(self.weight("bias", nn.initializers.zeros, self.width), y.shape)


class Mlp(Parameters):
    """ReLU layers of the given widths, then a linear one of `out`; x [..., in] to [..., out]."""

    hidden: tuple[int, ...]
    out: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, width in enumerate(self.hidden):
            x = nn.relu(Dense(self.dtype, width, name=f"hidden_{i}")(x))
        return Dense(self.dtype, self.out, kernel_init=small_init, name="out")(x)
