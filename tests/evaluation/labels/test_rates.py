"""Rates of titles and users as baselines of labels: by hand, and against loops over rows."""

import numpy as np
import pytest

from jaxrec.config import Config, Head, Label, Reward, Term
from jaxrec.core.row_format import Layout
from jaxrec.data.storage.dataset import BLOCK_ROWS, SelectedRows
from jaxrec.evaluation.labels import rates
from jaxrec.evaluation.labels.rates import Labels, QueryCounts, RateCounts

LABELS = (Label("thumb", "last", hours=2), Label("saved", "happened", hours=1 / 3600))
TARGETS = 3


def make_config(*heads, **fields):
    config = Config(labels=LABELS, **fields)
    config.objective.heads = heads
    return config


def make_layout(num_titles=8):
    names = tuple(label.name for label in LABELS)
    return Layout(num_titles, 4, TARGETS, (0, 0, 0, 0), 0, (), labels=names)


def make_rows(target, label, known):
    """Return rows with targets [N, 3], values [N, 3] of both labels, and the bits of both."""
    rows = np.zeros(len(target), make_layout().row_dtype())
    rows["target"], rows["label_known"] = target, known
    rows["label"] = np.stack([label, 1 - np.asarray(label)], axis=-1)
    return rows


def labels(y, known):
    return Labels(np.array(y, float), np.array(known, bool))


def test_labels_are_shares_of_a_positive_and_unknown_ones_are_left_out():
    """The thumb of the second target is no number and unknown; the third target is absent."""
    config = make_config(rewards=(Reward("sum", (Term("thumb"), Term("saved", 0.5)), base=0, low=0, high=9),))
    rows = make_rows([[5, 6, 0]] * 2, [[1, np.nan, 1], [-1, 3, 1]], [[0b11, 0b10, 0b11], [0b01, 0b01, 0b11]])
    thumb = rates.labels_of(Head("up", "thumb"), rows, config, make_layout())
    assert thumb.label.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert thumb.known.tolist() == [[True, False, False], [True, True, False]]
    of_reward = rates.labels_of(Head("sum", "reward:sum"), rows, config, make_layout())
    assert of_reward.known.tolist() == [[True, False, False], [False, False, False]]
    assert of_reward.label[0, 0] == 1.0
    assert rates.window_seconds(Head("up", "thumb"), config) == 7_200
    assert rates.window_seconds(Head("list", "saved"), config) == 1
    assert rates.window_seconds(Head("sum", "reward:sum"), config) == 7_200  # the longest


def test_titles_are_counted_over_all_blocks():
    """The counts of three targets a row equal a loop, over more blocks than are read at a time."""
    rng, size = np.random.default_rng(0), 65 * BLOCK_ROWS + 7
    rows = make_rows(
        rng.integers(0, 8, (size, TARGETS)), rng.random((size, TARGETS)) < 0.3, rng.integers(0, 4, (size, 3))
    )
    config, layout = make_config(), make_layout()
    heads = [Head("up", "thumb"), Head("list", "saved")]
    of_heads = [lambda rows, head=head: rates.labels_of(head, rows, config, layout) for head in heads]
    counts = rates.count_titles(SelectedRows(rows), layout.num_titles, of_heads)
    for i, (positives, known) in enumerate(counts):
        for title in range(8):
            is_known = (rows["target"] == title) & (rows["label_known"] >> i & 1 == 1) & (title > 0)
            assert known[title] == is_known.sum()
            assert positives[title] == pytest.approx(rows["label"][..., i][is_known].sum())


def test_rates_are_smoothed_towards_the_mean_of_all_known_labels():
    """Three of seven labels are positive, so m = 3.5 / 8; the last title has no label in training."""
    counts = RateCounts(np.array([2.0, 1.0, 0.0]), np.array([2.0, 5.0, 0.0]))
    mean = counts.mean()
    assert mean == 0.4375
    p = 1 / (1 + np.exp(-counts.smoothed(mean, 10.0)))
    assert p == pytest.approx([(2 + 4.375) / 12, (1 + 4.375) / 15, 0.4375])
    for never in (RateCounts(np.zeros(2), np.array([9.0, 0.0])), RateCounts(np.zeros(0), np.zeros(0))):
        assert 0 < never.mean() < 1 and np.isfinite(never.smoothed(never.mean(), 1.0)).all()


