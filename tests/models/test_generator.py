"""Generator of codes: probabilities of all titles, beams, draws, causality."""

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
from jaxrec.models.generative.trie_steps import NEVER
from jaxrec.models.next_item import ItemWindow

V, L, B, SIZE, LEVELS = 42, 4, 3, 4, 2
FEATURES = (FeatureSpec("title_id", "category", "title", 8, V),)
CONFIG = Model(width=8, experts=(Expert(L, 1, 2, 1.0, 0.0, "sasrec"),), dropout=0.0, head="dot")
TABLE = TitleTable(jnp.zeros((V, 0), jnp.int32), jnp.zeros((V, 0), jnp.float32))
TOKENS = random_codes(V - 2, LEVELS, SIZE, 0).tokens
TRIE = jax.tree.map(jnp.asarray, build_trie(TOKENS, np.arange(2, V), V, SIZE))
EVERY = jnp.broadcast_to(jnp.arange(2, V), (B, V - 2))


class Made:
    """A generator with spread parameters, and its methods as compiled functions of a window and a trie."""

    def __init__(self, experts=1):
        codes = Codes(levels=LEVELS, size=SIZE, decoder=2, experts=experts)
        self.model = Generator("float32", FEATURES, V, CONFIG, codes=codes)
        params = self.model.init(jax.random.key(0), window(), TABLE, method="of_table")["params"]
        draws = np.random.default_rng(0)
        self.params = jax.tree.map(lambda x: x + 0.4 * draws.normal(size=x.shape).astype("f"), params)
        self.every = jax.jit(lambda p, w, trie: self.apply(p, "every", w, trie))
        self.chosen = jax.jit(self._chosen)

    def apply(self, params, method, w, trie, *arguments):
        catalogue = self.model.apply({"params": params}, TABLE, method="catalogue")
        return self.model.apply({"params": params}, w, catalogue, trie, *arguments, method=method)

    def _chosen(self, params, w, trie, position, title):
        return self.apply(params, "chosen", w, trie, position, title, None, None)


def window(titles=((0, 3, 4, 5), (9, 8, 7, 6), (0, 0, 0, 30))):
    title = jnp.asarray(titles, jnp.int32)
    time = jnp.broadcast_to(jnp.arange(L, dtype=jnp.uint32), title.shape)
    return ItemWindow(title, time, time + 1)


@pytest.fixture(scope="module")
def made():
    return Made()


@pytest.fixture(scope="module")
def every(made):
    return np.asarray(made.every(made.params, window(), TRIE))


def test_the_probabilities_of_all_titles_sum_to_1_and_are_those_of_their_codes(made, every):
    np.testing.assert_allclose(np.exp(every).sum(1), 1.0, atol=1e-5)
    assert (every[:, :2] == NEVER).all() and every[:, 2:].std() > 0.3
    newest = jnp.full((B, V - 2), L - 1)
    out = made.chosen(made.params, window(), TRIE, newest, EVERY)
    np.testing.assert_allclose(out.log_pi, every[:, 2:], atol=1e-5)
    np.testing.assert_allclose(out.levels.sum(-1), every[:, 2:], atol=1e-5)


def test_a_mixture_of_experts_gives_probabilities_too():
    made = Made(experts=4)
    every = np.asarray(made.every(made.params, window(), TRIE))
    np.testing.assert_allclose(np.exp(every).sum(1), 1.0, atol=1e-5)
    out = made.chosen(made.params, window(), TRIE, jnp.full((B, V - 2), L - 1), EVERY)
    np.testing.assert_allclose(out.log_pi, every[:, 2:], atol=1e-5)
    assert [x.shape for x in out.decoded.experts] == [(B * (V - 2) * (LEVELS + 1), 2)] * 2


def test_beams_that_hold_all_prefixes_are_the_exhaustive_search(made, every):
    beam = jax.jit(lambda p, w, trie: made.apply(p, "beam", w, trie, V))
    titles = beam(made.params, window(), TRIE)
    order = np.argsort(-every, axis=1, kind="stable")[:, : V - 2]
    assert (titles.id_BxW[:, : V - 2] == order).all() and not titles.id_BxW[:, V - 2 :].any()
    np.testing.assert_allclose(titles.log_pi_BxW[:, : V - 2], np.take_along_axis(every, order, 1), atol=1e-5)


