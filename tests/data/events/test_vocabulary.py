"""Features by id: values of known columns, in any order of rows and chunks, up to the dataset's arrays."""

import math

import numpy as np
import pytest

from jaxrec.config.schema import Feature
from jaxrec.core.errors import InputError
from jaxrec.core.ids import MISSING
from jaxrec.core.tables import Lists
from jaxrec.data.columns.category_codes import CategoryCodes, is_missing
from jaxrec.data.events.title_features import pad_lists, title_columns
from jaxrec.data.events.vocabulary import FeatureColumns, FittedColumn, Moments
from jaxrec.sources import open_source

DEVICE = Feature("device", "category", "context", 4)
LENGTH = Feature("length", "number", "context", 4)


def test_missing_values_by_type():
    assert is_missing(np.array([1.0, np.nan, 0.0])).tolist() == [False, True, False]
    assert is_missing(np.array([MISSING, 0, -1])).tolist() == [True, False, False]
    assert is_missing(np.array(["", "NA", " "])).tolist() == [True, False, False]


def test_ids_follow_the_sorted_values_after_padding_and_unknown():
    codes = CategoryCodes()
    first, second = codes.encode(np.array(["tv", "", "web"])), codes.encode(np.array(["app", "tv"]))
    values, remap = codes.finish()
    assert values == ["app", "tv", "web"]
    assert remap[first + 1].tolist() == [3, 1, 4] and remap[second + 1].tolist() == [2, 3]
    numbers = CategoryCodes()
    code = numbers.encode(np.array([10, 9, MISSING]))
    values, remap = numbers.finish()
    assert values == [9, 10] and remap[code + 1].tolist() == [3, 2, 1]  # by value, not as text


def test_moments_of_finite_values():
    moments = Moments()
    moments.add(np.array([1.0, np.nan, 3.0]), "x")
    moments.add(np.array([8.0]), "x")
    mean, std = moments.finish()
    assert mean == 4.0 and std == pytest.approx(math.sqrt((9 + 1 + 16) / 3))
    constant = Moments()
    constant.add(np.full(4, 7.5), "x")
    assert constant.finish() == (7.5, 1.0) and Moments().finish() == (0.0, 1.0)
    with pytest.raises(InputError, match=r"feature x: kind=number but the column holds \['a'\]"):
        Moments().add(np.array(["a"]), "x")


CHUNKS = (
    {"device": np.array(["tv", "web", ""]), "length": np.array([2.0, 4.0, np.nan])},
    {"device": np.array(["app", "tv"]), "length": np.array([6.0, 8.0])},
)
IDS = [[3], [4], [1], [2], [3]]
STANDARDISED = (np.array([2.0, 4.0, 5.0, 6.0, 8.0]) - 5.0) / math.sqrt(5.0)  # mean 5, variance 5; missing: 0


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_column_is_encoded_alike_from_chunks_in_any_order(order):
    columns = FeatureColumns((DEVICE, LENGTH), "context")
    added = {i: columns.add(CHUNKS[i], len(CHUNKS[i]["device"])) for i in order}
    columns.finish()
    ids, numbers = columns.encode(*(np.concatenate([added[i][part] for i in (0, 1)]) for part in (0, 1)))
    assert ids.tolist() == IDS and ids.dtype == np.int32
    np.testing.assert_allclose(numbers[:, 0], STANDARDISED, rtol=1e-6)
    device, length = columns.specs
    assert (device.name, device.size, device.columns) == ("device", 5, 1)
    assert (length.name, length.mean, length.std) == ("length", 5.0, pytest.approx(math.sqrt(5.0)))
    assert columns.values == {"device": ["app", "tv", "web"]}


def test_chunks_encoded_apart_are_joined():
    """Workers encode chunks alone; the final columns give each code its value."""
    fitted, parts = FittedColumn(), []
    for number, chunk in reversed(list(enumerate(CHUNKS))):
        part = FeatureColumns((DEVICE, LENGTH), "context")
        parts.insert(0, (part, *part.add(chunk, len(chunk["device"]))))
        fitted.add(part.fitted(number))
    final = FeatureColumns((DEVICE, LENGTH), "context")
    final.finish_from(fitted)
    codes = np.concatenate([final.recode(part, categories) for part, categories, _ in parts])
    ids, numbers = final.encode(codes, np.concatenate([numbers for *_, numbers in parts]))
    assert ids.tolist() == IDS
    np.testing.assert_allclose(numbers[:, 0], STANDARDISED, rtol=1e-6)


