"""One ranker for several canvases: metrics by canvas of the rows of configs/study_unicorn.py.

    python -m benchmarks.unicorn --config configs/study_unicorn.py:small --workdir S [--seeds 5] [--json F]
    python -m benchmarks.unicorn --config configs/study_unicorn.py:reduced --workdir S --finished
    JAXREC_KUAIRAND=DIR python -m benchmarks.unicorn --config configs/study_unicorn.py:kuairand --workdir S

Trains the rows with each seed, ranks all titles for the test queries, and prints the means by canvas, beside
orders by text, by popularity, by the page's title, and by the truth. Searches are also ranked by their text
itself (`benchmarks.search_orders`), and by kind of negative. The difference of two rows is over users, on the
queries and the seeds of both, averaged over the seeds, with a 95% bootstrap interval; `visible` is the
smallest difference that these users show. Finished parts of the workdir are read, not repeated.
"""

import copy
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from benchmarks.command import Report, run
from benchmarks.search_orders import (
    SERVED,
    collisions,
    ranks_by_negatives,
    ranks_of_service,
    search_orders,
    searches,
    source_of,
)
from benchmarks.slices import difference
from configs.study_unicorn import CANVASES, ONLY, ROWS, UNIFIED, canvases_of
from configs.unicorn import QUERY
from jaxrec.config.loading import load_file
from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.ids import CATALOGUE
from jaxrec.data.loading.left_out import left_out_titles
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
from jaxrec.evaluation.metrics import FULL
from jaxrec.evaluation.references.orders import METRICS, catalogue_orders
from jaxrec.runtime import compilation_cache
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.studies.plan import Study, every_run
from jaxrec.tasks.loading import default_checkpoint, load_checkpoint
from jaxrec.training.trainer import train

_MODEL, _ORACLE = "model", "oracle"  # names of orders in a result
_SEARCH = "search"
_COMPARED = ("ndcg@1", "mrr@100")  # metrics of differences
_MARGIN = 0.005  # by which one model may be below a model of one canvas
_STAGES = (("nobody", "segments"),)  # further pairs of rows; every row is compared with the unified model


def _flags() -> None:
    flags.DEFINE_string("config", "configs/study_unicorn.py:small", "study")
    flags.DEFINE_string("workdir", None, "folder of the runs", required=True)
    flags.DEFINE_integer("seeds", 5, "trainings per row", lower_bound=1)
    flags.DEFINE_list("rows", [], "rows to train; empty: all")
    flags.DEFINE_list("tables", [ROWS, ONLY], "tables of the study")
    flags.DEFINE_bool("finished", False, "report on the finished runs of the workdir, and train none")


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


_BySeed = dict[int, _Ranks]
_Searched = dict[str, np.ndarray]  # what -> ranks of the targets of searches


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


def _ranks_of(workdir: Path, directory: Path, context: str) -> _Ranks:
    """Return the ranks of the test targets by a run and by the orders beside it; a file keeps them.

    Args:
        workdir: Folder of the run.
        directory: Its dataset.
        context: Context that is the canvas.
    """
    file = workdir / "ranks.npz"
    if not file.exists():
        options = EvaluationOptions(lists=(CATALOGUE,), report_users=0)
        result = evaluate(workdir, options, data=directory)
        loaded, dataset = load_checkpoint(workdir, result.result["which"]), Dataset(str(directory))
        user = result.user_keys[result.rows["user"]].astype(str)
        position = result.rows["position"].astype(str)
        column = dataset.layout.category_column("context", context)
        names = np.array(["", "", *map(str, dataset.manifest["categories"][context])])
        orders = catalogue_orders(result, dataset, loaded)
        np.savez(
            file, key=np.char.add(np.char.add(user, " "), position), user=user,
            canvas=names[result.rows["context_categories"][:, column]], orders=np.array([*orders]),
            ranks=np.stack([*orders.values()]),
        )  # fmt: skip
    with np.load(file) as stored:
        ranks = dict(zip(stored["orders"].tolist(), stored["ranks"], strict=True))
        return _Ranks(stored["key"], stored["user"], stored["canvas"], ranks)


