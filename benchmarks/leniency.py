"""A-SFT beside Exp-RSFT at several spreads of the users' leniency, all trainings in one process.

    python -m benchmarks.leniency [--users 20000] [--seeds 3] [--json F]

The rows are those of `--tables weights,premise` of configs/study_post.py. A study starts a process for each
of its 72 trainings, and each process loads jax and compiles its own step. Here the temperature beta is an
input of a step, the service's ratings are an input of a training, and the policies of a seed start from one
imitation, which reads no rating. Leniency changes ratings alone.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks.command import Report, run
from configs import policy, study_post
from jaxrec.config.schema import Config, Simulator
from jaxrec.config.serialization import dataset_directory
from jaxrec.core.ids import TRUTH
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation.truth.of_policy import PolicyRunner, stored_truth
from jaxrec.runtime.mesh import AXIS, replicate
from jaxrec.studies.comparisons import Comparisons
from jaxrec.studies.plan import premise_row
from jaxrec.studies.policies.curves import best_row, points_of
from jaxrec.studies.policies.premises import curve_premise
from jaxrec.studies.tables import text
from jaxrec.studies.tables.policies import premise_lines
from jaxrec.tasks.loading import task_of_dataset
from jaxrec.training.inputs.input_pipeline import count_steps, training_batches
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

PREMISE = study_post.METHODS[0]
CONTROL, WEIGHTED = "bc", "reward"
CURVE = tuple(f"asft_{beta:g}" for beta in study_post.BETAS)  # at the config's own leniency


def _flags() -> None:
    flags.DEFINE_integer("users", 20_000, "users of the service that are trained on", lower_bound=100)
    flags.DEFINE_integer("seeds", 3, "seeds; each has an imitation of its own", lower_bound=1)


@dataclass(eq=False)
class Measured:
    """Values of a policy at the test queries, in the form of `evaluation.per_user.PerUserResults`."""

    workdir: str
    user: np.ndarray  # [Q]
    value: np.ndarray  # [Q]
    result: dict[str, Any]
    columns: tuple[str, ...] = (f"{TRUTH}/value",)

    @cached_property
    def users(self) -> np.ndarray:
        """Numbers of the users, ascending."""
        return np.unique(self.user)

    def of_user(self, column: str) -> np.ndarray:
        """Return the mean values of users."""
        assert column in self.columns
        count = np.bincount(self.user)
        return (np.bincount(self.user, self.value) / np.maximum(count, 1))[self.users]


class Step:
    """Compiled training of an objective on any dataset of one layout, with beta as an input."""

    def __init__(self, config: Config, dataset: Dataset) -> None:
        total, per_epoch = count_steps(config, dataset.rows("train"))
        self.task = task_of_dataset(config, dataset, per_epoch, total)
        self._table = self.task.title_table(dataset.arrays)

        def step(state: Any, host: Any, table: Any, beta: Any) -> Any:
            with_beta = replace(config, post=replace(config.post, beta=beta))
            return TrainStep(replace(self.task, config=with_beta))(state, host, table)

        mapped = jax.vmap(step, in_axes=(None, 0, None, None), out_axes=(None, 0), axis_name=AXIS)
        self._step = jax.jit(mapped, donate_argnums=0)

    def __call__(self, dataset: Dataset, params: Any, beta: float) -> Any:
        """Return the parameters after a training that starts from `params`; None: from nothing."""
        state = StateInit(self.task).init()
        if params is not None:
            taken = {name: params[name] for name in state.params if name in params}
            state = state._replace(params={**state.params, **taken})
        state = jax.tree.map(lambda x: x.copy(), state)
        batches = training_batches(self.task, dataset.rows("train"))
        for number in range(self.task.total_steps):
            state, _ = self._step(state, jax.tree.map(lambda x: x[None], batches[number]), self._table, beta)
        return jax.device_get(state.params)


class Evaluation:
    """Values of policies at the stored queries, which no leniency changes."""

    def __init__(self, task: Any, dataset: Dataset) -> None:
        self._runner = PolicyRunner(task, replicate(task.title_table(dataset.arrays)))
        self._names = [*task.abstract_params]
        self._of_split = {}
        for split in ("validation", "test"):
            truth = stored_truth(dataset, split)
            self._of_split[split] = dataset.rows(split).all()[truth.rows], truth

    def __call__(self, name: str, params: Any) -> Measured:
        own = replicate({key: params[key] for key in self._names})
        of = {split: self._runner(own, *inputs) for split, inputs in self._of_split.items()}
        model = {"kl": float(of["test"].kl.mean()), "value": float(of["test"].value.mean())}
        truth = {"model": model, "validation": {"value": float(of["validation"].value.mean())}}
        user = self._of_split["test"][0]["user"].astype(np.int64)
        return Measured(name, user, of["test"].value, {TRUTH: truth, "dataset": "stored queries"})


def _config(users: int, leniency: float, name: str, seed: int) -> Config:
    """Return the config of a row at a spread of leniency."""
    config = policy.get_config(name)
    assert isinstance(config.source, Simulator)
    config.source.users, config.source.leniency, config.train.seed = users, leniency, seed
    config.train.resident = "never"
    return config


def _dataset(users: int, leniency: float) -> Dataset:
    config = _config(users, leniency, "small", 0)
    ensure_dataset(config, dataset_directory(config))
    return Dataset(dataset_directory(config))


def _rows(value: float, base: float) -> list[str]:
    """Return the rows that are trained at a value of leniency."""
    rows = [*PREMISE.rows]
    return rows if value != base else [*rows, *(r for r in (CONTROL, WEIGHTED, *CURVE) if r not in rows)]


def results_of_seed(users: int, seed: int, datasets: dict[float, Dataset]) -> dict[str, Measured]:
    """Return run -> values of all policies of a seed.

    Args:
        users: Users of the service.
        seed: `train.seed`.
        datasets: Spread of leniency -> dataset.
    """
    base = _config(users, 1.0, "small", seed)
    own = float(base.source.leniency)  # type: ignore[union-attr]
    first = _config(users, own, CONTROL, seed)
    first.optimizer, first.train.duration = base.optimizer, base.train.duration
    imitation = Step(first, datasets[own])
    start = imitation(datasets[own], None, first.post.beta)
    evaluated, steps, out = Evaluation(imitation.task, datasets[own]), {}, {}
    for value, dataset in datasets.items():
        for row in _rows(value, own):
            method, _, beta = row.partition("_") if row.startswith("asft") else (row, "", "")
            if row.startswith("exp_rsft"):
                method, beta = "exp_rsft", row.removeprefix("exp_rsft_")
            if method not in steps:
                steps[method] = Step(_config(users, own, method, seed), datasets[own])
            params = steps[method](dataset, start, float(beta or 1.0))
            name = premise_row(base, PREMISE, row, value)
            out[name] = evaluated(name, params)
            print(name, seed, out[name].result[TRUTH], flush=True)
    return out | {"imitation": evaluated("imitation", start)}


def measure(args: flags.FlagValues) -> dict[str, Any]:
    """Return the premise and the comparisons at the config's own leniency."""
    datasets = {value: _dataset(args.users, value) for value in PREMISE.values}
    by_row: dict[str, Any] = {}
    for seed in range(args.seeds):
        for name, measured in results_of_seed(args.users, seed, datasets).items():
            by_row.setdefault(name, {})[seed] = measured
    comparisons, compare = Comparisons(by_row), {}
    points = points_of(by_row)
    best = best_row(CURVE, points)
    for other in (CONTROL, WEIGHTED, CURVE[0], CURVE[-1]):
        compare[other] = comparisons.compare(best, other, TRUTH, 1, "", "value")
    base = _config(args.users, 1.0, "small", 0)
    rows = {
        name: {seed: run.result[TRUTH] for seed, run in runs.items()} for name, runs in by_row.items()
    }  # fmt: skip
    premise = curve_premise(PREMISE, base, by_row, comparisons)
    return {"users": args.users, "rows": rows, "best": best, "best_less": compare, "premise": premise}


def main(args: flags.FlagValues) -> Report:
    figures = measure(args)
    print("\n".join(premise_lines(figures["premise"])), flush=True)
    best, rows = figures["best"], []
    for other, difference in figures["best_less"].items():
        over = difference["over_users"]
        figure = f"{text.number(over['mean'], '+.4f')} {text.interval(over)}, {difference['verdict']}"
        seeds = f"seeds {text.of_seeds(difference['over_seeds'])}, visible {text.number(over['smallest'])}"
        rows.append((f"{best} less {other}", figure, seeds))
    return Report(f"Values of weighted imitation, {args.users:,} users", figures, rows)


if __name__ == "__main__":
    run(main, _flags)
