"""AUC of early labels, and what a model adds to it."""

import numpy as np
import pytest

from jaxrec.core.row_format import Layout
from jaxrec.evaluation.labels.observed import gain_over, gain_to_json, mean_gain, observed_labels
from jaxrec.evaluation.labels.predictions import HeadPredictions


def naive_auc(score, label):
    above, below = score[label == 1][:, None], score[label == 0][None]
    return ((above > below) + 0.5 * (above == below)).mean()


@pytest.fixture
def head():
    rng = np.random.default_rng(1)
    label = (rng.random(300) < 0.3).astype(np.float32)
    prediction = (label + rng.normal(size=300)).astype(np.float32)
    return HeadPredictions("bce", prediction, label, rng.random(300) < 0.8)


def test_the_gain_is_the_difference_of_both_auc_on_the_known_labels(head):
    rng, known = np.random.default_rng(2), head.known
    early = np.round(head.label * 0.5 + rng.random(300), 1)
    result = gain_over(head, early, np.arange(300) // 3, replicates=50)
    alone = naive_auc(early[known], head.label[known])
    assert result.observed.value == pytest.approx(alone)
    assert result.gain.value == pytest.approx(naive_auc(head.prediction[known], head.label[known]) - alone)
    assert result.gain.replicates.std() > 0.01
    # a model that is the early label adds nothing, on each resample
    same = gain_over(head, head.prediction, np.arange(300) // 3, replicates=50)
    assert same.gain.value == 0 and not same.gain.replicates.any()


def test_the_mean_of_runs_is_taken_resample_by_resample(head):
    early, user = head.label + np.arange(300) % 2, np.arange(300) // 3
    one, two = (gain_over(head, early * sign, user, replicates=20) for sign in (1, -1))
    mean = mean_gain([one, two])
    np.testing.assert_allclose(mean.gain.replicates, (one.gain.replicates + two.gain.replicates) / 2)
    assert gain_to_json(mean)["auc"]["value"] == pytest.approx(0.5)  # an order and its reverse


def test_an_unknown_early_label_counts_as_0():
    layout = Layout(9, 8, 2, (0, 0, 0, 0), 0, (), labels=("month", "day"))
    rows = np.zeros(3, layout.row_dtype())
    rows["label"][:, 0, 1], rows["label_known"][:, 0] = [0.5, 0.25, 1.0], [2, 1, 3]
    config = type("Config", (), {"observed_labels": [type("Feature", (), {"name": "day"})]})
    assert observed_labels(config, rows, layout)["day"].tolist() == [0.5, 0.0, 1.0]
