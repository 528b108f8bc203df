"""Evaluation with the session on, off and shuffled: scores of one program, for changed rows."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxrec.data.storage.dataset import SelectedRows
from jaxrec.evaluation.details.frozen_lists import Queries
from jaxrec.evaluation.sessions.of_session import evaluate_sessions
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.loading import build_task

QUERIES = 96


@pytest.fixture(scope="module")
def queries(session_config, sessions):
    """The first queries of a model with large random parameters, so that a session changes ranks."""
    task = build_task(session_config, sessions.layout, 0.5, 1, 1)
    table = sessions.arrays.title_table()
    params = jax.jit(lambda key: task.init_params(key, table))(jax.random.key(0))
    params = jax.tree.map(lambda x: 4.0 * x, params)
    rows = sessions.rows("test").all()[:QUERIES]
    loaded = SimpleNamespace(task=task, params=params)
    return Queries(loaded, sessions, replicate(table), SelectedRows(rows), rows)


def test_sessions_are_evaluated_by_position_and_compared(queries):
    out = evaluate_sessions(queries, ("on", "off", "shuffled"))
    assert [*out["sessions"]] == ["on", "off", "shuffled", "own_left_out"]
    assert [*out["differences"]] == ["on - off", "on - shuffled", "shuffled - off", "own_left_out - off"]
    assert sum(out["queries"][name] for name in ("1", "2", "3", "4 or more")) == QUERIES
    later = {name: out["sessions"][name]["2 or more"]["mrr@5"][0] for name in out["sessions"]}
    assert len({*later.values()}) == 4  # each session gives other scores
    mean, half = out["differences"]["on - off"]["2 or more"]["mrr@5"]
    assert mean == pytest.approx(later["on"] - later["off"]) and half > 0
    assert 0 < out["target_events"]["trailer"] < 1 and out["target_events"]["seconds"] > 0
    rows = queries.rows
    empty = (rows["session_kind"] == 0).all(axis=1)
    assert 0 < empty.sum() < QUERIES


def test_queries_without_an_event_have_equal_ranks_on_and_off(queries):
    rows = queries.rows[(queries.rows["session_kind"] == 0).all(axis=1)]
    alone = queries._replace(rows=rows, on_disk=SelectedRows(rows))
    difference = evaluate_sessions(alone, ("on", "off"))["differences"]["on - off"]["1"]
    assert all(mean == 0 for mean, _ in difference.values())
    assert np.isfinite(difference["ndcg@1"][0])
