"""Tests of the mapping of parameters by name, and of rows of embeddings by key, with values by hand."""

import numpy as np
import pytest

from jaxrec.checkpoints.warm_start import WarmStart, map_rows
from jaxrec.core.errors import InputError
from jaxrec.models.layers import sharded_embedding

OLD_KEYS = ["a", "b", "c"]
# Rows of padding, the unknown title, a, b and c; two columns.
OLD = np.array([[0, 0], [1, 10], [2, 20], [3, 30], [4, 40]], np.float32)
TABLE, KERNEL = "title/title_id/embedding", "gate/kernel"
KERNELS = {KERNEL: np.array([[7.0, 8.0]], np.float32)}


def start(new_keys, **shapes):
    """Return the map from titles a, b, c to other titles, and from segments u, v to v, w."""
    old = {"title_id": np.array(OLD_KEYS), "segment": ["u", "v"]}
    new = {"title_id": np.array(new_keys), "segment": ["v", "w"]}
    return WarmStart("start.workdir=w", old, new, shapes or {TABLE: (len(new_keys) + 2, 2), KERNEL: (1, 2)})


def mapped(new_keys, parameters=None, fill=lambda table: table.rows, **shapes):
    parameters = {TABLE: OLD} | KERNELS if parameters is None else parameters
    return start(new_keys, **shapes).map_parameters(parameters, ("*",), fill)


NAN = [np.nan, np.nan]


@pytest.mark.parametrize("new_keys, rows, record", [
    (["a", "b", "c"], [[0, 0], [1, 10], [2, 20], [3, 30], [4, 40]], None),
    (["c", "a", "b"], [[0, 0], [1, 10], [4, 40], [2, 20], [3, 30]], None),
    (["a", "b", "c", "d"], [[0, 0], [1, 10], [2, 20], [3, 30], [4, 40], NAN], (3, 1, 0)),
    (["c"], [[0, 0], [1, 10], [4, 40]], (1, 0, 2)),
    (["x", "c", "y", "a"], [[0, 0], [1, 10], NAN, [4, 40], NAN, [2, 20]], (2, 2, 1)),
    (["x"], [[0, 0], [1, 10], NAN], (0, 1, 3)),
], ids=["same", "renumbered", "grown", "shrunk", "all three", "other"])  # fmt: skip
def test_rows_go_by_key(new_keys, rows, record):
    result = mapped(new_keys)
    np.testing.assert_array_equal(result.values[TABLE], np.array(rows, np.float32))
    np.testing.assert_array_equal(result.values[KERNEL], KERNELS[KERNEL])
    names = ("old_rows", "new_rows", "dropped_rows")
    grown = {TABLE: dict(zip(names, record, strict=True))} if record else {}
    taken = [KERNEL] if record else [KERNEL, TABLE]
    assert result.record == {"taken": taken, "grown": grown, "initialised": [], "dropped": []}


def test_rows_of_categories_go_by_value():
    name = "user/segment/embedding"
    result = mapped(OLD_KEYS, {name: OLD[:4]}, **{name: (4, 2)})
    np.testing.assert_array_equal(result.values[name], np.array([[0, 0], [1, 10], [3, 30], NAN], np.float32))


def test_keys_may_be_numbers():
    assert map_rows(np.array([5, 7]), np.array([7, 6, 5])).source.tolist() == [0, 1, 3, -1, 2]
    assert map_rows(np.array([5, 7]), ["5", "7"]).source.tolist() == [0, 1, -1, -1]


def sharded(rows):
    """Return rows as a row-sharded table, 0 where it has no id."""
    table = np.zeros(sharded_embedding.shape(*rows.shape), rows.dtype)
    table[sharded_embedding.row_positions(len(rows))] = rows
    return table


