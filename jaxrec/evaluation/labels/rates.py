"""Baselines of predicted labels: the rate of the title, the rate of the user, and a logistic of both.

A label counts as a share of a positive in [0, 1] (`predictions.as_positive`). A rate is smoothed towards the
mean m of the known labels of the training targets, with a prior that counts as a labels:

    rate = (positives + a m) / (known + a),

the mean of a beta posterior. For each head and rate, a is the value of `STRENGTHS` with the lowest log loss
of the validation rows.

Title: the known labels of all training targets of the title. A title without one has the rate m.

User: the known labels of earlier rows of the user in the split of the query. A row does not store its time,
but the dataset stores the times of held-out queries, in seconds. Earlier is a row whose request, window of
the label and one second for the rounding end by the time of the query, so that its label is final then. In a
split by users, held-out users have no other rows. In the other splits, training rows of the user are not
read, so that the rate has fewer labels than the log. A query without earlier rows has the rate m.

Within a user this rate orders queries the wrong way round, even where the user's taste never changes: a
positive raises the rate of the queries after it, and is not in its own. So its AUC in users is below 1/2, and
near 0 for rare labels. Most pairs of its AUC over all users are of two users, which do not have this defect.

Both: p = sigmoid(l + b0 + b1 (t - l) + b2 (u - l)) with l = logit(m) and the logits t and u of the two rates.
The coefficients maximize the posterior of the validation rows, whose prior is normal with the means (0, 1, 1)
and variance 1: without rows they multiply the odds of independent evidence. An evaluation of the validation
split thus measures the three coefficients, and the strengths, on the rows that chose them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxrec.config.declarations import Head
from jaxrec.config.heads import head_values, labels_read
from jaxrec.config.schema import Config
from jaxrec.core.row_format import Layout
from jaxrec.data.labels.tables import window_ms
from jaxrec.data.storage.dataset import Dataset, Rows
from jaxrec.data.storage.row_blocks import row_blocks
from jaxrec.evaluation.labels.estimators import probability
from jaxrec.evaluation.labels.predictions import (
    REGRESSION_LOSS,
    HeadPredictions,
    as_positive,
    label_metrics,
)

TITLE_RATE, USER_RATE, BOTH = "title_rate", "user_rate", "both"
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0)  # labels that a prior counts as
VALIDATION = "validation"
REPLICATES = 200  # resamples of the users; a head has 1,000, and there are three baselines for each
_STEPS, _CONVERGED = 100, 1e-9


class Labels(NamedTuple):
    """Labels of the targets of rows: `label` in [0, 1], 0 where unknown, and `known` bool, of one shape."""

    label: np.ndarray
    known: np.ndarray


class RateCounts(NamedTuple):
    """Known labels of each group, such as a title: the sum of the `positives`, and how many are `known`."""

    positives: np.ndarray
    known: np.ndarray

    def mean(self) -> float:
        """Return the mean of all known labels, with half a positive and half a negative added."""
        return float((self.positives.sum() + 0.5) / (self.known.sum() + 1.0))

    def smoothed(self, mean: float, strength: float) -> np.ndarray:
        """Return the logits [N] of the smoothed rates; `mean` is between 0 and 1."""
        rate = (self.positives + strength * mean) / (self.known + strength)
        return np.log(rate) - np.log1p(-rate)


class QueryCounts(NamedTuple):
    """Known labels, at each query of a split, of its title in training and of its user before the query."""

    title: RateCounts
    user: RateCounts


def labels_of(head: Head, rows: np.ndarray, config: Config, layout: Layout) -> Labels:
    """Return the labels [N, K] of the targets of rows for a head; absent targets are unknown.

    Args:
        head: Head of a label or a reward.
        rows: [N] rows of examples.
        config: Config of the run.
        layout: Layout of the rows.
    """
    value, is_known = head_values(head.of, rows["label"], rows["label_known"], config, layout.labels, np)
    is_known = is_known & (rows["target"] > 0)
    return Labels(as_positive(np.where(is_known, value, 0.0)), is_known)


def window_seconds(head: Head, config: Config) -> int:
    """Return the seconds after a request until the label of a head is final, rounded up."""
    return max(-(-int(window_ms(label.hours)) // 1_000) for label in labels_read(head.of, config))


def count_titles(
    training: Rows, titles: int, of_heads: Sequence[Callable[[np.ndarray], Labels]]
) -> list[RateCounts]:
    """Count the known labels of the training targets of each title, [titles].

    Args:
        training: Training rows, which are read a few blocks at a time.
        titles: Number of titles.
        of_heads: For each head, a function from rows [N] to their labels [N, K].
    """
    totals = [RateCounts(np.zeros(titles), np.zeros(titles)) for _ in of_heads]
    for rows in row_blocks(training):
        for total, of_head in zip(totals, of_heads, strict=True):
            label, known = of_head(rows)
            title = rows["target"][known]
            total.positives[:] += np.bincount(title, label[known], titles)
            total.known[:] += np.bincount(title, minlength=titles)
    return totals


def count_earlier(user: np.ndarray, time: np.ndarray, labels: Labels, window: int) -> RateCounts:
    """Count, at each of Q queries, the known labels of the user's rows that are final by then.

    Args:
        user: [Q] user of each row.
        time: [Q] seconds of its request, rounded down.
        labels: [Q] labels.
        window: Seconds after a request until its label is final.
    """
    _, person = np.unique(user, return_inverse=True)
    second = time.astype(np.int64) + 1  # from 1, so that 0 is before all rows
    span = int(second.max(initial=0)) + 1
    last = second - min(window, span) - 1  # both times are rounded down: one second more
    key = person * span + second
    order = np.argsort(key, kind="stable")
    key = key[order]
    begin = np.searchsorted(key, person * span)
    end = np.searchsorted(key, person * span + np.maximum(last, 0), side="right")

    def between(weights: np.ndarray) -> np.ndarray:
        total = np.append(0.0, np.cumsum(weights[order], dtype=np.float64))
        return total[end] - total[begin]

    return RateCounts(between(np.where(labels.known, labels.label, 0.0)), between(labels.known))


def best_strength(counts: RateCounts, mean: float, labels: Labels) -> float:
    """Return the value of `STRENGTHS` whose rates have the lowest log loss; the first without known labels.

    Args:
        counts: [Q] counts at the validation rows.
        mean: Mean of the training labels.
        labels: [Q] labels of the validation rows.
    """
    label, known = labels.label[labels.known], labels.known
    losses = [_loss(counts.smoothed(mean, strength)[known], label) for strength in STRENGTHS]
    return STRENGTHS[int(np.argmin(losses))]


def _loss(logit: np.ndarray, label: np.ndarray) -> float:
    """Return the negative log likelihood of labels in [0, 1]."""
    return float((np.logaddexp(0.0, logit) - label * logit).sum())


def fit_logistic(columns: np.ndarray, label: np.ndarray, prior: np.ndarray, offset: float) -> np.ndarray:
    """Return the coefficients [D] of a logistic regression with a normal prior, by Newton's method.

    The prior, of variance 1, gives the objective one minimum, also where columns are dependent or the labels
    are separated. A step is halved until it does not raise the objective.

    Args:
        columns: [N, D] explanatory variables, a column of ones for an intercept among them.
        label: [N] labels in [0, 1].
        prior: [D] means of the prior.
        offset: Logit of a row with the coefficients 0.

    Raises:
        RuntimeError: It does not converge.
    """

    def objective(b: np.ndarray) -> float:
        return _loss(offset + columns @ b, label) + float((b - prior) @ (b - prior)) / 2

    b = prior.astype(np.float64)
    value = objective(b)
    for _ in range(_STEPS):
        p = probability(offset + columns @ b)
        slope = columns.T @ (p - label) + (b - prior)
        curvature = (columns * (p * (1.0 - p))[:, None]).T @ columns + np.eye(len(b))
        step = np.linalg.solve(curvature, slope)
        if slope @ step <= _CONVERGED:  # about twice the distance from the minimum
            return b
        while (lower := objective(b - step)) > value and np.abs(step).max() > _CONVERGED:
            step = step / 2
        b, value = b - step, lower
    raise RuntimeError(f"a logistic regression of {len(label):,} rows did not converge in {_STEPS} steps")


def predict(
    queries: QueryCounts, mean: float, validation: QueryCounts, labels: Labels
) -> dict[str, np.ndarray]:
    """Return the logits [Q] of each baseline.

    Args:
        queries: RateCounts at the queries.
        mean: Mean of the training labels.
        validation: RateCounts at the validation rows.
        labels: Labels of the validation rows.
    """
    offset = float(np.log(mean) - np.log1p(-mean))
    strengths = [best_strength(counts, mean, labels) for counts in validation]
    fitted, predicted = (
        [counts.smoothed(mean, strength) for counts, strength in zip(side, strengths, strict=True)]
        for side in (validation, queries)
    )

    def columns(logits: list[np.ndarray]) -> np.ndarray:
        return np.stack([np.ones(len(logits[0])), *(logit - offset for logit in logits)], axis=1)

    known = labels.known
    b = fit_logistic(columns(fitted)[known], labels.label[known], np.array([0.0, 1.0, 1.0]), offset)
    return {TITLE_RATE: predicted[0], USER_RATE: predicted[1], BOTH: offset + columns(predicted) @ b}


class _HeldOut(NamedTuple):
    """Rows of a held-out split: user, second and title [Q] of each query, and its labels for each head."""

    user: np.ndarray
    time: np.ndarray
    title: np.ndarray
    labels: list[Labels]


def _held_out(
    dataset: Dataset, split: str, of_heads: Sequence[Callable[[np.ndarray], Labels]]
) -> _HeldOut | None:
    """Return what baselines read of a split; None where the dataset stores no times of its queries."""
    seen = dataset.seen_titles(split)
    if seen is None:
        return None
    rows = dataset.rows(split).all()
    labels = [Labels(*(array[:, 0] for array in of_head(rows))) for of_head in of_heads]
    return _HeldOut(rows["user"].copy(), seen.query_time, rows["target"][:, 0].copy(), labels)


def baseline_predictions(
    config: Config, dataset: Dataset, split: str, heads: Mapping[str, HeadPredictions]
) -> dict[str, dict[str, HeadPredictions]]:
    """Return the predictions of each baseline for the label of each head that is not of squared error.

    Args:
        config: Config of the run, with its labels and rewards.
        dataset: Dataset of the queries, whose training rows are read.
        split: Split of the queries, which is held out.
        heads: Predictions of the heads for all rows of the split.

    Returns:
        Baseline -> head -> logits. Empty without such a head, where the dataset stores no times, and for
        sequences, whose heads do not know the title.
    """
    declared = [
        head
        for head in config.objective.heads
        if head.name in heads and heads[head.name].loss != REGRESSION_LOSS
    ]
    if not declared or dataset.layout.rows == "next_item":
        return {}
    of_heads = [partial(labels_of, head, config=config, layout=dataset.layout) for head in declared]
    queries = _held_out(dataset, split, of_heads)
    validation = queries if split == VALIDATION else _held_out(dataset, VALIDATION, of_heads)
    if queries is None or validation is None:
        return {}
    out: dict[str, dict[str, HeadPredictions]] = {}
    totals = count_titles(dataset.rows("train"), dataset.layout.num_titles, of_heads)
    for i, (head, total) in enumerate(zip(declared, totals, strict=True)):
        window = window_seconds(head, config)
        counts = [
            QueryCounts(
                RateCounts(*(count[rows.title] for count in total)),
                count_earlier(rows.user, rows.time, rows.labels[i], window),
            )
            for rows in (queries, validation)
        ]
        logits = predict(counts[0], total.mean(), counts[1], validation.labels[i])
        of_model = heads[head.name]
        for name, logit in logits.items():
            out.setdefault(name, {})[head.name] = of_model._replace(
                loss="bce", prediction=logit.astype(np.float32)
            )
    return out


def baseline_metrics(
    config: Config, dataset: Dataset, split: str, heads: Mapping[str, HeadPredictions], user: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Return the metrics of each baseline: baseline -> head -> metrics, as of `label_metrics`.

    Args:
        config, dataset, split, heads: As for `baseline_predictions`.
        user: [Q] user of each query.
    """
    predictions = baseline_predictions(config, dataset, split, heads)
    return {name: label_metrics(by_head, user, REPLICATES) for name, by_head in predictions.items()}
