"""Dense layers, embedding lookup and broadcast, with the dtype rule of all layers.

Parameters are float32, or float64 if the compute is. Statistics, softmax and outputs are at least float32.
Parameter names must not change: the optimizer excludes "bias" and "scale" from weight decay by name.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.models.layers.rng import uniform

_FEW_ROWS = 64  # of a table
P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=nn.Module)


def at_least_float32(dtype) -> jnp.dtype:
    """Return the dtype of parameters, statistics and outputs for compute in `dtype`."""
    return jnp.promote_types(dtype, jnp.float32)


def uniform_init(std: float) -> Callable:
    """Initializer: uniform with mean 0 and standard deviation `std`.

    The numbers come from the counter hash of `rng`, because XLA takes seconds to compile `jax.random` for all
    parameters of a model.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
        words = jax.random.key_data(key).reshape(1, -1)[:, -2:]
        return (2.0 * uniform(shape, words, 0, dtype)[0] - 1.0) * (3.0**0.5 * std)

    return init


def kernel_init(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """Initializer of a kernel [in, out] with variance 1 / in (LeCun et al. 1998).

    The variance of the activations stays the same.
    """
    return uniform_init(shape[0] ** -0.5)(key, shape, dtype)


embedding_init = uniform_init(0.05)
small_init = uniform_init(0.01)  # for last layers: initial scores near 0, an initial gate near uniform


def broadcast(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Broadcast x [...] to `shape`, with gradients summed in at least float32.

    In bfloat16, a sum stops growing once it is 256 times the numbers added to it.
    """
    return _sum_in_float32(x, lambda y: jnp.broadcast_to(y, shape))


def embedding_lookup(
    x: jax.Array, ids: jax.Array, mode: str | None = None, fill: float | None = None
) -> jax.Array:
    """Select rows by `jnp.take`, with gradients summed in at least float32.

    On a GPU the gradients of a small table are summed by a matrix product, and those of a small table of
    numbers by comparisons, because many atomic additions to one row wait for each other.

    Args:
        x: table [V, ...].
        ids: rows to select, of any shape.
        mode: mode of `jnp.take` for ids out of range.
        fill: value of rows out of range, with mode "fill".

    Returns:
        [*ids.shape, ...].
    """
    backward = None
    if jax.default_backend() == "gpu" and len(x) <= _FEW_ROWS:
        backward = partial(_scatter_sum if x.ndim > 1 else _bucket_sum, ids, len(x), mode)
    return _sum_in_float32(x, lambda y: jnp.take(y, ids, axis=0, mode=mode, fill_value=fill), backward)


def _scatter_sum(ids: jax.Array, rows: int, mode: str | None, g: jax.Array) -> jax.Array:
    """Sum gradients g [*ids.shape, ...] of a table [V, ...] by row, in at least float32.

    The precision is HIGHEST, because the default matrix product of float32 on a GPU drops bits.
    """
    ids = jnp.clip(ids, 0, rows - 1) if mode == "clip" else ids
    one_hot_NxV = jax.nn.one_hot(ids.reshape(-1), rows, dtype=g.dtype)  # zeros for ids out of range
    row = g.shape[ids.ndim :]
    sums = jax.lax.dot_general(
        one_hot_NxV, g.reshape(ids.size, math.prod(row)), (((0,), (0,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST, preferred_element_type=at_least_float32(g.dtype),
    )  # fmt: skip
    return sums.reshape(rows, *row)


def _bucket_sum(ids: jax.Array, rows: int, mode: str | None, g: jax.Array) -> jax.Array:
    """Sum gradients g [*ids.shape] of a table of numbers [rows] by row, in at least float32.

    Each row selects its gradients among all. XLA on a GPU fuses comparison, selection and sum, so that no
    array of [rows, N] is stored. By bytes, HSTU's 5.1 million time gaps in 45 buckets take 0.4 ms of an H200:
    they are read 45 times, mostly from its cache. The one-hot matrix of a product would be 0.9 GB, written
    and read. Neither was timed.
    """
    ids = jnp.clip(ids, 0, rows - 1) if mode == "clip" else ids
    ids_N, g_N = ids.reshape(-1), g.reshape(-1).astype(at_least_float32(g.dtype))
    selected_VxN = jnp.where(ids_N == jnp.arange(rows)[:, None], g_N, 0)
    return selected_VxN.sum(axis=1)


def _sum_in_float32(
    x: jax.Array,
    copy: Callable[[jax.Array], jax.Array],
    backward: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Return copy(x), with its transpose computed in at least float32.

    Args:
        x: input of `copy`.
        copy: a linear function that only copies elements.
        backward: the transpose of `copy`; None: the one that jax derives.
    """
    wide = at_least_float32(x.dtype)
    if backward is None:
        if wide == x.dtype:
            return copy(x)
        transposed = jax.linear_transpose(copy, jax.ShapeDtypeStruct(x.shape, wide))

        def backward(g: jax.Array) -> jax.Array:
            return transposed(g.astype(wide))[0]

    @jax.custom_vjp
    def forward(y: jax.Array) -> jax.Array:
        return copy(y)

    forward.defvjp(lambda y: (copy(y), None), lambda _, g: (backward(g).astype(x.dtype),))
    return forward(x)


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiply x [..., in] by `kernel` [in, out], with a gradient that transposes x.

    The result is [..., out]. The gradient of the kernel transposes either x or the output gradient g. On a
    CPU, XLA recomputes the transposed array from its inputs, in an order that does not vectorize. jax
    transposes g: after a layer norm and a dropout, this took a fifth of the step. Use this function if x is
    cheaper to recompute than g.
    """
    return x @ kernel


def _matmul_backward(residuals, g):
    x, kernel = residuals
    leading = tuple(range(x.ndim - 1))
    return g @ kernel.T, jax.lax.dot_general(x, g, ((leading, leading), ((), ())))


matmul.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _matmul_backward)


def rematerialize(remat: bool, call: Callable, module: nn.Module, *inputs: Any) -> Any:
    """Return call(module, *inputs), optionally with rematerialization.

    With rematerialization, the backward pass recomputes intermediate values instead of storing them (Chen et
    al. 2016, "Training Deep Nets with Sublinear Memory Cost"). Parameters, values and random numbers do not
    change.

    Args:
        remat: rematerialize.
        call: function of a module and trees of arrays.
        module: the module.
        *inputs: trees of arrays.
    """
    return nn.remat(call)(module, *inputs) if remat else call(module, *inputs)


class Parameters(nn.Module):
    """Module with parameters stored in at least float32 and used in `dtype`.

    Attributes:
        dtype: Name of the compute dtype: "float32" or "bfloat16".
    """

    dtype: str

    def weight(self, name: str, init: Callable, *shape: int) -> jax.Array:
        """Return the parameter `name` of this shape, cast to the compute dtype.

        Args:
            name: name of the parameter in the module.
            init: initializer, called as `init(key, shape, dtype)`.
            *shape: shape of the parameter.
        """
        return self.stored_weight(name, init, *shape).astype(self.dtype)

    def stored_weight(self, name: str, init: Callable, *shape: int) -> jax.Array:
        """Return the parameter `name` of this shape as it is stored; the arguments are those of `weight`."""
        if self.has_variable("params", name):  # `param` would trace `init` again to compare shapes
            return self.get_variable("params", name)
        return self.param(name, init, shape, at_least_float32(self.dtype))


def applied(method: Callable[Concatenate[M, P], R], model: M, params: Any) -> Callable[P, R]:
    """Return a method of a model at parameters, as `apply` runs it, with the types of its arguments.

    Args:
        method: Method of the class, such as `RankingModel.encode`; mypy checks what it is called with.
        model: The model.
        params: Parameters of the model.
    """

    # By name, so that a method that a subclass overrides is that of the model.
    name = None if method.__name__ == "__call__" else method.__name__

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        apply: Any = model.apply
        return apply({"params": params}, *args, method=name, **kwargs)

    return call


class Dense(Parameters):
    """Linear layer of x [..., in] to [..., width]."""

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
    """ReLU layers of widths `hidden`, then a linear layer; [..., in] to [..., out]."""

    hidden: tuple[int, ...]
    out: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, width in enumerate(self.hidden):
            x = nn.relu(Dense(self.dtype, width, name=f"hidden_{i}")(x))
        return Dense(self.dtype, self.out, kernel_init=small_init, name="out")(x)