def test_a_narrow_beam_has_valid_titles_once_each_with_exact_scores(made, every):
    beam = jax.jit(lambda p, w, trie: made.apply(p, "beam", w, trie, 6))
    titles = beam(made.params, window(), TRIE)
    ids, scores = np.asarray(titles.id_BxW), np.asarray(titles.log_pi_BxW)
    assert ids.shape == (B, 6) and (ids >= 2).all()
    assert all(len(set(row)) == 6 for row in ids.tolist())
    assert (np.diff(scores, axis=1) <= 0).all()
    np.testing.assert_allclose(scores, np.take_along_axis(every, ids, 1), atol=1e-5)
    # A sub-trie of four titles: these alone, with their probabilities divided among open nodes.
    allowed = np.zeros((B, V), bool)
    allowed[:, [5, 11, 23]], allowed[1, 41] = True, True
    sub = allow(TRIE, jnp.asarray(allowed), jnp)
    titles = beam(made.params, window(), jax.tree.map(jnp.asarray, sub))
    assert [sorted(set(row) - {0}) for row in titles.id_BxW.tolist()] == [
        [5, 11, 23], [5, 11, 23, 41], [5, 11, 23],
    ]  # fmt: skip
    assert np.isneginf(titles.log_pi_BxW[0, 3:]).all() and np.isfinite(titles.log_pi_BxW[0, :3]).all()
    of_sub = np.asarray(made.every(made.params, window(), sub))
    np.testing.assert_allclose(np.exp(of_sub).sum(1), 1.0, atol=1e-5)
    assert (of_sub[~allowed] == NEVER).all()
    np.testing.assert_allclose(
        np.take_along_axis(of_sub, np.asarray(titles.id_BxW), 1)[:, :3], titles.log_pi_BxW[:, :3], atol=1e-5
    )


def test_of_equal_scores_the_lower_node_comes_first(made):
    params = dict(made.params)
    decoder = dict(params["decoder"])
    for level in range(LEVELS + 1):
        decoder[f"logits_{level}"] = jnp.zeros_like(decoder[f"logits_{level}"])
    params["decoder"] = decoder
    titles = jax.jit(lambda p, w, trie: made.apply(p, "beam", w, trie, V))(params, window(), TRIE)
    leaf_of_title = {title: leaf for leaf, title in enumerate(TRIE.title.tolist())}
    for ids, scores in zip(titles.id_BxW.tolist(), titles.log_pi_BxW.tolist(), strict=True):
        pairs = [(-round(s, 5), leaf_of_title[i]) for i, s in zip(ids[: V - 2], scores, strict=False)]
        assert pairs == sorted(pairs)


def test_draws_have_the_probabilities_of_the_titles(made, every):
    draw = jax.jit(lambda p, key: made.apply(p, "draw", window(), TRIE, key, 4000))
    key = jnp.arange(2 * B, dtype=jnp.uint32).reshape(B, 2)
    titles = draw(made.params, key)
    ids = np.asarray(titles.id_BxW)
    assert ids.min() >= 2
    np.testing.assert_allclose(titles.log_pi_BxW, np.take_along_axis(every, ids, 1), atol=1e-5)
    for row, log_pi in zip(ids, every, strict=True):
        expected = 4000 * np.exp(log_pi[2:])
        statistic = (np.square(np.bincount(row, minlength=V)[2:] - expected) / expected).sum()
        assert statistic < 39 + 5 * (2 * 39) ** 0.5  # chi-square of 39 degrees: five standard deviations
    assert (ids[0] != ids[1]).any() and (draw(made.params, key).id_BxW == ids).all()


def test_a_title_depends_on_the_plays_up_to_its_position_alone(made):
    position, title = jnp.array([[1, 3]] * B), jnp.array([[7, 9]] * B)

    def log_pi(catalogue):
        out = made.model.apply(
            {"params": made.params}, w, (catalogue,), TRIE, position, title, None, None, method="chosen"
        )
        return out.log_pi.sum(0)

    # Each play is another title, so that the gradient of a row is that of a position.
    w = window(((11, 12, 13, 14), (21, 22, 23, 24), (31, 32, 33, 34)))
    (catalogue,) = made.model.apply({"params": made.params}, TABLE, method="catalogue")
    first, last = np.asarray(jax.jit(jax.jacobian(log_pi))(catalogue))
    later = [13, 14, 23, 24, 33, 34]
    assert (first[later] == 0).all() and (first[[11, 12, 21, 22, 31, 32]] != 0).any(1).all()
    assert (last[[11, 12, *later]] != 0).any(1).all()


def test_padding_does_not_reach_the_decoder(made, every):
    # The encoder is causal: positions of padding are before all plays, and their content is arbitrary.
    (catalogue,) = made.model.apply({"params": made.params}, TABLE, method="catalogue")
    apply = jax.jit(lambda p, c: made.model.apply({"params": p}, window(), c, TRIE, method="every"))
    other = apply(made.params, (catalogue.at[0].set(9.0),))
    np.testing.assert_array_equal(np.asarray(other), every)
