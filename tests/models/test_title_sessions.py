"""Sessions of several titles: probabilities by hand, beams equal to exhaustive search, no title twice."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.codes.residual_codes import random_codes
from jaxrec.codes.trie import allow, build_trie
from jaxrec.config.schema import Codes, Expert, Model
from jaxrec.core.batch import TitleTable
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.generative.generator import Generator
from jaxrec.models.next_item import ItemWindow

V, L, M = 9, 3, 3  # seven titles, of which two share a path
FEATURES = (FeatureSpec("title_id", "category", "title", 8, V),)
CONFIG = Model(width=8, experts=(Expert(L, 1, 2, 1.0, 0.0, "sasrec"),), dropout=0.0, head="dot")
TABLE = TitleTable(jnp.zeros((V, 0), jnp.int32), jnp.zeros((V, 0), jnp.float32))
TRIE = jax.tree.map(jnp.asarray, build_trie(random_codes(V - 2, 2, 3, 0).tokens, np.arange(2, V), V, 3))
EVERY = np.array([*itertools.permutations(range(2, V), M)], np.int32)


class Made:
    """A generator of sessions with spread parameters, and its methods as compiled functions."""

    def __init__(self):
        codes = Codes(levels=2, size=3, decoder=1, titles=M)
        self.model = Generator("float32", FEATURES, V, CONFIG, codes=codes)
        title = jnp.asarray([[3, 4, 5], [0, 8, 7]], jnp.int32)
        time = jnp.broadcast_to(jnp.arange(L, dtype=jnp.uint32), title.shape)
        self.window = ItemWindow(title, time, time + 1)
        params = self.model.init(jax.random.key(0), self.window, TABLE, method="of_table")["params"]
        draws = np.random.default_rng(0)
        self.params = jax.tree.map(lambda x: x + 0.4 * draws.normal(size=x.shape).astype("f"), params)

    def __call__(self, method, trie, *arguments):
        """Return the output of a method of the model after the windows."""

        def call(params, trie):
            catalogue = self.model.apply({"params": params}, TABLE, method="catalogue")
            return self.model.apply(
                {"params": params}, self.window, catalogue, trie, *arguments, method=method
            )

        return jax.jit(call)(self.params, trie)

    def chosen(self, sessions, trie=TRIE):
        """Return log probabilities [2, n, m] of sessions [n, m] after the newest position."""
        titles = jnp.broadcast_to(jnp.asarray(sessions), (2, *sessions.shape))
        newest = jnp.full(titles.shape[:2], L - 1)
        return np.asarray(self("chosen", trie, newest, titles, None, None).log_pi)


@pytest.fixture(scope="module")
def made():
    return Made()


@pytest.fixture(scope="module")
def chosen(made):
    return made.chosen(EVERY)


def test_the_probabilities_of_all_sessions_of_different_titles_sum_to_1(chosen):
    np.testing.assert_allclose(np.exp(chosen.sum(-1)).sum(1), 1.0, atol=1e-5)
    assert chosen.sum(-1).std() > 0.3


def test_the_first_title_of_a_session_has_the_probability_of_a_single_title(made, chosen):
    every = np.asarray(made("every", TRIE))
    np.testing.assert_allclose(chosen[:, :, 0], every[:, EVERY[:, 0]], atol=1e-5)


def test_beams_that_hold_all_prefixes_are_the_exhaustive_search_of_sessions(made, chosen):
    best = made("sessions", TRIE, 256)
    total = chosen.sum(-1)
    order = np.argsort(-total, axis=1, kind="stable")
    count = len(EVERY)
    assert (np.asarray(best.id_BxWxm)[:, :count] == EVERY[order]).all()
    assert not np.asarray(best.id_BxWxm)[:, count:].any()
    expected = np.take_along_axis(np.cumsum(chosen, -1), order[..., None], 1)
    np.testing.assert_allclose(best.log_pi_BxWxm[:, :count], expected, atol=1e-4)


def test_narrow_beams_have_no_title_twice_in_a_session_and_allowed_titles_alone(made):
    allowed = np.zeros((2, V), bool)
    allowed[:, 2:6], allowed[1, 8] = True, True
    trie = jax.tree.map(jnp.asarray, allow(TRIE, jnp.asarray(allowed), jnp))
    best = made("sessions", trie, 5)
    ids, scores = np.asarray(best.id_BxWxm), np.asarray(best.log_pi_BxWxm)
    assert ids.shape == (2, 5, M)
    for row, of_row in zip(ids, allowed, strict=True):
        assert all(len(set(one)) == M and of_row[list(one)].all() for one in row.tolist())
    assert (np.diff(scores, axis=-1) < 0).all() and (np.diff(scores[..., -1], axis=1) <= 0).all()
    whole = made.chosen(ids[0], trie)[0]  # the probabilities of closed titles are divided among the others
    np.testing.assert_allclose(scores[0], np.cumsum(whole, -1), atol=1e-5)