def _search_ranks(workdir: Path, directory: Path, config: Config, row: np.ndarray) -> dict[str, np.ndarray]:
    """Return the ranks of the targets of the searches `row`, by text and by negatives; a file keeps them."""
    file = workdir / "searches_served.npz"
    if not file.exists():
        dataset, loaded = Dataset(str(directory)), load_checkpoint(workdir, default_checkpoint(workdir))
        rows, source = dataset.rows("test").all(), source_of(config)
        left_out = left_out_titles(dataset, "test", rows, config.evaluate.seen)
        made = searches(source, QUERY, dataset, row, left_out)
        by_text = {name: x[made.row] for name, x in search_orders(made, source, dataset).items()}
        negatives = ranks_by_negatives(made, loaded, dataset)
        by_text[SERVED] = ranks_of_service(made, source, loaded, dataset, workdir)
        ranks = by_text | {f"against {name}": x for name, x in negatives.items()}
        np.savez(file, names=np.array([*ranks]), ranks=np.stack([*ranks.values()]))
    with np.load(file) as stored:
        return dict(zip(stored["names"].tolist(), stored["ranks"], strict=True))


def _models(study: Study, folder: Path, args: flags.FlagValues) -> tuple[dict[str, _BySeed], list[_Searched]]:
    """Train the rows and rank; return row -> seed -> ranks, and the unified models' searches by seed."""
    out, searched, (context, _) = dict[str, _BySeed](), list[_Searched](), canvases_of(study.base)
    for one in every_run(study, tuple(args.tables), args.seeds, folder):
        if args.rows and one.name not in (UNIFIED, *args.rows):
            continue
        if args.finished and not (one.workdir / "ranks.npz").exists():
            continue
        directory, done = _dataset_of(one.config, folder), one.workdir / "done"
        if not done.exists():
            train(one.config, Dataset(str(directory)), one.workdir, PreemptionHandler())
            done.touch()
        ranks = out.setdefault(one.name, {})[one.seed] = _ranks_of(one.workdir, directory, context)
        if one.name == UNIFIED and any(f.name == QUERY for f in one.config.features):
            row = np.flatnonzero(ranks.canvas == _SEARCH)
            searched.append(_search_ranks(one.workdir, directory, one.config, row))
    if not out.get(UNIFIED):
        raise InputError(
            f"--workdir={folder}: no finished run of {UNIFIED!r}; allowed: the folder of a study with one"
        )
    return out, searched


