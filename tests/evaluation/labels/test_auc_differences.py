"""AUC of a head in several runs: paired resamples, made once for each run."""

import numpy as np
import pytest

from jaxrec.core.errors import InputError
from jaxrec.evaluation.labels import differences
from jaxrec.evaluation.labels.bootstrap import resample
from jaxrec.evaluation.labels.predictions import HeadPredictions, order_estimators

USERS, QUERIES, REPLICATES = 30, 400, 50


class Run:
    """Run with the fields that `auc_differences` reads."""

    def __init__(self, seed: int, labels_of: int = 0) -> None:
        self.workdir = f"run {seed}"
        labels = np.random.default_rng(labels_of)
        self.query_users = labels.integers(0, USERS, QUERIES)
        label, known = labels.integers(0, 2, QUERIES).astype(float), labels.random(QUERIES) < 0.8
        score = np.random.default_rng(seed).normal(size=QUERIES) + label
        self._predictions = HeadPredictions("bce", score, label, known)

    def predictions(self, head: str) -> HeadPredictions:
        assert head == "thumb"
        return self._predictions


def test_pairs_have_the_same_resamples_of_users():
    runs = [Run(seed) for seed in (1, 2)]
    [(first, second)] = differences.auc_differences([runs[0]], [runs[1]], "thumb", REPLICATES)["auc"]
    users, index = np.unique(runs[0].query_users, return_inverse=True)
    estimators = {}
    for i, run in enumerate(runs):  # both in one resampling
        score, label, known = (getattr(run.predictions("thumb"), x) for x in ("prediction", "label", "known"))
        orders = order_estimators(score[known], label[known], index[known], len(users))
        estimators[i] = orders["auc"]
    together = resample(estimators, len(users), int(known.sum()), REPLICATES)
    np.testing.assert_array_equal(first.replicates, together[0].replicates)
    np.testing.assert_array_equal(second.replicates, together[1].replicates)
    assert (first.value, second.value) == (together[0].value, together[1].value)


def test_a_run_is_resampled_once_however_often_it_is_compared(monkeypatch):
    runs, calls = [Run(seed) for seed in range(4)], []
    monkeypatch.setattr(differences, "resample", lambda *x, **kw: calls.append(1) or resample(*x, **kw))
    alone = differences.mean_auc(runs[:1], "thumb")["auc"]
    for other in runs[1:]:
        [(first, _)] = differences.auc_differences(runs[:1], [other], "thumb")["auc"]
        np.testing.assert_array_equal(first.replicates, alone.replicates)
    assert len(calls) == len(runs)


def test_other_labels_are_refused():
    with pytest.raises(InputError, match="its queries differ"):
        differences.auc_differences([Run(1)], [Run(2, labels_of=5)], "thumb")
    run = Run(2)
    run._predictions = run._predictions._replace(label=1 - run._predictions.label)
    with pytest.raises(InputError, match="predicts another label"):
        differences.auc_differences([Run(1)], [run], "thumb")
