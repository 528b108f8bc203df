"""Item-to-item scores against cosines worked by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.storage.dataset import as_words
from jaxrec.evaluation import baselines

LAYOUT = Layout(8, 4, 1, (4, 1, 1, 1), 2, (FeatureSpec("title_id", "category", "title", 4, 8, 0),))
# Ranks are ids minus 2, and one title has no plays. Of the four training rows, two have the history A and the
# target C, one has the history A and D and the target E, and one has the history A and D (abandoned) and the
# target C.
A, B, C, D, E = range(2, 7)
ARRAYS = SimpleNamespace(rank_of_id=np.array([8, 8, 0, 1, 2, 3, 4, 5]), id_of_rank=np.arange(2, 8))


class Training:
    """Training rows in two blocks, with the methods of `Rows` that item-to-item uses."""

    dtype, blocks = LAYOUT.row_dtype(), 2

    def __init__(self):
        rows = np.zeros(4, self.dtype)
        rows["history_title"] = [[0, 0, 0, A], [0, 0, 0, A], [0, 0, D, A], [0, 0, D, A]]
        rows["history_abandoned"][3, 2] = 1
        rows["target"][:, 0] = [C, C, E, C]
        self._words = as_words(rows).reshape(2, 2, -1)

    def read(self, blocks):
        return self._words[blocks].reshape(2 * len(blocks), -1)


def query(history, target, negatives):
    rows = np.zeros(1, LAYOUT.query_dtype())
    rows["history_title"][0, 4 - len(history) :] = history
    rows["target"][0, 0], rows["list_enabled"][0, 0] = target, negatives
    return rows


@pytest.mark.parametrize(
    ("shown_abandoned", "wanted"),
    [
        # n(A) = 4, n(C) = 3, n(E) = 1, n(A, C) = 3, n(A, E) = 1, n(D) = 1, n(D, E) = 1
        (False, [3 / 12**0.5, 1 / 4**0.5 + 1 / 1**0.5, 0.0]),
        # with abandoned titles n(D) = 2 and n(D, C) = 1
        (True, [3 / 12**0.5 + 1 / 6**0.5, 1 / 4**0.5 + 1 / 2**0.5, 0.0]),
    ],
)
def test_cosines_by_hand(monkeypatch, shown_abandoned, wanted):
    monkeypatch.setattr(baselines, "_BLOCKS", 1)
    score = baselines.item_to_item(Training(), ARRAYS, shown_abandoned)
    got = score(query([D, A], C, [E, B]), "enabled", ARRAYS)
    np.testing.assert_allclose(got, [[wanted]], atol=1e-6)


def test_abandoned_titles_of_queries_are_ignored():
    rows = query([D, A], C, [E, B])
    alone = query([A], C, [E, B])
    rows["history_abandoned"][0, 2] = 1
    score = baselines.item_to_item(Training(), ARRAYS, False)
    np.testing.assert_array_equal(score(rows, "enabled", ARRAYS), score(alone, "enabled", ARRAYS))


def test_popularity_breaks_ties_and_rare_titles_are_not_counted(monkeypatch):
    monkeypatch.setattr(baselines, "_TITLES", 4)  # A to D
    score = baselines.item_to_item(Training(), ARRAYS, False)
    (got,) = score(query([D, A, E], E, [C, B]), "enabled", ARRAYS)[0]
    assert abs(got[0]) < 1e-6 and got[1] == pytest.approx(3 / 12**0.5, abs=1e-6)
    assert got[2] > got[0]  # B is more popular than E


def test_popularity_breaks_ties_of_titles_that_occur_together():
    """C and E have equal cosines with A; the more popular C is ahead, from whichever place in the list."""
    training = Training()
    rows = training._words.reshape(-1).view(LAYOUT.row_dtype())
    rows["target"][:, 0] = [C, E, C, E]  # n(A, C) = n(A, E) = n(C) = n(E) = 2
    score = baselines.item_to_item(training, ARRAYS, False)
    for target, negative, sign in ((C, E, 1), (E, C, -1)):
        got = score(query([A], target, [negative, B]), "enabled", ARRAYS)[0, 0]
        assert sign * (got[0] - got[1]) > 0 and got[0] == pytest.approx(2 / 8**0.5, abs=1e-6)


def test_a_sample_of_rows_is_systematic(monkeypatch):
    monkeypatch.setattr(baselines, "_COUNTED", baselines.BLOCK_ROWS)  # one block, the first
    score = baselines.item_to_item(Training(), ARRAYS, False)
    got = score(query([A], C, [E, B]), "enabled", ARRAYS)
    np.testing.assert_allclose(got, [[[1.0, 0.0, 0.0]]], atol=1e-6)  # n(A, C) = n(A) = n(C) = 2


def test_permuted_ids_give_the_same_scores(monkeypatch):
    monkeypatch.setattr(baselines, "_TITLES", 4)
    new_id = np.array([0, 1, 5, 7, 2, 3, 6, 4])
    old_id = np.argsort(new_id)
    arrays = SimpleNamespace(rank_of_id=ARRAYS.rank_of_id[old_id], id_of_rank=new_id[ARRAYS.id_of_rank])
    before, after = Training(), Training()
    words = after._words.reshape(4, -1).view(np.uint32)
    rows = words.reshape(-1).view(LAYOUT.row_dtype())
    rows["history_title"], rows["target"] = new_id[rows["history_title"]], new_id[rows["target"]]
    expected = baselines.item_to_item(before, ARRAYS, False)(query([D, A, E], E, [C, B]), "enabled", ARRAYS)
    history, (target, *negatives) = new_id[[D, A, E]], new_id[[E, C, B]]
    score = baselines.item_to_item(after, arrays, False)
    np.testing.assert_array_equal(score(query(history, target, negatives), "enabled", arrays), expected)
