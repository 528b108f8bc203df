"""Scores that were computed hours before the request: what is cut, what stays, and the numbers."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Config, Evaluate, Expert, Feature, Model, Sampling, Task
from jaxrec.core.batch import TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.storage.dataset import SelectedRows
from jaxrec.evaluation.delays.of_delay import check_delays, delayed, delayed_ranks, evaluate_delays
from jaxrec.evaluation.details.frozen_lists import Queries
from jaxrec.reporting.tables.delays import delay_lines
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.next_item import NextItemTask

V, L, HOUR = 30, 8, 3600
LAYOUT = Layout(V, L, 1, (4, 4, 4, 4), 20, (FeatureSpec("title_id", "category", "title", 8, V),), "next_item")


def make_rows(titles, hours_before):
    """Return rows with a target 9 at hour 1,000, and plays some hours before."""
    rows = np.zeros(len(titles), LAYOUT.query_dtype())
    rows["target"], rows["target_time"], rows["user"] = 9, 1000 * HOUR, np.arange(len(titles))
    for row, ids, hours in zip(rows, titles, hours_before, strict=True):
        row["history_title"][L - len(ids) :] = ids
        row["history_time"][L - len(ids) :] = (1000 - np.array(hours)) * HOUR
    return rows


@pytest.fixture(scope="module")
def run():
    """Return a model with large random parameters, so that a play changes ranks."""
    model = Model(8, (Expert(4, 1, 2, 1.0, 0.0, "sasrec"),), dropout=0.0, head="dot", embedding_init_std=1.0)
    config = Config(
        features=(Feature("title_id", "category", "title", 8),), model=model, task=Task("next_item"),
        sampling=Sampling(id_dropout=0.0), evaluate=Evaluate(batch_size=8, next_k=(1,)),
    )  # fmt: skip
    task = NextItemTask(config, LAYOUT, 0.5, 1, 1)
    table = TitleTable(jnp.zeros((V, 0), jnp.int32), jnp.zeros((V, 0), jnp.float32))
    params = jax.jit(lambda key: task.init_params(key, table))(jax.random.key(0))
    return SimpleNamespace(task=task, params=params, config=config), replicate(table)


def queries_of(run, rows):
    loaded, table = run
    return Queries(loaded, SimpleNamespace(), table, SelectedRows(rows), rows)


def test_a_token_with_an_event_after_the_delay_is_cut():
    kinds = ("play:play", "thumb:sign")
    rows = np.zeros(1, replace(LAYOUT, token_kinds=kinds, selects_targets=True).query_dtype())
    rows["target_time"] = 1000 * HOUR
    rows["history_title"][0, -4:] = [3, 4, 5, 6]
    rows["history_time"][0, -4:] = [x * HOUR for x in (900, 950, 960, 990)]
    rows["history_end"][0, -4:] = [x * HOUR for x in (901, 977, 961, 990)]
    rows["history_values"][0, -4:, 0] = [1, -1, 1, 1]
    assert delayed(rows, 20)["history_title"][0].tolist() == [0] * 5 + [3, 4, 5]
    out = delayed(rows, 24)  # the thumb of 4 comes an hour after it
    assert out["history_title"][0].tolist() == [0] * 7 + [3]
    assert out["history_values"][0, -2:, 0].tolist() == [0, 1]


def test_plays_after_the_delay_are_cut_and_the_others_move():
    rows = make_rows([[3, 4, 5], [6, 7]], [[50, 24, 23], [2, 1]])
    out = delayed(rows, 24)
    assert out["history_title"].tolist() == [[0] * 6 + [3, 4], [0] * 8]  # a play at the time itself is known
    assert out["history_time"][0, -2:].tolist() == [950 * HOUR, 976 * HOUR]
    assert out["target_time"].tolist() == [976 * HOUR] * 2
    assert out["target"].tolist() == [[9], [9]] and (out["user"] == rows["user"]).all()
    np.testing.assert_array_equal(delayed(rows, 0), rows)
    assert delayed(rows, 0.5)["target_time"][0] == 1000 * HOUR - 1800
    assert delayed(rows, 5000)["target_time"].tolist() == [0, 0]


def test_ranks_are_those_of_rows_without_the_plays_of_the_last_hours(run):
    rng = np.random.default_rng(0)
    titles = [rng.permutation(np.arange(10, V))[:5] for _ in range(12)]
    hours = [np.sort(rng.uniform(0.1, 60, 5))[::-1] for _ in range(12)]
    hours[0][:] = 0.05  # no play before the longest delay
    rows = make_rows(titles, hours)
    ranks, is_counted = delayed_ranks(queries_of(run, rows), (0.0, 24.0), "test", "kept")
    assert is_counted.tolist() == [bool(of[0] > 24) for of in hours] and not is_counted[0]
    early = [(t[h >= 24], h[h >= 24] - 24) for t, h in zip(titles, hours, strict=True)]
    by_hand = make_rows([t for t, _ in early], [h for _, h in early])
    expected, _ = delayed_ranks(queries_of(run, by_hand), (0.0,), "test", "kept")
    np.testing.assert_array_equal(ranks[24.0][is_counted], expected[0.0][is_counted])
    assert (ranks[24.0] != ranks[0.0])[is_counted].any()
    late = rows.copy()  # what comes within the delay changes no delayed rank
    late["history_title"] = np.where(rows["history_time"] > 976 * HOUR, 5, rows["history_title"])
    changed, _ = delayed_ranks(queries_of(run, late), (0.0, 24.0), "test", "kept")
    np.testing.assert_array_equal(changed[24.0], ranks[24.0])
    assert (changed[0.0] != ranks[0.0]).any()


def test_titles_left_out_are_those_of_the_request(run):
    """A title that was played within the delay does not compete, though the model has not read that play."""
    rows = make_rows([[*range(10, 17), 20]] * 9, [[100] * 7 + [1]] * 9)
    rows["target"][:, 0] = np.arange(21, V)
    stored, _ = delayed_ranks(queries_of(run, rows), (48.0,), "test", "stored")
    alone, _ = delayed_ranks(queries_of(run, delayed(rows, 48)), (0.0,), "test", "stored")
    fewer = alone[0.0] - stored[48.0]  # 1 where title 20 is ahead of the target
    assert set(fewer) == {0, 1}


def test_the_table_has_intervals_over_users_and_paired_differences(run):
    rng = np.random.default_rng(1)
    rows = make_rows(rng.integers(2, V, (20, 4)), np.tile([90, 60, 30, 2], (20, 1)))
    result, columns = evaluate_delays(queries_of(run, rows), (0.0, 24.0, 48.0), "test", "kept")
    assert [*result["metrics"]] == ["0", "24", "48"] and [*result["differences"]] == ["24 - 0", "48 - 0"]
    assert (result["queries"], result["users"], result["left_out"]) == (20, 20, 0)
    for hours in ("0", "24", "48"):
        mean, half = result["metrics"][hours]["mrr@100"]
        assert mean == pytest.approx((1 / columns[f"delay/{hours}"]).mean()) and half > 0
        assert columns[f"delay_{hours}/mrr@100"].mean() == pytest.approx(mean)
    change = 1 / columns["delay/48"] - 1 / columns["delay/0"]
    np.testing.assert_allclose(columns["delay_48-0/mrr@100"], change)
    rows["history_time"][:2] = 999 * HOUR  # no play before the longest delay
    _, columns = evaluate_delays(queries_of(run, rows), (0.0, 48.0), "test", "kept")
    for name in ("delay_0/hr@10", "delay_48/hr@10", "delay_48-0/hr@10"):
        assert np.isnan(columns[name]).tolist() == [True] * 2 + [False] * 18
    assert result["differences"]["48 - 0"]["mrr@100"] == pytest.approx(
        [change.mean(), 1.959964 * change.std(ddof=1) / 20**0.5]
    )
    lines = delay_lines(result)
    assert "20 queries, 0 without a play so long before" in lines[0]
    assert lines[-1].startswith("48 - 0") and len(lines) == 2 + 5


@pytest.mark.parametrize(
    ("hours", "dtype", "text"),
    [
        ((0.0, -1.0), LAYOUT.query_dtype(), "delay_hours=0,-1; allowed: finite numbers of at least 0"),
        ((6.0, 6.0), LAYOUT.query_dtype(), "delay_hours=6,6; allowed"),
        ((float("nan"),), LAYOUT.query_dtype(), "delay_hours=nan; allowed"),
        (
            (6.0,),
            np.dtype([("history_age", "f2")]),
            "delay_hours=6; allowed: none, for the rows of a ranking",
        ),
    ],
)
def test_delays_that_cannot_be_evaluated_are_refused(hours, dtype, text):
    with pytest.raises(InputError, match=text):
        check_delays(hours, dtype)
    check_delays((), np.dtype([("history_age", "f2")]))
