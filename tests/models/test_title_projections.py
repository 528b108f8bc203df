"""The whole catalogue's scores are those of each title: the plain form is `score` with every id."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.models import heads, trunks
from jaxrec.models.features import cross
from jaxrec.models.outputs import UserEncoding

V = 30  # of the case
KINDS = {
    "titles narrower than the product": {"matcher": (12, 16)},  # 13 wide
    "titles wider": {"matcher": (12, 6), "tasks": ("ctr", "completion")},
    "one layer": {"matcher": (14,), "tasks": ("ranking",)},
    "no product": {"matcher_product": False, "tasks": ("ranking",)},
    "dot": {"head": "dot", "tasks": ("ranking",)},
    "cross": {"tasks": ("ctr", "ranking"), "cross": 2},
    "cross of rank 3": {"tasks": ("ctr",), "cross": 2, "cross_rank": 3},
    "cross without a product": {"tasks": ("ranking",), "cross": 1, "matcher_product": False},
    "ple": {
        "tasks": ("ctr", "ranking"),
        "trunk": "ple",
        "trunk_experts": 3,
        "trunk_width": 8,
        "trunk_levels": 2,
    },
}


def both(c):
    """Each task's scores by every id and by the catalogue, of parameters far from 0, where a sum left out
    would hardly show."""
    r = np.random.default_rng(4)
    params = jax.tree.map(lambda x: x + jnp.asarray(r.normal(0, 0.6, x.shape), x.dtype), c.variables)

    def run(params):
        user = c.model.apply(params, c.history, c.table, 1.0, method="encode")
        ids = jnp.broadcast_to(jnp.arange(V), (len(c.candidate), V))
        plain = c.model.apply(params, user, ids, c.table, method="score")
        return {
            t: (s, c.model.apply(params, user, c.table, t, method="score_catalogue"))
            for t, s in plain.items()
        }

    return jax.jit(run)(params)


IN_TILES, AT_ONCE = 2, 64  # users whose pairs with all titles are worked out at a time


@pytest.mark.parametrize(
    ("users", "kind"),
    [
        *(pytest.param(IN_TILES, kind, id=f"in tiles-{kind}") for kind in KINDS),
        pytest.param(AT_ONCE, "titles wider", id="at once-titles wider"),
        *(
            pytest.param(AT_ONCE, kind, id=f"at once-{kind}", marks=pytest.mark.slow)
            for kind in KINDS
            if kind != "titles wider"
        ),
    ],
)
def test_scores_are_the_plain_forms(case, kind, users, monkeypatch):
    """`pytest -m slow tests/nn/test_catalogue.py`: every kind at once, too."""
    monkeypatch.setattr(trunks, "_CPU_VALUES", users * V * 5 * 8)  # of "ple": 5 experts
    monkeypatch.setattr(cross, "_PAIRS", users * V)
    monkeypatch.setattr(heads, "_CPU_PAIRS", users * V)  # five requests: the last tile is not full
    c = case(**KINDS[kind])
    scores = both(c)
    assert {*scores} == {head.name for head in c.model.heads}
    for plain, cached in scores.values():
        assert cached.shape == (5, V) and cached.dtype == jnp.float32
        assert plain.std(0).max() > 0.01 and plain.std(1).max() > 0.01
        np.testing.assert_allclose(cached, plain, rtol=1e-5, atol=1e-5 * max(1, plain.std()))


@pytest.mark.parametrize("kind", ["titles wider", "cross", "ple"])
def test_one_request_costs_no_tile(case, kind):
    """A served request is one user, and the program `scores` of an export has one title at a time."""
    c = case(**KINDS[kind])
    encoded = jax.eval_shape(
        lambda v: c.model.apply(v, c.history, c.table, 1.0, method="encode"), c.variables
    )

    def flops(users):
        user = UserEncoding(*(jax.ShapeDtypeStruct((users, *x.shape[1:]), x.dtype) for x in encoded[:3]))

        def score(params, user):
            return c.model.apply(params, user, c.table, "ctr", jnp.arange(1), method="score_catalogue")

        return jax.jit(score).lower(c.variables, user).cost_analysis()["flops"]

    assert flops(1) < 0.02 * flops(1000)


def test_float64_is_float64(case):
    with jax.enable_x64(True):
        plain, cached = both(case(dtype="float64", matcher=(12, 16)))["ranking"]
        assert cached.dtype == jnp.float64
        np.testing.assert_allclose(cached, plain, rtol=1e-12, atol=1e-13)


def test_bfloat16_comes_out_wide(case):
    plain, cached = both(case(dtype="bfloat16", matcher=(12, 16)))["ranking"]
    assert cached.dtype == jnp.float32
    np.testing.assert_allclose(cached, plain, atol=0.05 * float(jnp.abs(plain).max()))


def test_a_user_vector_a_candidate_is_refused(small):
    user = UserEncoding(jnp.zeros((5, 4, 8)), jnp.ones((5, 4, 1)), jnp.ones((5, 4, 1)))
    with pytest.raises(ValueError, match="target_in_sequence"):
        small.model.apply(small.variables, user, small.table, "ctr", method="score_catalogue")
