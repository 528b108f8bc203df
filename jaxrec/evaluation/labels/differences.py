"""Paired differences of AUC between runs that predict the same labels of the same queries."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.evaluation import statistics
from jaxrec.evaluation.labels.bootstrap import REPLICATES, Resampled, resample
from jaxrec.evaluation.labels.predictions import ORDERS, REGRESSION_LOSS, order_estimators

if TYPE_CHECKING:
    from jaxrec.evaluation.per_user import PerUserResults

# Run -> (head, number of resamples) -> its AUC.
_RESAMPLED: WeakKeyDictionary["PerUserResults", dict[tuple[str, int], dict[str, Resampled]]] = (
    WeakKeyDictionary()
)


def ordering_heads(run: "PerUserResults") -> list[str]:
    """Return the heads of a run that have an AUC: all that predict a label, but not by squared error."""
    by_head = run.result.get("labels", {})
    return [head for head in run.label_heads if by_head.get(head, {}).get("loss") != REGRESSION_LOSS]


def auc_differences(
    first: Sequence["PerUserResults"],
    second: Sequence["PerUserResults"],
    head: str,
    replicates: int = REPLICATES,
) -> dict[str, list[tuple[Resampled, Resampled]]]:
    """Return the AUC of a head in pairs of runs, on the same bootstrap resamples of the users.

    Args:
        first: Runs of one system, one per seed, on the same users as those of `second`.
        second: Runs of the other, with the same seeds.
        head: Name of the head, which every run has.
        replicates: Number of resamples.

    Returns:
        "auc" and "gauc" -> for each pair, the AUC of the first run and of the second.

    Raises:
        InputError: Two runs differ in queries, or the head predicts another label.
    """
    runs = [*first, *second]
    for run in runs:
        _check_same_labels(run, runs[0], head)
    values = [_resampled_orders(run, head, replicates) for run in runs]
    return {
        metric: [(values[i][metric], values[len(first) + i][metric]) for i in range(len(first))]
        for metric in ORDERS
    }


def _resampled_orders(run: "PerUserResults", head: str, replicates: int) -> dict[str, Resampled]:
    """Return "auc" and "gauc" of a head of a run, kept while the run is: a table compares it with many.

    Runs on the same users have the same resamples.
    """
    kept = _RESAMPLED.setdefault(run, {})
    if (head, replicates) not in kept:
        of_run, known = run.predictions(head), run.predictions(head).known
        users, index = np.unique(run.query_users, return_inverse=True)
        estimators = order_estimators(of_run.prediction[known], of_run.label[known], index[known], len(users))
        kept[head, replicates] = resample(estimators, len(users), int(known.sum()), replicates)
    return kept[head, replicates]


def mean_auc(runs: Sequence["PerUserResults"], head: str) -> dict[str, Resampled]:
    """Return the mean AUC of a head over runs, which may have tested different users.

    Args:
        runs: Runs of one system, with different seeds or on different folds of the users.
        head: Name of the head, which every run has.

    Returns:
        "auc" and "gauc" -> mean over the runs of the values, and of the values on each resample.
    """
    each: dict[str, list[Resampled]] = {metric: [] for metric in ORDERS}
    for run in runs:
        for metric, value in _resampled_orders(run, head, REPLICATES).items():
            each[metric].append(value)
    return {
        metric: Resampled(
            float(np.mean([value.value for value in values])),
            np.mean([value.replicates for value in values], axis=0),
        )
        for metric, values in each.items()
    }


def check_same_queries(first: "PerUserResults", second: "PerUserResults") -> None:
    """Check that two runs were evaluated on the same queries, in the same order.

    Raises:
        InputError: They were not.
    """
    if not np.array_equal(first.query_users, second.query_users):
        raise InputError(
            f"{second.workdir}: its queries differ from the queries of {first.workdir}; evaluate both again"
        )


def _check_same_labels(run: "PerUserResults", like: "PerUserResults", head: str) -> None:
    """Check that two runs predict the same labels of the same queries by a head.

    Raises:
        InputError: They do not.
    """
    check_same_queries(like, run)
    own, other = run.predictions(head), like.predictions(head)
    if not (np.array_equal(own.known, other.known) and np.array_equal(own.label, other.label)):
        raise InputError(
            f"{run.workdir}: its head {head!r} predicts another label than that of {like.workdir}; allowed: "
            "heads of one name that predict one label"
        )


def compared(pairs: Sequence[tuple[Resampled, Resampled]], users: int) -> statistics.Paired:
    """Return the statistics over users of the mean difference of pairs of AUC, the first minus the second.

    Args:
        pairs: From `auc_differences`.
        users: Number of users.
    """
    difference = float(np.mean([first.value - second.value for first, second in pairs]))
    replicates = np.mean([first.replicates - second.replicates for first, second in pairs], axis=0)
    return statistics.resampled(difference, replicates, Resampled(difference, replicates).interval, users)


def compare_labels(first: "PerUserResults", second: "PerUserResults") -> dict[str, Any]:
    """Compare the AUC of each head that both runs have: the first minus the second.

    Returns:
        "auc/<head>" and "gauc/<head>" -> `first`, `second` and the statistics over `users`, as JSON values.

    Raises:
        InputError: As `auc_differences`.
    """
    out = {}
    for head in ordering_heads(first):
        if head not in ordering_heads(second):
            continue
        for metric, (pair,) in auc_differences([first], [second], head).items():
            out[f"{metric}/{head}"] = {
                "first": pair[0].value,
                "second": pair[1].value,
                "users": compared([pair], len(first.users)).to_json(),
            }
    return out
