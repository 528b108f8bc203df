"""Heads of labels on exposures, with each exposure's own history and with the user's first one.

    python -m benchmarks.first_history --workdirs W1,W2 [--split test] [--json F]

Within a user the exposures differ in their histories: a like is in the history of all later exposures, and
not in its own. A model that reads earlier likes thus orders the exposures of a user the wrong way round, as
the rate of the user does, whatever it has learned of titles. With the history of the user's first exposure in
the split for all of them, the exposures of a user differ in titles and context alone, as the titles of a page
do.

The AUC over all users, and the mean AUC in users, have 95% intervals by bootstrap over users. Runs after the
first are compared with it on the same resamples; all must have the same queries. Each run is evaluated on the
dataset of its own config.
"""

from typing import Any

import numpy as np
from absl import flags

from benchmarks.command import Report, run
from jaxrec.config.serialization import dataset_directory
from jaxrec.core.errors import InputError
from jaxrec.data.storage.dataset import Dataset, SelectedRows
from jaxrec.evaluation.labels.bootstrap import Resampled, resample
from jaxrec.evaluation.labels.estimators import Auc, Estimator, grouped_auc
from jaxrec.evaluation.labels.of_heads import predict_labels
from jaxrec.evaluation.labels.predictions import HeadPredictions
from jaxrec.runtime import mesh
from jaxrec.tasks.loading import load_checkpoint

HISTORIES = ("own", "first")
REPLICATES = 200  # resamples of the users, as of the baselines of labels
Predicted = dict[str, dict[str, HeadPredictions]]  # history -> head -> predictions


def _flags() -> None:
    flags.DEFINE_list("workdirs", [], "runs on exposures, whose best checkpoints are evaluated")
    flags.DEFINE_enum("split", "test", ["validation", "test"], "split of the exposures")


def with_first_history(rows: np.ndarray) -> np.ndarray:
    """Return rows [N] of exposures with the history of the first row of each user.

    Args:
        rows: Rows sorted by user, then time.
    """
    first = np.searchsorted(rows["user"], rows["user"])
    out = rows.copy()
    for name in (name for name in rows.dtype.names or () if name.startswith("history_")):
        out[name] = rows[name][first]
    return out


def predict(workdir: str, split: str) -> tuple[Predicted, np.ndarray]:
    """Return the predictions of a run by history, and the user [N] of each row.

    Raises:
        InputError: The run does not train on exposures, or its checkpoint or dataset is missing.
    """
    loaded = load_checkpoint(workdir, "best")
    if loaded.config.data.examples != "impressions":
        raise InputError(f"workdir {workdir!r}: allowed: a run with data.examples='impressions'")
    dataset = Dataset(dataset_directory(loaded.config))
    rows = dataset.rows(split).all()
    params, table = (mesh.replicate(tree) for tree in (loaded.params, dataset.arrays.title_table()))
    of_history = dict(zip(HISTORIES, (rows, with_first_history(rows)), strict=True))
    by_history = {
        name: predict_labels(loaded.task, params, table, SelectedRows(selected))
        for name, selected in of_history.items()
    }
    return by_history, rows["user"].astype(np.int64)


def measure(by_history: Predicted, user: np.ndarray) -> dict[tuple[str, str, str], Resampled]:
    """Return metrics: (head, history, "AUC" or "AUC in users") -> value and resamples."""
    users = int(user.max()) + 1
    estimators: dict[tuple[str, str, str], Estimator] = {}
    for history, heads in by_history.items():
        for head, predicted in heads.items():
            known = predicted.known
            of_queries = predicted.prediction[known], predicted.label[known], user[known]
            estimators[head, history, "AUC"] = Auc(*of_queries)
            estimators[head, history, "AUC in users"] = grouped_auc(*of_queries, users)
    return resample(estimators, users, len(user), REPLICATES)


def _text(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{value:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"


def main(args: flags.FlagValues) -> Report:
    if not args.workdirs:
        raise InputError("--workdirs=; allowed: one workdir or several, separated by commas")
    measured: dict[str, dict[tuple[str, str, str], Resampled]] = {}
    first: np.ndarray | None = None
    for workdir in args.workdirs:
        by_history, user = predict(workdir, args.split)
        first = user if first is None else first
        if not np.array_equal(user, first):
            raise InputError(f"workdir {workdir!r}: its queries are not those of {args.workdirs[0]!r}")
        measured[workdir] = measure(by_history, user)
    rows, figures = [], dict[str, Any]()
    base = measured[args.workdirs[0]]
    for key in sorted({key for values in measured.values() for key in values}):
        for workdir in (w for w in args.workdirs if key in measured[w]):
            value, compared = measured[workdir][key], ""
            if workdir != args.workdirs[0] and key in base:
                change = Resampled(value.value - base[key].value, value.replicates - base[key].replicates)
                compared = _text(change.value, *change.interval, "+")
            name = f"{key[0]}, {key[1]} history, {key[2]}, {workdir}"
            figures[name] = {"value": value.value, "interval": value.interval}
            rows.append((name, _text(value.value, *value.interval), compared))
    return Report(f"Heads on the {args.split} exposures, by history", {"metrics": figures}, rows)


if __name__ == "__main__":
    run(main, _flags)
