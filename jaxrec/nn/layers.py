"""The few plain layers the others share, and the rule of their dtypes.

Parameters are float32, or float64 where the compute is; sums of statistics, softmax and outputs are
never below float32. Keep parameter names: the optimizer spares "bias" and "scale" by name.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

kernel_init = nn.initializers.lecun_normal()
embedding_init = nn.initializers.normal(0.05)
small_init = nn.initializers.normal(0.01)


def at_least_float32(dtype) -> jnp.dtype:
    """The dtype of parameters, statistics and outputs for compute in `dtype`."""
    return jnp.promote_types(dtype, jnp.float32)


class Parameters(nn.Module):
    """A module whose parameters are kept in at least float32 and used in `dtype`."""

    dtype: str

    def weight(self, name: str, init: Callable, *shape: int) -> jax.Array:
        return self.param(name, init, shape, at_least_float32(self.dtype)).astype(self.dtype)


class Dense(Parameters):
    """x [..., in] to [..., width]; the last dimension is the features."""

    width: int
    bias: bool = True
    kernel_init: Callable = kernel_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(self.dtype) @ self.weight("kernel", self.kernel_init, x.shape[-1], self.width)
        return y + self.weight("bias", nn.initializers.zeros, self.width) if self.bias else y


class Mlp(Parameters):
    """ReLU layers of the given widths, then a linear one of `out`; x [..., in] to [..., out]."""

    hidden: tuple[int, ...]
    out: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, width in enumerate(self.hidden):
            x = nn.relu(Dense(self.dtype, width, name=f"hidden_{i}")(x))
        return Dense(self.dtype, self.out, kernel_init=small_init, name="out")(x)
