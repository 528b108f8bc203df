"""Step rate with three tasks against eight, by trunk: of the heads alone, and of whole training steps.

    python -m benchmarks.trunks [--batch 1024] [--candidates 21] [--titles 5000] [--json F]
    python -m benchmarks.trunks --whole [--batch 256] [--config configs/smoe.py:small] [--json F]

Without `--whole` a step is the loss of all heads on a batch of user vectors and candidates, and its gradients
by parameters, user vectors and title vectors. The encoder is not part of it.

With `--whole` a step is that of training, with its input: three tasks are those of the paper, and eight have
five more, which predict whether a play reaches a completion. Both read the same rows of the simulated
service.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import step_parts
from benchmarks.command import Report, run, spread
from benchmarks.measure import interleaved, ratio
from benchmarks.step import directory, settings
from jaxrec.config.schema import Head, Label
from jaxrec.config.validation import check
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.models.heads import MlpHead, ProductFeatures
from jaxrec.models.layers.title_encoder import ProjectedLookup, TitleLookup, TitleProjections
from jaxrec.models.trunks import TITLE_KERNEL, Tower, Trunk
from jaxrec.tasks.loading import task_of_dataset

TASKS = (3, 8)
COMPLETIONS = (0.1, 0.3, 0.5, 0.7, 0.9)  # labels of the five tasks more of whole steps
_STEPS = 16  # least number of a call
_ENDLESS = 10**6  # steps of a run that does not end
TRUNKS = ("shared", "mmoe", "ple", "ple of 2 levels")
_USER, _TITLE, _HIDDEN = 144, 128, (128, 64)  # about the widths of configs/smoe.py:paper
_EXPERTS, _WIDTH = 4, 64

Calls = dict[str, tuple[Callable[[], Any], int]]  # trunk and tasks -> a call, and its number of steps


def _flags() -> None:
    flags.DEFINE_integer("batch", 1024, "users, or examples, of a step", lower_bound=1)
    flags.DEFINE_boolean("whole", False, "time whole training steps")
    flags.DEFINE_string("config", "configs/smoe.py:small", "config of whole steps; three tasks are its own")
    flags.DEFINE_integer("users", 20_000, "users of the simulated service, for whole steps", lower_bound=1)
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


def _of_heads(args: flags.FlagValues) -> Calls:
    """Return a call of the heads alone by trunk and number of tasks."""
    rng = np.random.default_rng(0)
    ids = jnp.asarray(rng.integers(0, args.titles, (args.batch, args.candidates)), jnp.int32)
    u = jnp.asarray(rng.normal(size=(args.batch, _USER)), args.dtype)
    titles = jnp.asarray(rng.normal(size=(args.titles, _TITLE)), args.dtype)
    rivals: Calls = {}
    for trunk in TRUNKS:
        for tasks in TASKS:
            init, one = step(trunk, tasks, ids, args.dtype)
            compiled = jax.jit(one)
            params = jax.tree.map(
                lambda leaf: jnp.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype),
                jax.eval_shape(init, u, titles),
            )
            rivals[f"{trunk}, {tasks} tasks"] = partial(_finish, compiled, params, u, titles), 1
    return rivals


def _of_steps(args: flags.FlagValues, rows: str) -> Calls:
    """Return a call of whole steps by trunk and number of tasks, on rows that are written to `rows`."""
    config = settings(args.config, rows, args.dtype, args.users)
    config.labels = tuple(
        Label(f"at_{100 * at:.0f}", "at_least", at=at, of_drawn="unknown") for at in COMPLETIONS
    )
    check(config)
    ensure_dataset(config, rows)
    dataset, rivals = Dataset(rows), Calls()
    table = dataset.arrays.title_table()
    for trunk in TRUNKS:
        kind: Any = trunk.split()[0]
        levels = 2 if "2" in trunk else 1
        for tasks in TASKS:
            one = copy.deepcopy(config)
            one.train.batch_size, one.model.trunk, one.model.trunk_levels = args.batch, kind, levels
            labels = one.labels[: max(tasks - TASKS[0], 0)]
            one.objective.heads = tuple(Head(label.name, label.name) for label in labels)
            steps = dataset.manifest["splits"]["train"]["examples"] // args.batch
            run_steps, together = step_parts.ours(
                task_of_dataset(one, dataset, steps, _ENDLESS), table, dataset.rows("train")
            )
            together *= -(-_STEPS // together)
            run_steps(together)  # compiles
            rivals[f"{trunk}, {tasks} tasks"] = partial(run_steps, together), together
    return rivals


def measure(args: flags.FlagValues) -> dict[str, Any]:
    """Return steps per second by trunk and number of tasks, and the rate of eight tasks by that of three."""
    few, many = TASKS
    with directory("") as rows:
        rivals = _of_steps(args, rows) if args.whole else _of_heads(args)
        times = interleaved({name: call for name, (call, _) in rivals.items()}, args.rounds)
    return {
        "batch": args.batch,
        "dtype": args.dtype,
        **({"config": args.config} if args.whole else {"candidates": args.candidates, "titles": args.titles}),
        "steps_per_second": {name: timing.rate(rivals[name][1]) for name, timing in times.items()},
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
    if args.whole:
        title = f"Training steps of {args.config} on {args.batch:,} examples"
    else:
        title = f"Heads on {args.batch:,} users with {args.candidates} candidates of {args.titles:,} titles"
    return Report(f"{title}, {args.dtype}", figures, rows)


if __name__ == "__main__":
    run(main, _flags)