def test_features_of_titles_by_row():
    """Six titles: an empty list, a list that is cut, a missing number, a missing category."""
    features = (
        Feature("genres", "categories", "title", 4, most=2),
        Feature("title_id", "category", "title", 4),
        Feature("year", "number", "title", 4),
        Feature("form", "category", "title", 4),
        Feature("segment", "category", "user", 4),
    )
    raw = {
        "genres": Lists(np.array(["war", "art", "zoo", "art", "", "zoo"]), np.array([0, 1, 1, 4, 5, 6, 6])),
        "year": np.array([1990.0, 2000.0, np.nan, 2000.0, 1990.0, 1995.0]),
        "form": np.array(["film", "series", "film", "", "short", "series"]),
    }
    categories, numbers, specs, values = title_columns(raw, features, 6)
    # Columns of a list come first here, as declared: art 2, war 3, zoo 4; film 2, series 3, short 4.
    assert categories.tolist() == [[3, 0, 2], [1, 0, 3], [2, 4, 2], [1, 0, 1], [4, 0, 4], [1, 0, 3]]
    spread = math.sqrt((25 + 25 + 25 + 25 + 0) / 5)
    np.testing.assert_allclose(numbers[:, 0], np.array([-5, 5, 0, 5, -5, 0]) / spread, rtol=1e-6)
    assert values == {"genres": ["art", "war", "zoo"], "form": ["film", "series", "short"]}
    assert [(s.name, s.size, s.columns) for s in specs] == [
        ("genres", 5, 2), ("title_id", 8, 0), ("year", 0, 1), ("form", 5, 1),
    ]  # fmt: skip


def test_a_list_keeps_its_first_values():
    ids, offsets = np.array([5, 6, 7, 8, 9], np.int32), np.array([0, 3, 3, 5])
    assert pad_lists(ids, offsets, 2).tolist() == [[5, 6], [1, 0], [8, 9]]
    assert pad_lists(ids, offsets, 4).tolist() == [[5, 6, 7, 0], [1, 0, 0, 0], [8, 9, 0, 0]]
    assert pad_lists(np.empty(0, np.int32), np.array([0, 0]), 2).tolist() == [[1, 0]]


# ---------------------------------------------------------------- the dataset's arrays


def of_tables(tiny, tiny_config):
    """Return the titles and users of the source by key."""
    source = open_source(tiny_config.source, tiny_config.features)
    titles = source.titles()
    return titles, {key: i for i, key in enumerate(titles.key.tolist())}, list(source.users())


def test_every_title_id_has_the_features_of_its_title(tiny, tiny_config):
    titles, row_of, _ = of_tables(tiny, tiny_config)
    arrays, values = tiny.arrays, tiny.manifest["categories"]
    specs = {s.name: s for s in tiny.layout.features}
    genres, runtime = titles.features["genres"], titles.features["runtime"]
    mean, std = runtime.mean(), runtime.std()
    assert (specs["runtime"].mean, specs["runtime"].std) == pytest.approx((mean, std))
    assert arrays.title_categories[:2].tolist() == [[0] * 4, [1] * 4] and not arrays.title_numbers[:2].any()
    names = {name: dict(enumerate(values[name], 2)) for name in ("genres", "form")}
    distinct = set()
    for id_, key in enumerate(arrays.title_key.tolist(), 2):
        row = row_of[key]
        own = genres.values[genres.offsets[row] : genres.offsets[row + 1]].tolist()
        stored = arrays.title_categories[id_].tolist()
        assert [names["genres"][i] for i in stored[:3] if i] == own[:3]
        assert names["form"][stored[3]] == titles.features["form"][row]
        assert arrays.title_numbers[id_, 0] == pytest.approx((runtime[row] - mean) / std, abs=1e-5)
        assert arrays.title_runtime[id_ - 2] == titles.runtime[row]
        distinct.add((*stored, float(arrays.title_numbers[id_, 0])))
    assert len(distinct) > 0.9 * len(arrays.title_key)  # so that a permutation shows


def test_every_row_has_the_features_of_its_user(tiny, tiny_config):
    _, _, users = of_tables(tiny, tiny_config)
    segments = {
        key: [chunk.features[name][i] for name in ("segment", "segment2")]
        for chunk in users
        for i, key in enumerate(chunk.key.tolist())
    }
    names = [dict(enumerate(tiny.manifest["categories"][name], 2)) for name in ("segment", "segment2")]
    keys, rows = tiny.user_keys("test"), tiny.rows("test").all()
    assert len({tuple(own) for own in segments.values()}) > 10
    for row in rows:
        own = segments[int(keys[row["user"]])]
        assert [name[i] for name, i in zip(names, row["user_categories"], strict=True)] == own
