"""Outcomes in the rows of queries change no score of any program, bit for bit.

Every field of a row that is not listed here as known is an outcome: a new field is poisoned by default.
"""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Config, Expert, Model, Task
from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.ids import RETRIEVAL_HEAD
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.storage.dataset import SelectedRows, as_words
from jaxrec.evaluation.scorers import ListScorer
from jaxrec.runtime import mesh
from jaxrec.tasks import next_item_inputs, ranking_inputs
from jaxrec.tasks.next_item import NextItemTask
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.train_state import StateInit

KNOWN = {
    "history_title", "history_completion", "history_age", "history_sessions", "history_abandoned",
    "history_time", "user_categories", "user_numbers", "context_categories", "context_numbers",
    "history_signals",  # of the titles of the history, before the request
    "target_time",  # time of the request
}  # fmt: skip
CANDIDATES = {"target", "list_enabled", "list_disabled"}  # titles that are scored
ROWS = 16


def poisoned(rows: np.ndarray, kept: set[str]) -> np.ndarray:
    """Return rows with NaN, or large numbers, in every field that is not kept."""
    assert {*rows.dtype.names} - kept >= {"target_completion"}
    out = rows.copy()
    for name in {*rows.dtype.names} - kept:
        out[name] = np.nan if out[name].dtype.kind == "f" else np.iinfo(out[name].dtype).max
    return out


def assert_same(values: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> None:
    """Assert that finite scores by head are equal, bit for bit."""
    assert values.keys() == others.keys() and values
    for head, scores in values.items():
        assert np.isfinite(scores).all() and np.ptp(scores) > 0, head
        np.testing.assert_array_equal(scores, others[head], err_msg=head)


def assert_catalogue_without_outcomes(task, rows: np.ndarray, table) -> None:
    """Assert that all titles have the scores of the same rows without outcomes; nothing is packed."""
    params = StateInit(task).init().params
    run = jax.jit(lambda host: task.score_all_titles(params, host, table, task.catalogue_heads).by_head)
    both = rows, poisoned(rows, KNOWN)
    values, others = (jax.device_get(run(HostBatch(as_words(x), np.ones(len(x), bool)))) for x in both)
    assert_same(values, others)


def make_task(tiny, tiny_config, **model) -> RankingTask:
    config = copy.deepcopy(tiny_config)
    config.model.features = ("title_id", "segment", "hour", "completion")
    for name, value in model.items():
        setattr(config.model, name, value)
    config.objective.retrieval = 0.5 if config.model.retrieval_dim else 0.0
    return RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)


@pytest.mark.parametrize(
    "model, packs",
    [({"retrieval_dim": 6}, True), ({"target_in_sequence": True}, False)],
    ids=["packed", "target"],
)
def test_outcomes_change_no_score_of_candidate_lists(tiny, tiny_config, model, packs):
    """The loss of the same rows is NaN: it reads the outcomes."""
    task, rows = make_task(tiny, tiny_config, **model), tiny.rows("test").all()[:ROWS]
    assert (task.packer(rows.dtype) is not None) == packs
    params, table = mesh.replicate(StateInit(task).init().params), mesh.replicate(tiny.arrays.title_table())
    scorer = ListScorer(task, table, with_loss=True, next_k=2, other_heads=task.ranking_heads[1:])
    plain = scorer(params, SelectedRows(rows))
    other = scorer(params, SelectedRows(poisoned(rows, KNOWN | CANDIDATES)))
    assert_same(plain.by_head | {"gate": plain.gate}, other.by_head | {"gate": other.gate})
    assert np.isfinite(plain.sums["loss"][0]) and np.isnan(other.sums["loss"][0])


def test_outcomes_change_no_score_of_the_catalogue(tiny, tiny_config):
    task = make_task(tiny, tiny_config, retrieval_dim=6)
    assert RETRIEVAL_HEAD in task.catalogue_heads
    rows, table = tiny.rows("test").all()[:ROWS], tiny.arrays.title_table()
    assert_catalogue_without_outcomes(task, rows, table)


def test_outcomes_change_no_score_of_the_next_item():
    titles, length = 40, 8
    features = (FeatureSpec("title_id", "category", "title", 8, titles),)
    layout = Layout(titles, length, 1, (4, 4, 4, 4), 20, features, "next_item")
    model = Model(width=8, experts=(Expert(length, 1, 2, 1.0, 0.0, "hstu"),), dropout=0.0, head="dot")
    task = NextItemTask(Config(task=Task(name="next_item"), model=model), layout, 0.5, 10, 100)
    rows, rng = np.zeros(3, layout.query_dtype()), np.random.default_rng(0)
    rows["history_title"], rows["target"] = rng.integers(2, titles, (3, length)), [[5], [6], [7]]
    rows["history_time"], rows["target_time"] = np.arange(1, length + 1) * 1000, 20_000
    table = TitleTable(jnp.zeros((titles, 0), jnp.int32), jnp.zeros((titles, 0), jnp.float32))
    assert_catalogue_without_outcomes(task, rows, table)


@pytest.mark.parametrize("name", ["ranking", "next_item"])
def test_the_inputs_of_a_training_step_hold_no_outcome_of_the_targets(name):
    """A training row of the plays up to the target: no input changes with what became of the target."""
    features = (FeatureSpec("title_id", "category", "title", 8, 40),)
    layout = Layout(40, 8, 1, (4, 4, 4, 4), 20, features, name)
    rows, key = np.zeros(2, layout.row_dtype()), jnp.zeros((2, 2), jnp.uint32)
    rows[rows.dtype.names[-1]] = 1

    def inputs(rows):
        if name == "ranking":
            view = ranking_inputs.HistoryView(layout, (8,), True)
            batch = ranking_inputs.training(
                as_words(rows), np.ones(2, bool), view, (1, 1, 1, 1), 1, jnp.int32(0), key
            )
            return (batch.history, batch.positive, batch.negative), batch.outcome
        windows = next_item_inputs.training(as_words(rows), layout, 8, False, 0.0, key)
        return windows.window, windows.outcome

    other = rows.copy()
    if name == "ranking":
        rows["history_title"], rows["target"] = 3, 4
        other = rows.copy()
        other["target_completion"] = np.nan
    else:
        rows["title"], rows["time"] = np.arange(2, 20), np.arange(18)
        other = rows.copy()
        other["completion"], other["title"][:, -1] = np.nan, 30
    (known, outcome), (same, changed) = inputs(rows), inputs(other)
    jax.tree.map(np.testing.assert_array_equal, known, same)
    assert np.isfinite(outcome.completion).all() and np.isnan(changed.completion).all()
