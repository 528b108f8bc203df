"""Quality of slices: a global model, its rivals and mixtures, by country and by country and tenure.

    python -m benchmarks.slices --config configs/study_slices.py:small --workdir S [--seeds 3] [--json F]

Trains the rows of the study with each seed, mixes them by form, evaluates all on the test users of one
dataset, and prints, for the small countries together and for each country, the difference from the global
model: means of users over the seeds, with a 95% bootstrap interval over users. `regret` of a slice is the
learned mixture's metric minus the global model's; the oracle's regret is the truth. Their rank correlation
over the slices of country and tenure has an interval from resampled users. Finished parts of the workdir are
read, not repeated.
"""

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.command import Report, run
from configs.study_slices import GLOBAL, SMALL_COUNTRIES, slice_feature
from jaxrec.analysis.derived.gates import FORMS, Form
from jaxrec.analysis.derived.mixtures import mix
from jaxrec.config.loading import load_file
from jaxrec.config.schema import Config
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset, Rows
from jaxrec.evaluation.metrics import METRICS
from jaxrec.evaluation.results import model_ranks
from jaxrec.evaluation.scorers import ListScorer
from jaxrec.evaluation.slices.results import oracle_values, user_means
from jaxrec.evaluation.slices.slicing import Slicing, slice_queries
from jaxrec.evaluation.statistics import bootstrap, over_seeds, smallest_difference
from jaxrec.runtime import compilation_cache
from jaxrec.runtime.mesh import replicate
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.studies.plan import Study, apply_edits, every_run
from jaxrec.tasks.loading import default_checkpoint, load_checkpoint
from jaxrec.training.trainer import train

METRIC = "enabled/ndcg@1"
_RESAMPLES = 300


def _flags() -> None:
    flags.DEFINE_string("config", "configs/study_slices.py:small", "study")
    flags.DEFINE_string("workdir", None, "folder of the runs", required=True)
    flags.DEFINE_integer("seeds", 3, "trainings per row", lower_bound=1)
    flags.DEFINE_integer("queries", 0, "test queries, the first by a hash of the user; 0: all")
    flags.DEFINE_list(
        "adapted", [], "countries, such as MX,IN,NZ, whose rows are trained; whole fine-tuning is mixed"
    )
    flags.DEFINE_float("taste", None, "source.country_taste of the simulated service; unset: the config's")


def _dataset_of(config: Config, folder: Path) -> Dataset:
    """Return the dataset of a config, that of all users or that of a slice which continues it."""
    data = copy.deepcopy(config)
    name = data.data.only.partition("=")[2]
    directory = folder / f"data-{name}" if name else folder / "data"
    data.data.continues = str(folder / "data") if name else ""
    ensure_dataset(data, directory)
    return Dataset(directory)


def _models(
    study: Study, folder: Path, seeds: int, adapted: tuple[str, ...], by: tuple[str, ...]
) -> dict[str, list[Path]]:
    """Train the rows and mix them; return row or form -> workdirs by seed."""
    tables = (*study.default, *(f"only {name}" for name in adapted))
    out: dict[str, list[Path]] = {}
    for one in every_run(study, tables, seeds, folder):
        done = one.workdir / "done"
        if not done.exists():
            train(one.config, _dataset_of(one.config, folder), one.workdir, PreemptionHandler())
            done.touch()
        out.setdefault(one.name, []).append(one.workdir)
    tuned = [f"whole_{name}" for name in adapted]
    members = [GLOBAL, *tuned] if tuned else [*out]
    mixtures: dict[str, tuple[Form, list[str]]] = {
        f"mixture, {form}": (form, members) for form in FORMS if form != "average"
    }
    mixtures |= {
        f"average, {name}": ("average", [GLOBAL, name]) for name in tuned or ["strata"] if name in out
    }
    for label, (form, names) in mixtures.items():
        for seed in range(seeds):
            folder_of_form = f"{label.replace(', ', '-')}-{len(names)}"
            workdir = folder / "mixtures" / folder_of_form / f"seed-{seed}"
            if not (workdir / "mixture.json").exists():
                shutil.rmtree(workdir, ignore_errors=True)
                report = mix(tuple(out[name][seed] for name in names), by, workdir, form)
                (workdir / "mixture.json").write_text(json.dumps(report))
            out.setdefault(label, []).append(workdir)
    return out


def _values(workdir: Path, rows: Rows) -> dict[str, np.ndarray]:
    """Return the metrics [Q] of a model on the frozen lists by column; a file in the workdir keeps them."""
    file = workdir / f"values-{rows.rows}.npz"
    if not file.exists():
        loaded = load_checkpoint(workdir, default_checkpoint(workdir))
        scorer = ListScorer(loaded.task, replicate(loaded.arrays.title_table()), False, 1)
        lists = loaded.task.protocols().lists
        ranks = model_ranks(scorer(loaded.params, rows).scores, rows.all()[: rows.rows], lists)
        columns = {f"{name}/{m}": f(ranks[name]) for name in lists for m, f in METRICS.items()}
        np.savez(file, names=np.array([*columns]), values=np.stack([*columns.values()]))
    with np.load(file) as stored:
        return dict(zip(stored["names"].tolist(), stored["values"], strict=True))


