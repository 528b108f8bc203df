"""Step rate of the heads alone, three tasks against eight, by trunk.

    python -m benchmarks.trunks [--batch 1024] [--candidates 21] [--titles 5000] [--json F]

A step is the loss of all heads on a batch of user vectors and candidates, and its gradients by parameters,
user vectors and title vectors. The encoder is not part of it: a whole step spends the same time there for any
number of tasks, so its rate with eight tasks is nearer to the rate with three.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.command import Report, run, spread
from benchmarks.measure import interleaved, ratio
from jaxrec.models.heads import MlpHead, ProductFeatures
from jaxrec.models.layers.title_encoder import ProjectedLookup, TitleLookup, TitleProjections
from jaxrec.models.trunks import TITLE_KERNEL, Tower, Trunk

TASKS = (3, 8)
TRUNKS = ("shared", "mmoe", "ple", "ple of 2 levels")
_USER, _TITLE, _HIDDEN = 144, 128, (128, 64)  # about the widths of configs/smoe.py:paper
_EXPERTS, _WIDTH = 4, 64


def _flags() -> None:
    flags.DEFINE_integer("batch", 1024, "users of a step", lower_bound=1)
    flags.DEFINE_integer("candidates", 21, "candidates of a user", lower_bound=1)
    flags.DEFINE_integer("titles", 5_000, "titles", lower_bound=1)
    flags.DEFINE_integer("rounds", 7, "rounds; each times all steps once", lower_bound=1)
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "dtype of the computation")


def step(trunk: str, tasks: int, ids_BxC: jax.Array, dtype: str) -> tuple[Callable, Callable]:
    """Return functions of user vectors and title vectors: parameters, whose shapes count, and a step.

    Args:
        trunk: One of TRUNKS.
        tasks: Number of heads.
        ids_BxC: Candidates of the users.
        dtype: Compute dtype.
    """
    names = tuple(f"task_{i}" for i in range(tasks))
    products = ProductFeatures(dtype, _USER, _TITLE, _HIDDEN[-1])
    widths = (_USER, _TITLE, _HIDDEN[-1])
    kind, levels = trunk.split()[0], 2 if "2" in trunk else 1
    matchers = {name: MlpHead(dtype, name, *widths, _HIDDEN, True) for name in names}
    shared = None if kind == "shared" else Trunk(dtype, names, kind, *widths, _EXPERTS, _WIDTH, levels)
    tower = Tower(dtype, _WIDTH, _HIDDEN, True)
    label_BxC = jnp.zeros(ids_BxC.shape).at[:, 0].set(1.0)

    def init(u: jax.Array, titles_VxF: jax.Array) -> Any:
        titles, key = TitleLookup(titles_VxF, ids_BxC), jax.random.key(0)
        x, p = products.init_with_output(key, u, titles)
        if shared is None:
            heads = {name: m.init(key, u, titles, x)["params"] for name, m in matchers.items()}
            return {"product": p["params"], "heads": heads}
        mixtures, of_trunk = shared.init_with_output(key, u, titles, x)
        towers = {name: tower.init(key, mixtures[name])["params"] for name in names}
        return {"product": p["params"], "trunk": of_trunk["params"], "heads": towers}

    def loss(params: Any, u: jax.Array, titles_VxF: jax.Array) -> jax.Array:
        variables = {name: {"params": tree} for name, tree in params.items()}
        bound = products.bind(variables["product"])
        kernels = {"product": bound.of_title}
        if shared is None:
            for name, m in matchers.items():
                kernels[name] = m.bind({"params": params["heads"][name]}).of_title
        else:
            kernels[TITLE_KERNEL] = shared.bind(variables["trunk"]).of_title
        projected = {name: titles_VxF @ kernel for name, kernel in kernels.items()}  # once a title
        titles = ProjectedLookup(TitleProjections(projected), ids_BxC)
        x = bound(u, titles)
        mixtures = None if shared is None else shared.bind(variables["trunk"])(u, titles, x)
        total = jnp.float32(0)
        for name in names:
            own = {"params": params["heads"][name]}
            if mixtures is None:
                score_BxC = matchers[name].bind(own)(u, titles, x)
            else:
                score_BxC = tower.bind(own)(mixtures[name])
            total += (jax.nn.softplus(score_BxC) - label_BxC * score_BxC).mean()
        return total

    return init, jax.value_and_grad(loss, argnums=(0, 1, 2))


def _finish(compiled: Callable, *inputs: Any) -> None:
    """Run a step to its end."""
    jax.block_until_ready(compiled(*inputs))


def measure(args: flags.FlagValues) -> dict[str, Any]:
    """Return steps per second by trunk and number of tasks, and the rate of eight tasks by that of three."""
    rng = np.random.default_rng(0)
    ids = jnp.asarray(rng.integers(0, args.titles, (args.batch, args.candidates)), jnp.int32)
    u = jnp.asarray(rng.normal(size=(args.batch, _USER)), args.dtype)
    titles = jnp.asarray(rng.normal(size=(args.titles, _TITLE)), args.dtype)
    rivals: dict[str, Callable[[], Any]] = {}
    for trunk in TRUNKS:
        for tasks in TASKS:
            init, one = step(trunk, tasks, ids, args.dtype)
            compiled = jax.jit(one)
            params = jax.tree.map(
                lambda leaf: jnp.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype),
                jax.eval_shape(init, u, titles),
            )
            rivals[f"{trunk}, {tasks} tasks"] = partial(_finish, compiled, params, u, titles)
    times = interleaved(rivals, args.rounds)
    few, many = TASKS
    return {
        "batch": args.batch,
        "candidates": args.candidates,
        "titles": args.titles,
        "dtype": args.dtype,
        "steps_per_second": {name: timing.rate(1) for name, timing in times.items()},
        "of_three": {
            trunk: ratio(times[f"{trunk}, {few} tasks"], times[f"{trunk}, {many} tasks"]) for trunk in TRUNKS
        },
    }


def main(args: flags.FlagValues) -> Report:
    figures = measure(args)
    rows = []
    for name, rate in figures["steps_per_second"].items():
        trunk, _, tasks = name.partition(", ")
        share = spread(figures["of_three"][trunk])
        compared = f"{share} of the rate of {TASKS[0]} tasks" if tasks.startswith(str(TASKS[1])) else ""
        rows.append((name, spread(rate, "steps/s"), compared))
    title = f"Heads on {args.batch:,} users with {args.candidates} candidates of {args.titles:,} titles"
    return Report(f"{title}, {args.dtype}", figures, rows)


if __name__ == "__main__":
    run(main, _flags)
