"""Low-rank adaptation of dense kernels (LoRA; Hu et al. 2022): `start.low_rank`.

A kernel W is W0 + D U with D [in, r] and U [r, out]. The parameters of the state are the kernels W, so that
models, evaluation and checkpoints read what they always read. The state also holds W0, D and U, and the
optimizer updates D and U alone; all other parameters stay as they were taken. The gradients of the factors
follow from that of W: dL/dD = dL/dW U^T and dL/dU = D^T dL/dW.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.checkpoints.state_tree import slashed_leaves
from jaxrec.checkpoints.warm_start import matches
from jaxrec.config.schema import Start


class LowRank(NamedTuple):
    """Factors of the adapted kernels; each tree is a part of the tree of the parameters.

    Attributes:
        base: W0 [in, out] of each kernel.
        factors: "down" [in, r] and "up" [r, out] of each kernel.
    """

    base: Any
    factors: Any


def is_low_rank(start: Start) -> bool:
    """Return True if the training state holds factors."""
    return bool(start.workdir) and start.low_rank > 0


def adaptable_names(params: Any) -> list[str]:
    """Return the names of the dense kernels among parameters, sorted: matrices that are no embedding."""
    leaves = slashed_leaves(params)
    return sorted(name for name, x in leaves.items() if x.ndim == 2 and name.endswith("kernel"))


def init_low_rank(start: Start, params: Any, key: jax.Array) -> Any:
    """Return the first factors, whose product is 0; () without low-rank adaptation.

    D is normal with variance 1 / in, U is 0.

    Args:
        start: Settings of the start.
        params: Tree of parameters.
        key: Key of `jax.random`.
    """
    if not is_low_rank(start):
        return ()
    leaves, base, factors = slashed_leaves(params), {}, {}
    for i, name in enumerate(adaptable_names(params)):
        if not matches(name, start.adapt):
            continue
        kernel = leaves[name]
        rows, columns = kernel.shape
        normal = jax.random.normal(jax.random.fold_in(key, i), (rows, start.low_rank), kernel.dtype)
        base[name] = jnp.copy(kernel)
        factors[name] = {
            "down": normal * jnp.asarray(rows**-0.5, kernel.dtype),
            "up": jnp.zeros((start.low_rank, columns), kernel.dtype),
        }
    return LowRank(_nested(base), _nested(factors))


def factor_gradients(gradients: Any, low_rank: LowRank) -> Any:
    """Return the gradients of the factors from those of the kernels.

    Args:
        gradients: Tree of gradients, as the parameters.
        low_rank: The factors.
    """
    of_kernels, factors = slashed_leaves(gradients), _by_kernel(low_rank)
    return _nested(
        {
            name: {"down": of_kernels[name] @ f["up"].T, "up": f["down"].T @ of_kernels[name]}
            for name, f in factors.items()
        }
    )


def merged(params: Any, low_rank: LowRank) -> Any:
    """Return parameters with W0 + D U in place of the adapted kernels; others are unchanged."""
    base, factors = slashed_leaves(low_rank.base), _by_kernel(low_rank)

    def leaf(path: Any, x: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return base[name] + factors[name]["down"] @ factors[name]["up"] if name in base else x

    return jax.tree_util.tree_map_with_path(leaf, params)


def _by_kernel(low_rank: LowRank) -> dict[str, dict[str, jax.Array]]:
    """Return name of a kernel -> its factors."""
    leaves = slashed_leaves(low_rank.factors)
    return {
        name: {part: leaves[f"{name}/{part}"] for part in ("down", "up")}
        for name in slashed_leaves(low_rank.base)
    }


def _nested(by_name: dict[str, Any]) -> dict[str, Any]:
    """Return a tree of dicts from names with slashes."""
    out: dict[str, Any] = {}
    for name, value in by_name.items():
        *parents, last = name.split("/")
        node = out
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return out
