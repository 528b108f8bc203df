"""Value of a policy along post-training: under the truth, and under the reward models that it is trained by.

    python -m benchmarks.along --objective ppo --start BC --dataset D [--raters W] [--every 50] [--figure F]

BC is a run of configs/policy.py:small, and D its dataset; for dpo and ipo D is what `python -m jaxrec.pairs`
wrote. A policy exploits its reward models where their value rises while the true value falls. `raters` is a
run with other reward models, by which the policy is not trained.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks.command import Report, run
from configs import policy
from jaxrec.analysis.reward_models import RewardValues
from jaxrec.core.json_io import write_text
from jaxrec.data.loading.left_out import left_out_titles
from jaxrec.data.storage.dataset import Dataset
from jaxrec.data.storage.evaluation_arrays import TruthArrays
from jaxrec.evaluation.truth.of_policy import PolicyRunner, stored_truth
from jaxrec.reporting.pages import figures
from jaxrec.runtime.mesh import AXIS, replicate
from jaxrec.tasks.base import Task
from jaxrec.tasks.loading import load_checkpoint, task_of_dataset
from jaxrec.training.inputs.input_pipeline import count_steps, training_batches
from jaxrec.training.starting import read_start
from jaxrec.training.train_state import StateInit, TrainState
from jaxrec.training.train_step import TrainStep

_SHOWN = 0.02  # fall of the true value from its peak that counts


def _flags() -> None:
    flags.DEFINE_enum("objective", "ppo", [*policy.OBJECTIVES], "config of configs/policy.py")
    flags.DEFINE_string("start", None, "run that the training starts from", required=True)
    flags.DEFINE_string("dataset", None, "dataset of the training", required=True)
    flags.DEFINE_string("raters", "", "run with other reward models; empty: none")
    flags.DEFINE_integer("every", 50, "steps between two measurements", lower_bound=1)
    flags.DEFINE_integer("steps", 700, "steps of the training", lower_bound=1)
    flags.DEFINE_integer("queries", 512, "test queries at which policies are measured", lower_bound=1)
    flags.DEFINE_string("figure", "", "SVG file of the values by step; empty: none")


def training(task: Task, dataset: Dataset, every: int) -> Iterator[tuple[int, TrainState]]:
    """Yield the state before the first step and after each `every` steps, with the number of steps."""
    init = StateInit(task)
    state = read_start(task, dataset, init.abstract()).apply(init.init())
    batches = training_batches(task, dataset.rows("train"))
    mapped = jax.vmap(TrainStep(task), in_axes=(None, 0, None), out_axes=(None, 0), axis_name=AXIS)
    step, table = jax.jit(mapped), task.title_table(dataset.arrays)
    for number in range(task.total_steps + 1):
        if number % every == 0:
            yield number, state
        if number < task.total_steps:
            state, _ = step(state, jax.tree.map(lambda x: np.asarray(x)[None], batches[number]), table)


def measure(args: flags.FlagValues) -> dict[str, Any]:
    """Return the values by step."""
    config, dataset = policy.get_config(args.objective), Dataset(args.dataset)
    config.start.workdir, config.data.directory = args.start, args.dataset
    config.train.duration, config.train.resident = f"{args.steps} steps", "never"
    task = task_of_dataset(config, dataset, count_steps(config, dataset.rows("train"))[1], args.steps)
    truth = TruthArrays(*(array[: args.queries] for array in stored_truth(dataset, "test")))
    rows = dataset.rows("test").all()[truth.rows]
    left_out = left_out_titles(dataset, "test", rows, "all", truth.rows)
    runner = PolicyRunner(task, replicate(task.title_table(dataset.arrays)))
    runs = {"own": args.start, **({"raters": args.raters} if args.raters else {})}
    of_rewards = {
        name: RewardValues(task, load_checkpoint(workdir, "last"), dataset, rows, left_out)
        for name, workdir in runs.items()
    }
    columns: dict[str, list[float]] = {name: [] for name in ("step", "value", "kl", *of_rewards)}
    for number, state in training(task, dataset, args.every):
        params = replicate(state.params)
        values = runner(params, rows, truth)
        columns["step"].append(number)
        columns["value"].append(float(values.value.mean()))
        columns["kl"].append(float(values.kl.mean()))
        for name, of_policy in of_rewards.items():
            columns[name].append(float(of_policy(params)[0].mean()))
    value, own = np.array(columns["value"]), np.array(columns["own"])
    peak = int(value.argmax())
    fall, rise = value[peak] - value[-1], own[-1] - own[peak]
    verdict = "shown" if fall >= _SHOWN and rise > 0 else "not shown"
    summary = {"fall": float(fall), "rise": float(rise), "peak_step": columns["step"][peak]}
    return {"objective": args.objective, "columns": columns, "verdict": verdict, **summary}


def _figure(columns: dict[str, list[float]]) -> str:
    """Return the figure: rewards of 1 to 5 are shown on the scale of the truth."""
    labels = {"value": "true value", "own": "own reward models, (r - 1) / 4", "raters": "others, (r - 1) / 4"}
    series = [
        figures.Series(
            label, [x if name == "value" else (x - 1) / 4 for x in columns[name]], at=columns["step"]
        )
        for name, label in labels.items()
        if name in columns
    ]
    return figures.curves(series, "step", "value")


def main(args: flags.FlagValues) -> Report:
    result = measure(args)
    columns = result["columns"]
    if args.figure:
        write_text(Path(args.figure), _figure(columns))
    rows = [
        (f"step {step}", f"true value {columns['value'][i]:.4f}, KL {columns['kl'][i]:.3f}",
         ", ".join(f"{name} {columns[name][i]:.3f}" for name in ("own", "raters") if name in columns))
        for i, step in enumerate(columns["step"])
    ]  # fmt: skip
    rows.append(("a fall of the true value", f"{result['fall']:.4f} from step {result['peak_step']}",
                 f"own reward models {result['rise']:+.3f}: {result['verdict']}"))  # fmt: skip
    return Report(f"Values along {args.objective}", result, rows)


if __name__ == "__main__":
    run(main, _flags)