def test_a_users_earlier_labels_are_those_that_are_final():
    """Windows of two seconds: at 4 s that of 2 s may go on, whose request may have been at 2.99 s.

    The rows are of two users and in no order; the one at 1 s has an unknown label.
    """
    user, time = np.array([7, 3, 7, 7, 7, 3, 7]), np.array([4, 9, 0, 1, 2, 9, 4], np.uint32)
    known = [True, True, True, False, True, True, True]
    counts = rates.count_earlier(user, time, labels([1, 1, 1, 1, 1, 0, 0], known), 2)
    assert counts.known.tolist() == [1, 0, 0, 0, 0, 0, 1]
    assert counts.positives.tolist() == [1, 0, 0, 0, 0, 0, 1]
    longer = rates.count_earlier(user, time, labels([1] * 7, known), 3_600 * 10**9)  # longer than the log
    assert not longer.known.any()
    assert rates.count_earlier(user[:0], time[:0], labels([], []), 2).known.shape == (0,)


@pytest.mark.parametrize("window", [1, 5, 40])
def test_a_users_earlier_labels_equal_a_loop(window):
    rng = np.random.default_rng(window)
    user, time = rng.integers(0, 5, 200), rng.integers(1_650_000_000, 1_650_000_060, 200).astype(np.uint32)
    known = rng.random(200) < 0.7
    y = np.where(known, rng.integers(0, 3, 200) / 2, np.nan)
    counts = rates.count_earlier(user, time, Labels(y, known), window)
    for i in range(200):
        earlier = [
            j for j in range(200)
            if user[j] == user[i] and known[j] and int(time[j]) + window + 1 <= int(time[i])
        ]  # fmt: skip
        assert counts.known[i] == len(earlier)
        assert counts.positives[i] == pytest.approx(sum(y[j] for j in earlier))


def test_a_logistic_regression_recovers_its_coefficients():
    rng = np.random.default_rng(1)
    columns = np.c_[np.ones(200_000), rng.normal(size=(200_000, 2))]
    true, prior = np.array([-1.5, 0.8, -0.6]), np.array([0.0, 1.0, 1.0])
    label = rng.random(200_000) < 1 / (1 + np.exp(-(0.5 + columns @ true)))
    b = rates.fit_logistic(columns, label.astype(float), prior, 0.5)
    p = 1 / (1 + np.exp(-(0.5 + columns @ b)))
    errors = np.sqrt(np.diag(np.linalg.inv((columns * (p * (1 - p))[:, None]).T @ columns)))
    assert (np.abs(b - true) < 4 * errors).all() and errors.max() < 0.01
    np.testing.assert_allclose(columns.T @ (p - label) + b - prior, 0, atol=1e-3)  # the slope


def test_a_logistic_regression_without_a_maximum_of_the_likelihood_stays_finite():
    """Labels that are separated far from the prior, dependent columns, and no rows at all."""
    prior = np.array([0.0, 1.0, 1.0])
    x = np.linspace(-50, 50, 100)
    columns = np.c_[np.ones(100), x, x]
    b = rates.fit_logistic(columns, (x < 0).astype(float), prior, -7.0)
    assert np.isfinite(b).all() and b[1] == pytest.approx(b[2]) and b[1] < 0
    p = 1 / (1 + np.exp(-np.clip(-7.0 + columns @ b, -60, 60)))
    np.testing.assert_allclose(columns.T @ (p - (x < 0)) + b - prior, 0, atol=1e-3)
    assert rates.fit_logistic(columns[:0], x[:0], prior, -7.0).tolist() == prior.tolist()


def test_predictions_take_the_best_strength_and_multiply_odds_without_validation_rows():
    """Titles differ, and each label is that of two users of opposite rates, which thus predict nothing."""
    rng = np.random.default_rng(2)
    of_title = np.array([0.1, 0.9])[rng.integers(0, 2, 1_000)]
    known = rng.random(1_000) < 0.9
    y = np.where(known, rng.random(1_000) < of_title, np.nan)
    likes = rng.integers(0, 5, 1_000).astype(float)
    counts = QueryCounts(
        RateCounts(np.tile(np.rint(20 * of_title), 2), np.full(2_000, 20.0)),
        RateCounts(np.r_[likes, 4 - likes], np.full(2_000, 4.0)),
    )
    y = labels(np.tile(y, 2), np.tile(known, 2))
    assert rates.best_strength(counts.title, 0.5, y) == rates.STRENGTHS[0]
    assert rates.best_strength(counts.user, 0.5, y) == rates.STRENGTHS[-1]
    logits = rates.predict(counts, 0.5, counts, y)
    assert logits["title_rate"] == pytest.approx(counts.title.smoothed(0.5, rates.STRENGTHS[0]))
    assert logits["user_rate"] == pytest.approx(counts.user.smoothed(0.5, rates.STRENGTHS[-1]))

    nothing = labels(np.full(2_000, np.nan), np.zeros(2_000, bool))
    logits = rates.predict(counts, 0.4, counts, nothing)
    odds = np.exp(logits["title_rate"] + logits["user_rate"] - np.log(0.4 / 0.6))
    assert np.exp(logits["both"]) == pytest.approx(odds)
