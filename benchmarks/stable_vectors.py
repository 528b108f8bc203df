"""Vectors of two trainings that differ by their seed: raw, rotated and stabilised.

    python -m benchmarks.stable_vectors --workdir S [--users 40000] [--width 24] [--epochs 10] [--json F]

A next-item model with a moving average of the parameters is trained on the simulated service with two seeds.
The first run is stabilised like itself, the second like the first one. Finished trainings of the workdir are
read.
"""

from pathlib import Path

from absl import flags

from benchmarks.command import Report, run
from configs import sequences
from jaxrec.analysis.derived.stabilising import stabilise
from jaxrec.config import Config, Expert, Feature, Simulator
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation.evaluator import evaluate
from jaxrec.runtime import compilation_cache
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.training.trainer import train

HEAD = "next_item"


def _flags() -> None:
    flags.DEFINE_string("workdir", None, "folder of the runs, without stabilised ones", required=True)
    flags.DEFINE_integer("users", 40_000, "simulated users", lower_bound=100)
    flags.DEFINE_integer("width", 24, "width of the vectors", lower_bound=4)
    flags.DEFINE_integer("epochs", 10, "epochs of a training", lower_bound=1)


def config_of(users: int, width: int, epochs: int) -> Config:
    """Return the config of both trainings but for the seed; the model reads ids alone."""
    config = sequences.get_config("simulated")
    config.source = Simulator(users=users, test_only_users=1_000, titles=400)
    config.features = (
        Feature("title_id", "category", "title", width=width),
        Feature("genres", "categories", "title", width=8, most=3),
    )
    config.data.max_history, config.model.width, config.model.features = 24, width, ("title_id",)
    config.model.experts = (Expert(24, 1, 2, 2.0, 0.1, "sasrec"),)
    config.optimizer.learning_rate, config.optimizer.ema_decay = 3e-3, 0.999
    config.train.duration, config.train.batch_size = f"{epochs} epochs", 128
    config.evaluate.report, config.evaluate.report_users = False, 0
    return config


def main(args: flags.FlagValues) -> Report:
    """Train twice, stabilise both runs, and compare metrics, cosines and the probe."""
    compilation_cache.enable()
    folder = Path(args.workdir)
    config = config_of(args.users, args.width, args.epochs)
    ensure_dataset(config, folder / "data")
    for seed in (0, 1):
        config.train.seed = seed
        train(config, Dataset(folder / "data"), folder / f"seed-{seed}", PreemptionHandler())
    first, second = folder / "stabilised-0", folder / "stabilised-1"
    stabilise(folder / "seed-0", folder / "seed-0", first, "last")
    result = stabilise(folder / "seed-1", first, second, "last")["heads"][HEAD]
    metrics = [
        evaluate(workdir, which="last").result["catalogue"]["model"]["ndcg@10"]
        for workdir in (folder / "seed-1", second)
    ]
    rows = [("scores kept to", f"{result['score_error']:.1e}", "1e-5")]
    rows.append(("NDCG@10, stabilised", f"{metrics[1]:.6f}", f"{metrics[0]:.6f} before"))
    for name, r2 in result["probe"].items():
        cosine = result["cosine"].get(name, 1.0)
        of_probe = f"R^2 of log plays {r2['plays']:.3f}, of genres {r2['features']:.3f}"
        rows.append((f"cosine, {name}", f"{cosine:.3f}", of_probe))
    return Report("Stable vectors", {"result": result, "ndcg@10": metrics}, rows)


if __name__ == "__main__":
    run(main, _flags)
