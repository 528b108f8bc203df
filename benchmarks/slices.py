"""Quality of slices: a global model, its rivals and mixtures, by country and by country and tenure.

    python -m benchmarks.slices --config configs/study_slices.py:small --workdir S [--seeds 3] [--json F]

Trains the rows of the study with each seed, mixes them by form, evaluates all on the test users of one
dataset, and prints, for the small countries together and for each country, the difference from the global
model: means of users over the seeds, with a 95% bootstrap interval over users. The learned mixture is also
compared with the uniform one, which gains by averaging alone.

`regret` of a slice is the metric of a reference minus the global model's. References are the learned mixture,
which has seen the same users, and a model that was trained on more users; the oracle's regret is the truth.
Their rank correlation over the slices of country and tenure has an interval from resampled users. Finished
parts of the workdir are read, not repeated.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import scipy  # which loads its parts where they are first used
from absl import flags

from benchmarks.command import Report, run
from configs.study_slices import FULLER, GLOBAL, SMALL_COUNTRIES, slice_feature
from jaxrec.analysis.derived.gates import FORMS, Form
from jaxrec.analysis.derived.mixtures import mix
from jaxrec.config.loading import load_file
from jaxrec.config.schema import Config
from jaxrec.config.serialization import dataset_directory
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
from jaxrec.studies.plan import Study, apply_edits, every_run, variants
from jaxrec.tasks.loading import default_checkpoint, load_checkpoint
from jaxrec.training.trainer import train

METRIC = "enabled/ndcg@1"
LEARNED, UNIFORM = "mixture, learned", "mixture, uniform"
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


def _dataset_of(config: Config) -> Dataset:
    """Return the dataset of a config, prepared where it is not there."""
    directory = dataset_directory(config)
    ensure_dataset(config, directory)
    return Dataset(directory)


def _models(
    study: Study, folder: Path, seeds: int, adapted: tuple[str, ...], by: tuple[str, ...]
) -> dict[str, list[Path]]:
    """Train the rows and mix them; return row or form -> workdirs by seed."""
    tables = (*study.default, *(f"only {name}" for name in adapted))
    if FULLER in {table.name for table in study.tables}:
        tables = (*tables, FULLER)
    out: dict[str, list[Path]] = {}
    for one in every_run(study, tables, seeds, folder):
        done = one.workdir / "done"
        if not done.exists():
            train(one.config, _dataset_of(one.config), one.workdir, PreemptionHandler())
            done.touch()
        out.setdefault(one.name, []).append(one.workdir)
    tuned = [f"whole_{name}" for name in adapted]
    members = [GLOBAL, *tuned] if tuned else [name for name in out if name != FULLER]
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
        replicates.append(scipy.stats.spearmanr(drawn).statistic)
    of_all = np.array([x.mean(0) for x in means])
    low, high = np.quantile(replicates, [0.025, 0.975])
    return {
        "slices": slicing.names, "users": [len(x) for x in means], "regret": of_all[:, 0].tolist(),
        "oracle_regret": of_all[:, 1].tolist(), "low": float(low), "high": float(high),
        "spearman": float(scipy.stats.spearmanr(of_all).statistic),
    }  # fmt: skip


def _groups(broad: Slicing) -> dict[str, np.ndarray]:
    """Return masks [Q]: of all queries, of the small countries together, and of each slice."""
    groups = {"all": np.ones(len(broad.group), bool)}
    small = np.isin(broad.group, [broad.names.index(n) for n in SMALL_COUNTRIES if n in broad.names])
    if small.any():
        groups["small countries"] = small
    return groups | {name: broad.group == i for i, name in enumerate(broad.names)}


def main(args: flags.FlagValues) -> Report:
    """Train, mix, evaluate, and compare with the global model."""
    compilation_cache.enable()
    study, folder = load_file(args.config, Study), Path(args.workdir)
    if args.taste is not None:
        study.base = apply_edits(study.base, study.base.name, {"source.country_taste": args.taste})
    study.base.data.directory = str((folder / "data").resolve())
    data = _dataset_of(study.base)
    feature = slice_feature(study.base)
    by = ("country", "history", "tenure") if feature == "country" else ("tab", "history")
    models = _models(study, folder, args.seeds, tuple(args.adapted), by)
    if FULLER in models:  # whose training users are test users of the other rows
        data = _dataset_of(variants(study, (FULLER,))[FULLER].config)
    on_disk = data.rows("test").head(args.queries or data.rows("test").rows)
    rows = on_disk.all()[: on_disk.rows]
    values = {
        name: [_values(workdir, on_disk)[METRIC] for workdir in workdirs] for name, workdirs in models.items()
    }
    broad, fine = _slices(study, rows, data)
    user, groups = rows["user"], _groups(broad)
    figures: dict[str, Any] = {"metric": METRIC, "seeds": args.seeds, "taste": args.taste}
    figures |= {"means": {}, "differences": {}, "diagnosis": {}}
    table = []
    for name, of_name in values.items():
        mean = float(np.mean([user_means(user, {"x": x})["x"].mean() for x in of_name]))
        figures["means"][name] = mean
        table.append((f"{name}: {METRIC}", f"{mean:.4f}", ""))
    for name, other in [*((name, GLOBAL) for name in values if name != GLOBAL), (LEARNED, UNIFORM)]:
        differences = [x - y for x, y in zip(values[name], values[other], strict=True)]
        of_groups = {group: difference(user, own, differences) for group, own in groups.items()}
        figures["differences"][f"{name} less {other}"] = of_groups
        for group, of_group in of_groups.items():
            interval = f"[{of_group['low']:+.4f}, {of_group['high']:+.4f}], visible {of_group['visible']:.4f}"
            label = f"{name} less {other}, {group} ({of_group['users']:,} users)"
            table.append((label, f"{of_group['mean']:+.4f}", interval))
    oracle = oracle_values(rows, (METRIC.partition("/")[0],), False).get(METRIC)
    if oracle is not None:
        base = np.mean(values[GLOBAL], axis=0)
        for name in (n for n in (LEARNED, FULLER) if n in values):
            d = diagnosis(fine, user, np.mean(values[name], axis=0) - base, oracle - base)
            figures["diagnosis"][name] = d
            label = f"Spearman of the regret against {name} with the oracle's over {len(fine.names)} slices"
            table.append((label, f"{d['spearman']:.2f}", f"[{d['low']:.2f}, {d['high']:.2f}]"))
            for i in np.argsort(d["oracle_regret"])[::-1]:
                label = f"{d['slices'][i]} ({d['users'][i]:,} users): regret against {name}"
                table.append((label, f"{d['regret'][i]:+.4f}", f"to the oracle {d['oracle_regret'][i]:+.4f}"))
    return Report("Slices", figures, table)


if __name__ == "__main__":
    run(main, _flags)
