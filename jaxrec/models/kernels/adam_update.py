"""Adam's update of many parameters by few Pallas kernels, for the Triton compiler.

XLA makes a kernel for each parameter, since an update has three results and its gradient's norm: 87 of the
591 kernels of a step of Table 3's model on an H200, and a kernel takes two to three microseconds at least. A
kernel here updates up to `_MAX_LEAVES` parameters: each program has a block of numbers of one of them.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.models.kernels.pallas import load, pallas_call, program_id, store, when

_BLOCK = 1024  # numbers of a program: 8 registers of each of 128 threads for every array
_MAX_LEAVES = 24  # parameters of a kernel; its code is as long as there are parameters


class AdamRule(NamedTuple):
    """Constants of an update.

    Attributes:
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        epsilon: Number added to the root of the second moment.
        coupled: True where decay is added to the gradient, False where it is added to Adam's step.
    """

    beta1: float
    beta2: float
    epsilon: float
    coupled: bool


class AdamScalars(NamedTuple):
    """Numbers of one update, the same for all parameters; float32 scalars.

    Attributes:
        divisor: The gradient is the gradient sum divided by it.
        correction1: 1 - beta1^t at update t, from 1.
        correction2: 1 - beta2^t.
        rate: Learning rate.
    """

    divisor: jax.Array
    correction1: jax.Array
    correction2: jax.Array
    rate: jax.Array


class Leaves(NamedTuple):
    """Arrays of the same parameters, in the same order; float32.

    Attributes:
        gradients: Gradient sums.
        params: Parameters.
        mu: First moments.
        nu: Second moments.
    """

    gradients: Sequence[jax.Array]
    params: Sequence[jax.Array]
    mu: Sequence[jax.Array]
    nu: Sequence[jax.Array]


def _blocks(size: int) -> int:
    return -(-size // _BLOCK)


def _update_block(
    rule: AdamRule, decay: float, scalars: AdamScalars, g: jax.Array, p: jax.Array, m: jax.Array, v: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return parameters and moments of a block after an update by the gradient g."""
    if decay and rule.coupled:
        g = g + decay * p
    m = (1 - rule.beta1) * g + rule.beta1 * m
    v = (1 - rule.beta2) * (g * g) + rule.beta2 * v
    step = (m / scalars.correction1) / (jnp.sqrt(v / scalars.correction2) + rule.epsilon)
    if decay and not rule.coupled:
        step = step + decay * p
    return p - scalars.rate * step, m, v


def _kernel(rule: AdamRule, sizes: tuple[int, ...], decays: tuple[float, ...], *references: Any) -> None:
    """Update the block of this program, and write the sum of its squared gradients.

    References are to the scalars, to the flat arrays of `Leaves` one kind after another, and to the results:
    parameters, first and second moments, and sums [programs].
    """
    n = len(sizes)
    scalars_ref, inputs, outputs = references[0], references[1 : 1 + 4 * n], references[1 + 4 * n :]
    only, program = jnp.arange(1) == 0, program_id(0)
    scalars = AdamScalars(*(load(scalars_ref, jnp.arange(1) + i, only) for i in range(4)))
    first = 0
    for i, (size, decay) in enumerate(zip(sizes, decays, strict=True)):

        def update(i: int = i, first: int = first, size: int = size, decay: float = decay) -> None:
            at = (program - first) * _BLOCK + jnp.arange(_BLOCK)
            mask = at < size
            g, *others = (load(inputs[kind * n + i], at, mask) for kind in range(4))
            g = g / scalars.divisor
            for kind, x in enumerate(_update_block(rule, decay, scalars, g, *others)):
                store(outputs[kind * n + i], at, x, mask)
            store(outputs[3 * n], program + jnp.arange(1), (g * g).sum(keepdims=True), only)

        when((program >= first) & (program < first + _blocks(size)), update)
        first += _blocks(size)


def fused_adam(
    rule: AdamRule, scalars: AdamScalars, leaves: Leaves, decays: Sequence[float]
) -> tuple[tuple[list[jax.Array], ...], jax.Array]:
    """Update all parameters.

    The arrays of the result take the memory of those given, where the caller gives it up. On a CPU the kernel
    is interpreted, for tests.

    Args:
        rule: Constants of the update.
        scalars: Numbers of the update.
        leaves: The parameters with gradient sums and moments.
        decays: Weight decay of each parameter.

    Returns:
        Parameters, first and second moments, and the squared norm of the mean gradient, a scalar.
    """
    after: tuple[list[jax.Array], ...] = ([], [], [])
    square = jnp.float32(0)
    numbers = jnp.stack([jnp.asarray(x, jnp.float32) for x in scalars])
    for start in range(0, len(leaves.params), _MAX_LEAVES):
        part = slice(start, start + _MAX_LEAVES)
        like = leaves.params[part]
        sizes, n = tuple(x.size for x in like), len(like)
        programs = sum(map(_blocks, sizes))
        flat = [jax.ShapeDtypeStruct((size,), jnp.float32) for size in sizes]
        *arrays, sums = pallas_call(
            partial(_kernel, rule, sizes, tuple(decays[part])), "adam_update", (programs,), 4,
            [*flat * 3, jax.ShapeDtypeStruct((programs,), jnp.float32)],
            numbers, *(x.reshape(-1) for kind in leaves for x in kind[part]),
            aliases={1 + n + i: i for i in range(3 * n)},
        )  # fmt: skip
        for kind, results in enumerate(after):
            results.extend(x.reshape(p.shape) for x, p in zip(arrays[kind * n :], like, strict=False))
        square = square + sums.sum()
    return after, square
