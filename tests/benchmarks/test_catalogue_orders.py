"""The comparison of catalogue orders: ranks of another model on the same queries, and differences by hand."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import catalogue
from jaxrec.core.errors import InputError
from jaxrec.data.loading.left_out import LeftOutTitles

KEYS, OWN_KEYS = np.array(["a", "b", "c", "d"]), np.array(["d", "x", "b", "a", "c"])
SCORES = [9.0, 9.0, 1.0, 5.0, 3.0, 2.0, 3.0]  # by the model's own id: reserved, reserved, d, x, b, a, c
ROWS = np.array(
    [([2, 3], [0.5, 1.0], [5]), ([0, 4], [0.0, 0.25], [2]), ([0, 0], [0.0, 0.0], [4])],
    [("history_title", np.int32, 2), ("history_completion", np.float32, 2), ("target", np.int32, 1)],
)


class FixedTask:
    """A task whose scores are SCORES, and which keeps the rows that it was given."""

    catalogue_heads = ("next_item",)
    layout = SimpleNamespace(
        query_dtype=lambda: np.dtype(
            [("history_title", np.int32, 3), ("history_completion", np.float32, 3), ("target_time", "<u4")]
        )
    )

    def __init__(self, position="index"):
        self.config = SimpleNamespace(model=SimpleNamespace(position=position))

    def score_all_titles(self, params, host, table, heads):
        return SimpleNamespace(by_head={heads[0]: jnp.tile(jnp.array(SCORES), (len(host.words), 1))})


def queries():
    dataset = SimpleNamespace(arrays=SimpleNamespace(title_key=KEYS), layout=SimpleNamespace(num_titles=6))
    return catalogue.SameQueries(dataset, ROWS, LeftOutTitles.of_histories(ROWS["history_title"]))


def loaded(keys, position="index"):
    arrays = SimpleNamespace(title_key=keys, title_table=lambda: None)
    return SimpleNamespace(task=FixedTask(position), arrays=arrays, params=None)


def test_ranks_are_among_the_titles_of_the_dataset_that_were_not_left_out():
    """Scores of a, b, c, d: 2, 3, 3, 1. Query 0: d of c, d; query 1: a of a, b, d; query 2: c ties b."""
    assert queries().ranks(loaded(OWN_KEYS)).tolist() == [2, 2, 2]


def test_histories_are_in_the_models_own_ids_the_newest_last():
    rows = queries()._requests(loaded(OWN_KEYS), queries()._own_ids(OWN_KEYS))
    assert rows["history_title"].tolist() == [[0, 5, 4], [0, 0, 6], [0, 0, 0]]
    assert rows["history_completion"].tolist() == [[0, 0.5, 1], [0, 0, 0.25], [0, 0, 0]]


def test_a_model_that_reads_times_is_refused():
    with pytest.raises(InputError, match="the model reads times of plays"):
        queries().ranks(loaded(OWN_KEYS, "time_gap"))


def test_a_catalogue_that_lacks_titles_is_an_error():
    with pytest.raises(InputError, match="its catalogue lacks titles"):
        queries().ranks(loaded(OWN_KEYS[1:]))


def test_differences_over_users_are_means_of_each_users_queries():
    user = np.array([0, 0, 1, 2])
    ranks = {
        "model": [np.array([1, 1, 1, 2]), np.array([1, 1, 1, 1])],
        "plain": [np.array([1, 2, 2, 2]), np.array([2, 2, 1, 2])],
    }
    means, differences = catalogue.compare(ranks, user)
    assert means["model"]["hr@1"] == [0.75, 1.0] and means["plain"]["hr@1"] == [0.25, 0.25]
    # Per user, mean over seeds: (0.5 + 1) / 2, (1 + 0) / 2, (0 + 1) / 2.
    assert differences["plain"]["hr@1"]["mean"] == pytest.approx((0.75 + 0.5 + 0.5) / 3)
    assert differences["plain"]["hr@1"]["seeds"][0] < 0.625 < differences["plain"]["hr@1"]["seeds"][1]
    assert [*differences] == ["plain"]