def _common(one: _Ranks, other: _Ranks) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the queries of both, in the same order."""
    _, first, second = np.intersect1d(one.key, other.key, return_indices=True)
    return first, second


def differences(
    models: dict[str, _BySeed], metric: str, against: str = UNIFIED, canvases: Sequence[str] = CANVASES
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return row -> canvas -> the difference of a metric from another row, on the queries of both."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for name, by_seed in models.items():
        seeds = sorted(by_seed.keys() & models[against].keys())
        if name == against or not seeds:
            continue
        own, whole = ([models[row][seed] for seed in seeds] for row in (name, against))
        i, j = _common(own[0], whole[0])  # all seeds have the same queries
        values = [
            FULL[metric](x.ranks[_MODEL][i]) - FULL[metric](y.ranks[_MODEL][j])
            for x, y in zip(own, whole, strict=True)
        ]
        _, user = np.unique(whole[0].user[j], return_inverse=True)
        for canvas in canvases:
            is_own = whole[0].canvas[j] == canvas
            if is_own.any():
                out.setdefault(name, {})[canvas] = difference(user, is_own, values)
    return out


def verdict(name: str, d: dict[str, Any]) -> str:
    """Return what the interval of a row's difference from another row shows.

    A model of one canvas may be above the unified model by `_MARGIN`; a row that lacks a part is below.
    """
    margin = _MARGIN if name.startswith(("single_", "third_")) else 0.0
    claim = f"not above by {margin:g}" if margin else "lower"
    if d["high"] < margin:
        return f"{claim}: shown"
    return f"{claim}: refuted" if d["low"] > margin else f"{claim}: undecided"


def _means(ranks: list[np.ndarray]) -> dict[str, float]:
    """Return the metrics of ranks by seed, averaged over the seeds."""
    return {m: float(np.mean([FULL[m](x).mean() for x in ranks])) for m in METRICS} | {
        "queries": len(ranks[0])
    }


def _seeds(of_each: Sized) -> str:
    return f"{len(of_each)} seed" + "s" * (len(of_each) > 1)


def _line(what: str, means: dict[str, float]) -> tuple[str, str, str]:
    shown = ", ".join(f"{m} {means[m]:.4f}" for m in METRICS)
    return f"{what} ({means['queries']:,} queries)", shown, ""


def means_by_canvas(
    models: dict[str, _BySeed], canvases: Sequence[str] = CANVASES
) -> dict[str, dict[str, dict[str, float]]]:
    """Return canvas -> row, or order of all titles -> metrics and number of queries."""
    first = next(iter(models[UNIFIED].values()))
    orders = [name for name in first.ranks if name != _MODEL and not name.startswith(f"{_MODEL}_")]
    out: dict[str, dict[str, dict[str, float]]] = {}
    for canvas in canvases:
        of_canvas = out.setdefault(canvas, {})
        for name, by_seed in models.items():
            ranks = [x.ranks[_MODEL][x.canvas == canvas] for x in by_seed.values()]
            if len(ranks[0]):
                of_canvas[f"{name}, {_seeds(ranks)}"] = _means(ranks)
        own = first.canvas == canvas
        for name in orders:
            known = own & ~np.isnan(first.ranks[name])
            if known.any():
                of_canvas[f"order {name}"] = _means([first.ranks[name][known]])
        if _ORACLE in orders:  # the truth of a part of the queries is stored
            known = own & ~np.isnan(first.ranks[_ORACLE])
            ranks = [x.ranks[_MODEL][known] for x in models[UNIFIED].values()]
            if known.any():
                of_canvas[f"{UNIFIED}, queries of the oracle"] = _means(ranks)
    return out


def main(args: flags.FlagValues) -> Report:
    """Train, rank, and compare with the unified model."""
    compilation_cache.enable()
    study, folder = load_file(args.config, Study), Path(args.workdir)
    models, searched = _models(study, folder, args)
    _, canvases = canvases_of(study.base)
    means = means_by_canvas(models, canvases)
    for name in searched[0] if searched else ():
        means[_SEARCH][f"order {name}" if "against" not in name else f"{UNIFIED} {name}"] = _means(
            [of_seed[name] for of_seed in searched]
        )
    table = [
        _line(f"{canvas}, {name}", x) for canvas, by_name in means.items() for name, x in by_name.items()
    ]
    figures: dict[str, Any] = {"seeds": args.seeds, "means": means, "differences": {}}
    every = {name: UNIFIED for name in models if name != UNIFIED}
    pairs = [*every.items(), *(pair for pair in _STAGES if {*pair} <= models.keys())]
    for name, against in pairs:
        for metric in _COMPARED:
            two = {row: models[row] for row in (name, against)}
            for canvas, d in differences(two, metric, against, canvases).get(name, {}).items():
                conclusion = verdict(name, d)
                what = f"{name} less {against}, {canvas}, {metric}, {_seeds(two[name])}"
                figures["differences"][what] = d | {"verdict": conclusion}
                interval = f"[{d['low']:+.4f}, {d['high']:+.4f}], visible {d['visible']:.4f}"
                low, high = d["seeds"]["interval"]
                if d["seeds"]["n"] > 1:
                    interval += f", over seeds [{low:+.4f}, {high:+.4f}]"
                table.append((what, f"{d['mean']:+.4f}", f"{interval}; {conclusion}"))
    if searched:
        names = source_of(study.base).titles().features["name"]
        figures["collisions"] = alike = collisions(np.asarray(names))
        what = f"names, of {alike['names']:,}, whose n-grams are those of another"
        table.append((what, f"{alike['same']:.2%}", f"all among those of another: {alike['within']:.2%}"))
    return Report(f"One ranker for {len(canvases)} canvases", figures, table)


if __name__ == "__main__":
    run(main, _flags)