def difference(user: np.ndarray, own: np.ndarray, by_seed: list[np.ndarray]) -> dict[str, Any]:
    """Return the mean difference over users of a slice, its intervals, and what would be visible.

    Args:
        user: [Q] users.
        own: [Q] bool, the slice.
        by_seed: Differences [Q] of each seed.
    """
    per_seed = [user_means(user[own], {"d": d[own]})["d"] for d in by_seed]
    users = np.mean(per_seed, axis=0)
    low, high = bootstrap(users)
    sd = float(users.std(ddof=1)) if len(users) > 1 else float("nan")
    seeds = over_seeds(np.array([x.mean() for x in per_seed]))
    return {
        "users": len(users), "mean": float(users.mean()), "low": low, "high": high,
        "visible": smallest_difference(sd, len(users)), "seeds": seeds._asdict(),
    }  # fmt: skip


def _slices(study: Study, rows: np.ndarray, data: Dataset) -> tuple[Slicing, Slicing]:
    """Return the slices by country, or page, and those of the diagnosis."""
    feature = slice_feature(study.base)
    fine = "country*tenure" if feature == "country" else "tab"
    names = (feature, fine) if fine != feature else (feature,)
    slicings = slice_queries(names, rows, data.layout, data.manifest["categories"])
    return slicings[0], slicings[-1]


def _rank(x: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(x, axis=-1), axis=-1).astype(float)


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the rank correlations [...] of x and y [..., slices]."""
    a, b = (_rank(v) - (v.shape[-1] - 1) / 2 for v in (x, y))
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def diagnosis(slicing: Slicing, user: np.ndarray, regret: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Return the rank correlation of two regrets over slices, with an interval over users.

    Args:
        slicing: The slices.
        user: [Q] users.
        regret: [Q] regret against another model.
        truth: [Q] regret against the oracle.
    """
    means = []
    for i in range(len(slicing.names)):
        own = slicing.group == i
        of_users = user_means(user[own], {"r": regret[own], "t": truth[own]})
        means.append(np.stack([of_users["r"], of_users["t"]], axis=1))
    rng, replicates = np.random.default_rng(0), []
    for _ in range(_RESAMPLES):
        drawn = np.array([x[rng.integers(0, len(x), len(x))].mean(0) for x in means])
        replicates.append(_spearman(drawn[:, 0], drawn[:, 1]))
    of_all = np.array([x.mean(0) for x in means])
    low, high = np.quantile(replicates, [0.025, 0.975])
    return {
        "slices": slicing.names, "users": [len(x) for x in means], "regret": of_all[:, 0].tolist(),
        "oracle_regret": of_all[:, 1].tolist(), "low": float(low), "high": float(high),
        "spearman": float(_spearman(of_all[:, 0], of_all[:, 1])),
    }  # fmt: skip


def main(args: flags.FlagValues) -> Report:
    """Train, mix, evaluate, and compare with the global model."""
    compilation_cache.enable()
    study, folder = load_file(args.config, Study), Path(args.workdir)
    if args.taste is not None:
        study.base = apply_edits(study.base, study.base.name, {"source.country_taste": args.taste})
    data = _dataset_of(study.base, folder)
    feature = slice_feature(study.base)
    by = ("country", "history", "tenure") if feature == "country" else ("tab", "history")
    models = _models(study, folder, args.seeds, tuple(args.adapted), by)
    on_disk = data.rows("test").head(args.queries or data.rows("test").rows)
    rows = on_disk.all()[: on_disk.rows]
    values = {name: [_values(workdir, on_disk) for workdir in workdirs] for name, workdirs in models.items()}
    broad, fine = _slices(study, rows, data)
    user, base = rows["user"], [x[METRIC] for x in values[GLOBAL]]
    small = np.isin(broad.group, [broad.names.index(n) for n in SMALL_COUNTRIES if n in broad.names])
    groups: Mapping[str, np.ndarray] = {"all": np.ones(len(rows), bool)} | (
        {"small countries": small} if small.any() else {}
    )
    groups = {**groups, **{name: broad.group == i for i, name in enumerate(broad.names)}}
    figures: dict[str, Any] = {"metric": METRIC, "seeds": args.seeds, "taste": args.taste, "differences": {}}
    table = []
    for name, of_name in values.items():
        mean = float(np.mean([user_means(user, {"x": x[METRIC]})["x"].mean() for x in of_name]))
        figures.setdefault("means", {})[name] = mean
        if name == GLOBAL:
            table.append((f"{name}: {METRIC}", f"{mean:.4f}", ""))
            continue
        differences = [x[METRIC] - y for x, y in zip(of_name, base, strict=True)]
        for group, own in groups.items():
            of_group = difference(user, own, differences)
            figures["differences"].setdefault(name, {})[group] = of_group
            interval = f"[{of_group['low']:+.4f}, {of_group['high']:+.4f}], visible {of_group['visible']:.4f}"
            table.append((f"{name} less global, {group} ({of_group['users']:,} users)",
                          f"{of_group['mean']:+.4f}", interval))  # fmt: skip
    oracle = oracle_values(rows, (METRIC.partition("/")[0],), False).get(METRIC, np.empty(0))
    if len(oracle) and "mixture, learned" in values:
        learned = [x[METRIC] for x in values["mixture, learned"]]
        regret = np.mean([x - y for x, y in zip(learned, base, strict=True)], axis=0)
        figures["diagnosis"] = diagnosis(fine, user, regret, oracle - np.mean(base, axis=0))
        d = figures["diagnosis"]
        table.append((f"Spearman of regret with the oracle's over {len(fine.names)} slices",
                      f"{d['spearman']:.2f}", f"[{d['low']:.2f}, {d['high']:.2f}]"))  # fmt: skip
    return Report("Slices", figures, table)


if __name__ == "__main__":
    run(main, _flags)
