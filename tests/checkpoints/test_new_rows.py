"""Tests of the first values of rows for new titles, against plain loops."""

import math

import numpy as np
import pytest

from jaxrec.checkpoints import new_rows
from jaxrec.checkpoints.new_rows import NEAREST, TitleFeatures, fill_new_rows
from jaxrec.checkpoints.warm_start import Table, map_rows
from jaxrec.core.row_format import FeatureSpec, Layout

FEATURES = (
    FeatureSpec("title_id", "category", "title", 2, size=0, columns=0),
    FeatureSpec("genres", "categories", "title", 2, size=7, columns=3),
    FeatureSpec("runtime", "number", "title", 2),
    FeatureSpec("form", "category", "title", 2, size=4, columns=1),
    FeatureSpec("segment", "category", "user", 2, size=4, columns=1),
)


def layout(titles):
    return Layout(titles, 4, 1, (4, 4, 4, 4), 4, FEATURES)


@pytest.fixture
def titles():
    """Return genres [V, 3], form [V, 1] and runtime [V, 1] of 58 titles; one genre may come twice."""
    draws = np.random.default_rng(0)
    categories = np.concatenate([draws.integers(0, 7, (60, 3)), draws.integers(0, 4, (60, 1))], axis=1)
    numbers = draws.normal(size=(60, 1))
    categories[:2], numbers[:2] = 0, 0
    return categories.astype(np.int32), numbers.astype(np.float32)


def cosine(categories, numbers, a, b):
    """Return the cosine of two titles by dictionaries: multi-hot values weighted by idf, and the number."""

    def vector(title):
        values = {("genre", g) for g in categories[title, :3] if g > 1}
        return values | {("form", f) for f in categories[title, 3:] if f > 1}

    def idf(value):
        return math.log1p((len(categories) - 2) / sum(value in vector(t) for t in range(2, len(categories))))

    def product(x, y):
        shared = sum(idf(value) ** 2 for value in vector(x) & vector(y))
        return shared + float(numbers[x, 0]) * float(numbers[y, 0])

    return product(a, b) / math.sqrt(product(a, a) * product(b, b))


def table_of(rows, old_keys, new_keys):
    row_map = map_rows(old_keys, new_keys)
    mapped = np.where((row_map.source < 0)[:, None], np.nan, rows[row_map.source])
    return Table("title/title_id/embedding", "title_id", mapped, row_map, rows[2:])


def fill(table, titles, rows="metadata", noise=0.0, seed=0):
    return fill_new_rows(rows, noise, seed, TitleFeatures(layout(len(titles[0])), *titles))(table)


@pytest.mark.parametrize("blocks", [(256, 65_536), (2, 7)])
def test_a_new_title_has_the_weighted_mean_of_the_nearest(titles, blocks, monkeypatch):
    monkeypatch.setattr(new_rows, "_BLOCK", blocks[0])
    monkeypatch.setattr(new_rows, "_OLD_BLOCK", blocks[1])
    categories, numbers = titles
    old_keys, new_keys = list(range(10, 63)), list(range(5, 63))  # ids 2 to 6 are new
    rows = np.random.default_rng(1).normal(size=(55, 4))
    table = table_of(rows, old_keys, new_keys)
    result = fill(table, titles)
    for title in range(2, 7):
        cosines = {t: cosine(categories, numbers, title, t) for t in range(7, 60)}
        nearest = sorted(cosines, key=lambda t: (-cosines[t], t))[:NEAREST]
        weights = [math.exp(cosines[t]) for t in nearest]
        expected = sum(w * rows[t - 5] for w, t in zip(weights, nearest, strict=True)) / sum(weights)
        np.testing.assert_allclose(result[title], expected, rtol=1e-9)
    np.testing.assert_array_equal(result[7:], rows[2:])
    np.testing.assert_array_equal(result[:2], rows[:2])


def test_the_mean_row_where_there_is_no_metadata(titles):
    rows = np.array([[9.0, 9], [8, 8], [1, 2], [3, 6]])
    table, mean = table_of(rows, ["a", "b"], ["b", "c"]), [2, 4]
    few = (titles[0][[0, 1, 5, 6]], titles[1][[0, 1, 5, 6]])
    np.testing.assert_array_equal(fill(table, few, "mean")[3], mean)
    np.testing.assert_array_equal(fill(table._replace(feature="genres"), few)[3], mean)
    nothing = (np.zeros((4, 4), np.int32), np.zeros((4, 1), np.float32))
    np.testing.assert_array_equal(fill(table, nothing)[3], mean)
    np.testing.assert_array_equal(fill(table, few)[3], [3, 6])  # the only old title
    other = table_of(rows, ["a", "b"], ["x", "y"])
    np.testing.assert_array_equal(fill(other, few)[2:], [mean, mean])  # no title is in both
    assert np.isnan(fill(table, few, "initial")[3]).all()


def test_noise_is_relative_to_the_spread_of_the_table(titles):
    draws = np.random.default_rng(2)
    rows = draws.normal(5.0, 3.0, size=(52, 4))
    table = table_of(rows, list(range(50)), list(range(4000)))
    silent, noisy = (fill(table, titles, "mean", noise) for noise in (0.0, 0.1))
    spread = math.sqrt(sum(rows[2:, i].var() for i in range(4)) / 4)
    difference = (noisy - silent)[52:]
    assert difference.std() == pytest.approx(0.1 * spread, rel=0.02)
    assert abs(difference.mean()) < 0.005 * spread
    np.testing.assert_array_equal(noisy[:52], silent[:52])
    np.testing.assert_array_equal(fill(table, titles, "mean", 0.1), noisy)
    assert not np.array_equal(fill(table, titles, "mean", 0.1, seed=1), noisy)
