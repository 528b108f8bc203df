"""One ranker for three canvases: metrics over all titles by canvas, of the rows of configs/study_unicorn.py.

    python -m benchmarks.unicorn --config configs/study_unicorn.py:small --workdir S [--seeds 5] [--json F]

Trains the rows with each seed, ranks all titles for the test queries, and prints the means by canvas, beside
orders by text, by popularity, by the page's title, and by the truth. The difference of a row from the unified
model is over users, on the queries of both, averaged over the seeds, with a 95% bootstrap interval; `visible`
is the smallest difference that these users show. Finished parts of the workdir are read, not repeated.
"""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from benchmarks.command import Report, run
from benchmarks.slices import difference
from configs.study_unicorn import CANVASES, ONLY, ROWS, UNIFIED
from configs.unicorn import CANVAS
from jaxrec.config.loading import load_file
from jaxrec.config.schema import Config
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
from jaxrec.evaluation.metrics import FULL
from jaxrec.evaluation.references.orders import METRICS, catalogue_orders
from jaxrec.runtime import compilation_cache
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.studies.plan import Study, every_run
from jaxrec.tasks.loading import load_checkpoint
from jaxrec.training.trainer import train

_MODEL = "model"  # name of the order of a model in a result


def _flags() -> None:
    flags.DEFINE_string("config", "configs/study_unicorn.py:small", "study")
    flags.DEFINE_string("workdir", None, "folder of the runs", required=True)
    flags.DEFINE_integer("seeds", 5, "trainings per row", lower_bound=1)
    flags.DEFINE_list("rows", [], "rows to train; empty: all")
    flags.DEFINE_list("tables", [ROWS, ONLY], "tables of the study")


class _Ranks(NamedTuple):
    """Ranks of the targets of test queries.

    Attributes:
        key: [Q] user key and position of each query, as text.
        user: [Q] user keys.
        canvas: [Q] strings.
        ranks: Order -> ranks [Q] float64; NaN without a stored truth.
    """

    key: np.ndarray
    user: np.ndarray
    canvas: np.ndarray
    ranks: dict[str, np.ndarray]


def _dataset_of(config: Config, folder: Path) -> Path:
    """Return the folder of a config's dataset; that of a canvas continues that of all."""
    data, only = copy.deepcopy(config), config.data.only.partition("=")[2]
    widths = sum(f.width for f in config.features)
    imputes = any(f.impute != "null" for f in config.features)
    name = f"data-{widths}{'' if imputes else '-plain'}"
    directory = folder / (f"{name}-{only}" if only else name)
    data.data.continues = str(folder / name) if data.data.continues else ""
    ensure_dataset(data, directory)
    return directory


def _ranks_of(workdir: Path, directory: Path) -> _Ranks:
    """Return the ranks of the test targets by a run and by the orders beside it; a file keeps them."""
    file = workdir / "ranks.npz"
    if not file.exists():
        options = EvaluationOptions(lists=("catalogue",), report_users=0)
        result = evaluate(workdir, options, data=directory)
        loaded, dataset = load_checkpoint(workdir, result.result["which"]), Dataset(str(directory))
        user = result.user_keys[result.rows["user"]].astype(str)
        position = result.rows["position"].astype(str)
        column = dataset.layout.category_column("context", CANVAS)
        names = np.array(["", "", *map(str, dataset.manifest["categories"][CANVAS])])
        orders = catalogue_orders(result, dataset, loaded)
        np.savez(
            file, key=np.char.add(np.char.add(user, " "), position), user=user,
            canvas=names[result.rows["context_categories"][:, column]], orders=np.array([*orders]),
            ranks=np.stack([*orders.values()]),
        )  # fmt: skip
    with np.load(file) as stored:
        ranks = dict(zip(stored["orders"].tolist(), stored["ranks"], strict=True))
        return _Ranks(stored["key"], stored["user"], stored["canvas"], ranks)


def _models(study: Study, folder: Path, args: flags.FlagValues) -> dict[str, list[_Ranks]]:
    """Train the rows and rank; return row -> ranks by seed."""
    out: dict[str, list[_Ranks]] = {}
    for one in every_run(study, tuple(args.tables), args.seeds, folder):
        if args.rows and one.name not in (UNIFIED, *args.rows):
            continue
        directory, done = _dataset_of(one.config, folder), one.workdir / "done"
        if not done.exists():
            train(one.config, Dataset(str(directory)), one.workdir, PreemptionHandler())
            done.touch()
        out.setdefault(one.name, []).append(_ranks_of(one.workdir, directory))
    return out


def _common(one: _Ranks, other: _Ranks) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the queries of both, in the same order."""
    _, first, second = np.intersect1d(one.key, other.key, return_indices=True)
    return first, second


def differences(models: dict[str, list[_Ranks]], metric: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Return row -> canvas -> the difference of a metric from the unified model, on the queries of both."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for name, by_seed in models.items():
        if name == UNIFIED:
            continue
        pairs = [_common(own, whole) for own, whole in zip(by_seed, models[UNIFIED], strict=True)]
        values = [
            FULL[metric](own.ranks[_MODEL][i]) - FULL[metric](whole.ranks[_MODEL][j])
            for own, whole, (i, j) in zip(by_seed, models[UNIFIED], pairs, strict=True)
        ]
        first, at = models[UNIFIED][0], pairs[0][1]
        _, user = np.unique(first.user[at], return_inverse=True)
        for canvas in CANVASES:
            own = first.canvas[at] == canvas
            if own.any():
                out.setdefault(name, {})[canvas] = difference(user, own, values)
    return out


def main(args: flags.FlagValues) -> Report:
    """Train, rank, and compare with the unified model."""
    compilation_cache.enable()
    study, folder = load_file(args.config, Study), Path(args.workdir)
    models = _models(study, folder, args)
    figures: dict[str, Any] = {"seeds": args.seeds, "means": {}, "differences": {}}
    table = []
    orders = {name: (by_seed, _MODEL) for name, by_seed in models.items()}
    orders |= {
        f"order {name}": (models[UNIFIED], name) for name in models[UNIFIED][0].ranks if name != _MODEL
    }
    for canvas in CANVASES:
        for label, (by_seed, order) in orders.items():
            of_canvas = [x.ranks[order][x.canvas == canvas] for x in by_seed]
            known = [ranks[~np.isnan(ranks)] for ranks in of_canvas]
            if not sum(map(len, known)):
                continue
            means = {m: float(np.mean([FULL[m](ranks).mean() for ranks in known])) for m in METRICS}
            figures["means"].setdefault(canvas, {})[label] = means | {"queries": len(known[0])}
            shown = ", ".join(f"{m} {value:.4f}" for m, value in means.items())
            table.append((f"{canvas}, {label} ({len(known[0]):,} queries)", shown, ""))
    figures["differences"] = differences(models, "ndcg@1")
    for name, by_canvas in figures["differences"].items():
        for canvas, d in by_canvas.items():
            interval = f"[{d['low']:+.4f}, {d['high']:+.4f}], visible {d['visible']:.4f}"
            table.append((f"{name} less unified, {canvas}, NDCG@1", f"{d['mean']:+.4f}", interval))
    return Report("One ranker for three canvases", figures, table)


if __name__ == "__main__":
    run(main, _flags)