@pytest.mark.parametrize("is_sharded", [(True, True), (True, False), (False, True)])
def test_a_row_sharded_table_has_the_rows_of_a_replicated_one(is_sharded):
    old_keys, new_keys = [f"t{i}" for i in range(1500)], [f"t{i}" for i in range(1400, 2900)]
    names = ["title/title_id/dealt" if split else TABLE for split in is_sharded]
    rows = np.random.default_rng(0).normal(size=(1502, 3)).astype(np.float32)
    shape = sharded_embedding.shape(1502, 3) if is_sharded[1] else (1502, 3)
    old, new = {"title_id": np.array(old_keys)}, {"title_id": np.array(new_keys)}
    parameters = {names[0]: sharded(rows) if is_sharded[0] else rows}
    warm = WarmStart("w", old, new, {names[1]: shape})
    result = warm.map_parameters(parameters, ("*",), lambda table: table.rows)
    value = result.values[names[1]]
    if is_sharded[1]:
        in_use = np.zeros(shape[:2], bool)
        in_use[sharded_embedding.row_positions(1502)] = True
        assert np.isnan(value[~in_use]).all()  # the initialisation's zeros stay
        value = np.asarray(sharded_embedding.in_order(value, 1502))
    expected = np.full((1502, 3), np.nan, np.float32)
    expected[:102] = rows[[0, 1, *range(1402, 1502)]]
    np.testing.assert_array_equal(value, expected)
    moment = warm.map_moments(parameters, result, 0.0)[names[1]]
    np.testing.assert_array_equal(
        moment, sharded(np.nan_to_num(expected)) if is_sharded[1] else np.nan_to_num(expected)
    )


def test_moments_of_new_rows_are_zero_and_others_go_by_key():
    warm = start(["x", "c", "a"])
    result = warm.map_parameters({TABLE: OLD} | KERNELS, ("*",), lambda table: np.nan_to_num(table.rows))
    moments = warm.map_moments({TABLE: OLD * 100, KERNEL: KERNELS[KERNEL] * 100}, result, 0.0)
    np.testing.assert_array_equal(moments[TABLE], [[0, 0], [100, 1000], [0, 0], [400, 4000], [200, 2000]])
    np.testing.assert_array_equal(moments[KERNEL], [[700, 800]])


def test_first_values_of_new_rows_are_not_taken():
    result = mapped(["c", "x"], fill=lambda table: np.where(np.isnan(table.rows), 5, table.rows))
    np.testing.assert_array_equal(result.values[TABLE], [[0, 0], [1, 10], [4, 40], [5, 5]])
    np.testing.assert_array_equal(result.taken[TABLE], np.array([[0, 0], [1, 10], [4, 40], NAN], np.float32))


def test_what_is_not_taken_is_initialised_or_dropped():
    shapes = {TABLE: (5, 2), KERNEL: (1, 2), "gate/new": (3,)}
    warm = start(OLD_KEYS, **shapes)
    parameters = {TABLE: OLD, "old/bias": np.ones(2)} | KERNELS
    result = warm.map_parameters(parameters, ("title/*",), lambda table: table.rows)
    assert result.record == {
        "taken": [TABLE], "grown": {}, "initialised": ["gate/kernel", "gate/new"],
        "dropped": ["gate/kernel", "old/bias"],
    }  # fmt: skip
    assert list(result.values) == [TABLE]


@pytest.mark.parametrize("parameters, take, shapes, text", [
    ({TABLE: OLD}, ("title/*", "gaet/*"), {}, r"start\.take\[1\]='gaet/\*' must match a parameter of start"
     r"\.workdir=w and of this run; there are title/title_id/embedding$"),
    ({"x": OLD}, ("*",), {}, r"start\.take\[0\]='\*' must match .*; there are none$"),
    ({KERNEL: np.ones((2, 2))}, ("*",), {}, r"^start\.workdir=w: gate/kernel is \(2, 2\) in the "
     r"checkpoint, but \(1, 2\) in this run; allowed: equal shapes, or a start\.take without it$"),
    ({TABLE: OLD[:, :1]}, ("*",), {}, r"title_id/embedding is \(5, 1\) in the checkpoint, but \(5, 2\)"),
    ({TABLE: OLD[:4]}, ("*",), {}, r"title/title_id/embedding is \(4, 2\) in the checkpoint, but \(5, 2\)"),
    ({TABLE: OLD}, ("*",), {TABLE: (6, 2)}, r"is \(5, 2\) in the checkpoint, but \(6, 2\)"),
    ({KERNEL: np.array([[1, np.inf]])}, ("*",), {}, r"^start\.workdir=w: gate/kernel has values that are"),
])  # fmt: skip
def test_what_does_not_fit_is_one_line(parameters, take, shapes, text):
    with pytest.raises(InputError, match=text) as error:
        start(OLD_KEYS, **shapes).map_parameters(parameters, take, lambda table: table.rows)
    assert "\n" not in str(error.value)
