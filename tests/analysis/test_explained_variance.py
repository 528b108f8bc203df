"""R^2 of means by user, by title and by both: of values whose variance is known."""

import numpy as np
import pytest

from jaxrec.analysis.explained_variance import explained_variance

ROWS, USERS, TITLES = 20_000, 400, 300


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(0)
    return rng.integers(0, USERS, ROWS), rng.integers(0, TITLES, ROWS), rng.normal(size=(4, ROWS))


def test_a_value_of_the_title_alone_is_explained_by_titles(columns):
    user, title, noise = columns
    result = explained_variance(user, title * 7 + 3, noise[0][title])
    assert result.title == pytest.approx(1) and result.both == pytest.approx(1)
    assert abs(result.user) < 0.005


def test_a_value_of_the_user_alone_is_explained_by_users(columns):
    user, title, noise = columns
    result = explained_variance(user, title, noise[0][user])
    assert result.user == pytest.approx(1) and result.both == pytest.approx(1)
    assert abs(result.title) < 0.005


def test_shares_of_a_sum_add_up(columns):
    """The variance is 1 of users, 4 of titles and 5 of noise.

    A mean of n rows, shrunken by the ratio r of the variances, explains n / (n + r) of the variance between.
    """
    user, title, noise = columns
    effects = [x / x.std() for x in (noise[0][:USERS], noise[1][:TITLES])]
    value = effects[0][user] + 2 * effects[1][title] + np.sqrt(5) * noise[2]
    result = explained_variance(user, title, value)
    n_user, n_title = 0.8 * ROWS / USERS, 0.8 * ROWS / TITLES
    assert result.user == pytest.approx(0.1 * n_user / (n_user + 9), abs=0.01)
    assert result.title == pytest.approx(0.4 * n_title / (n_title + 6 / 4), abs=0.01)
    both = 0.1 * n_user / (n_user + 5) + 0.4 * n_title / (n_title + 5 / 4)
    assert result.both == pytest.approx(both, abs=0.01)
    assert explained_variance(user, title, 5 + 100 * value).both == pytest.approx(result.both)


def test_noise_is_explained_by_nothing(columns):
    """Means of the same rows would explain 2% of it by users and 3.5% by both."""
    user, title, noise = columns
    assert all(abs(share) < 0.003 for share in explained_variance(user, title, noise[3]))
    assert explained_variance(np.arange(50), np.arange(50), noise[3][:50])[:2] == pytest.approx((0, 0))


def test_a_value_without_variance_has_no_share(columns):
    user, title, _ = columns
    assert np.isnan(explained_variance(user, title, np.ones(ROWS))).all()
    for rows in (0, 1):
        assert np.isnan(explained_variance(user[:rows], title[:rows], np.ones(rows))).all()
