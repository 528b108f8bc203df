"""Trunks against naive forms: an expert at a time, on concatenated inputs."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.models.heads import ProductFeatures
from jaxrec.models.layers.title_encoder import ProjectedLookup, TitleLookup, TitleProjections
from jaxrec.models.trunks import TITLE_KERNEL, Tower, Trunk, shared_columns

B, C, V, U, F, X, G = 3, 4, 9, 6, 5, 4, 8
HEADS = ("ctr", "thumb", "list_add")
IDS = np.random.default_rng(0).integers(0, V, (B, C)).astype(np.int32)
KINDS = {
    "mmoe": ("mmoe", 4, 1), "mmoe of one": ("mmoe", 1, 1), "ple": ("ple", 2, 1), "ple of one": ("ple", 1, 1),
    "ple of two levels": ("ple", 2, 2),
}  # fmt: skip


CATALOGUE = np.random.default_rng(3).normal(size=(V, F)).astype(np.float32)


def modules(kind, experts, levels, product=X, dtype="float32", heads=HEADS):
    trunk = Trunk(dtype, heads, kind, U, F, product, experts, G, levels)
    return trunk, Tower(dtype, G, (7,), True), ProductFeatures(dtype, U, F, X)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def initial(trunk, tower, products, product=True):
    """Return parameters of random numbers: the gates are far from uniform, and biases from zero."""

    def shapes(u, vectors):
        titles = TitleLookup(vectors, IDS)
        x, of_product = products.init_with_output(jax.random.key(0), u, titles)
        h, of_trunk = trunk.init_with_output(jax.random.key(0), u, titles, x if product else None)
        of_tower = tower.init(jax.random.key(0), h[HEADS[0]])
        trees = {"trunk": of_trunk, "tower": of_tower, "product": of_product}
        return {name: tree["params"] for name, tree in trees.items()}

    leaves, tree = jax.tree.flatten(jax.eval_shape(shapes, normal(0, B, U), CATALOGUE))
    return jax.tree.unflatten(tree, [0.4 * normal(10 + i, *leaf.shape) for i, leaf in enumerate(leaves)])


def naive_mixtures(p, kind, experts, levels, u, t, x):
    """Mixtures by head: each expert is a dense layer of [u, t, x], each gate one of [u, t]."""
    u = jnp.broadcast_to(u if u.ndim == 3 else u[:, None], (*t.shape[:2], U))
    wide = jnp.concatenate([u, t] if x is None else [u, t, x], -1)
    narrow = jnp.concatenate([u, t], -1)
    K = len(HEADS)
    every = experts + (K if kind == "ple" else 0)

    def layer(inputs, kernel, bias, e):
        part = slice(e * G, (e + 1) * G)
        return jax.nn.relu(inputs @ kernel[:, part] + bias[part])

    def mixture(z, logits):
        g = jax.nn.softmax(logits)
        assert g.shape[-1] == len(z)
        return sum(g[..., e, None] * z[e] for e in range(len(z)))

    def of_head(z, k):
        return z[:experts] + ([z[experts + k]] if kind == "ple" else [])

    n = experts + (kind == "ple")
    z = [layer(wide, p["kernel"], p["bias"], e) for e in range(every)]
    gate = narrow @ p["gate"]
    h = [mixture(of_head(z, k), gate[..., k * n : (k + 1) * n]) for k in range(K)]
    if levels == 2:
        shared = mixture(z, gate[..., K * n :])
        inputs = [shared] * experts + h
        z = [layer(inputs[e], p["kernel_second"], p["bias_second"], e) for e in range(every)]
        h = [mixture(of_head(z, k), h[k] @ p["gate_second"][:, k * n : (k + 1) * n]) for k in range(K)]
    return dict(zip(HEADS, h, strict=True))


def naive_tower(p, h):
    return jax.nn.relu(h @ p["kernel_0"] + p["bias_0"]) @ p["kernel_out"] + p["bias_out"]


@cache
def both_forms(kind, experts, levels, product):
    """Return two compiled functions, by the modules and by the naive form, and the modules.

    A function returns a weighted sum of the scores of all heads, and its gradients by parameters, user
    vectors and title vectors.
    """
    trunk, tower, products = modules(kind, experts, levels, X * product)
    weight = normal(5, len(HEADS), B, C)

    def apart(p, u, vectors):
        titles = TitleLookup(vectors, IDS)
        x = products.apply({"params": p["product"]}, u, titles) if product else None
        h = trunk.apply({"params": p["trunk"]}, u, titles, x)
        scores = jnp.stack([tower.apply({"params": p["tower"]}, h[head]) for head in HEADS])
        return (scores * weight).sum()

    def together(p, u, vectors):
        t, wide_u = vectors[IDS], u if u.ndim == 3 else u[:, None]
        x = (wide_u @ p["product"]["user"]) * (t @ p["product"]["title"]) if product else None
        h = naive_mixtures(p["trunk"], kind, experts, levels, u, t, x)
        return (jnp.stack([naive_tower(p["tower"], h[head]) for head in HEADS]) * weight).sum()

    compiled = [jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2))) for f in (apart, together)]
    return *compiled, (trunk, tower, products)


def assert_same(forms, *inputs):
    """Compare values and gradients; return those of the modules."""
    one, two = (form(*inputs) for form in forms)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6, rtol=1e-5), one, two)
    return one


@pytest.mark.parametrize("name", KINDS)
def test_values_and_gradients_are_the_naive_forms(name):
    """With product features for one user vector, and without for a user vector of each candidate."""
    of, product = KINDS[name], "of one" not in name
    shape = (B, U) if product else (B, C, U)
    u = normal(0, *shape)
    *forms, parts = both_forms(*of, product)
    p = initial(*parts, product)
    assert_same(forms, p, u, CATALOGUE)


@pytest.mark.parametrize("of", [KINDS["mmoe"], KINDS["ple of two levels"]], ids=["mmoe", "ple"])
def test_an_expert_that_every_gate_starves_has_no_effect_and_no_gradient(of):
    """The gates' logits of expert 0 are -1e4: its weight is 0, and the rest is the naive form without it."""
    kind, experts, levels = of
    u = normal(0, B, U)
    *forms, parts = both_forms(kind, experts, levels, True)
    p = initial(*parts)
    n, every = experts + (kind == "ple"), experts + len(HEADS) * (kind == "ple")
    starved = np.array([k * n for k in range(len(HEADS))] + [len(HEADS) * n] * (levels == 2))
    # The inputs' first column is 1, so that its row of the gates is a bias.
    u[:, 0] = 1.0
    p["trunk"]["gate"][0, starved] = -1e4
    value, (gradients, *_) = assert_same(forms, p, u, CATALOGUE)
    assert not gradients["trunk"]["kernel"][:, :G].any() and not gradients["trunk"]["bias"][:G].any()
    assert all(gradients["trunk"]["kernel"][:, e * G : (e + 1) * G].any() for e in range(1, every))
    p["trunk"]["kernel"][:, :G] = 99.0
    assert forms[0](p, u, CATALOGUE)[0] == value


@pytest.mark.parametrize("of", [KINDS["mmoe"], KINDS["ple of two levels"]], ids=["mmoe", "ple"])
def test_all_titles_and_cached_projections_give_the_scores_of_candidates(of):
    kind, experts, levels = of
    trunk, tower, products = modules(kind, experts, levels)
    u = normal(0, B, U)
    p = initial(trunk, tower, products)
    variables = {name: {"params": tree} for name, tree in p.items()}
    titles = TitleLookup(CATALOGUE, np.tile(np.arange(V), (B, 1)))
    h = trunk.apply(variables["trunk"], u, titles, products.apply(variables["product"], u, titles))
    bound = tower.bind(variables["tower"]), products.bind(variables["product"])
    for head in HEADS:
        every = trunk.bind(variables["trunk"]).every(head, bound[0], u, CATALOGUE, bound[1])
        np.testing.assert_allclose(every, bound[0](h[head]), atol=2e-6)
    # The titles' part is one kernel, projected once a title: also of unique ids alone.
    id_U = np.unique(IDS)
    kernel = trunk.bind(variables["trunk"]).of_title
    assert kernel.shape[0] == F
    cached = TitleProjections({TITLE_KERNEL: CATALOGUE[id_U] @ kernel}, id_U)
    x = products.apply(variables["product"], u, TitleLookup(CATALOGUE, IDS))
    looked_up = trunk.apply(variables["trunk"], u, ProjectedLookup(cached, IDS), x)
    direct = trunk.apply(variables["trunk"], u, TitleLookup(CATALOGUE, IDS), x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), looked_up, direct)


def test_bfloat16_is_near_float32_and_its_scores_are_float32():
    kind, experts, levels = KINDS["ple of two levels"]
    u = normal(0, B, U)
    p = initial(*modules(kind, experts, levels))
    scores = {}
    for dtype in ("float32", "bfloat16"):
        trunk, tower, products = modules(kind, experts, levels, dtype=dtype)
        inputs, titles = jnp.asarray(u, dtype), TitleLookup(jnp.asarray(CATALOGUE, dtype), IDS)
        x = products.apply({"params": p["product"]}, inputs, titles)
        h = trunk.apply({"params": p["trunk"]}, inputs, titles, x)
        assert {one.dtype for one in h.values()} == {jnp.dtype(dtype)}
        scores[dtype] = tower.apply({"params": p["tower"]}, h["thumb"])
        assert scores[dtype].dtype == jnp.float32
    spread = float(scores["float32"].std())
    np.testing.assert_allclose(scores["bfloat16"], scores["float32"], atol=0.2 * spread)
    assert abs(scores["bfloat16"] - scores["float32"]).max() > 0


def test_a_trunk_of_an_unknown_kind_or_number_of_levels_is_refused():
    u, titles = jnp.ones((B, U)), TitleLookup(CATALOGUE, IDS)
    for kind, levels in (("shared", 1), ("mmoe", 2), ("ple", 3)):
        trunk = modules(kind, 2, levels, 0)[0]
        with pytest.raises(ValueError, match="must be mmoe of 1 level, or ple of 1 or 2"):
            jax.eval_shape(lambda key, t=trunk: t.init(key, u, titles, None), jax.random.key(0))


def test_the_last_bias_is_left_out_and_the_first_gates_are_near_uniform():
    u, titles = normal(0, B, U), TitleLookup(CATALOGUE, IDS)
    assert {*Tower("float32", G, (7,), False).init(jax.random.key(0), jnp.ones((B, C, G)))["params"]} == {
        "kernel_0", "bias_0", "kernel_out"
    }  # fmt: skip
    gate = modules("mmoe", 4, 1, 0)[0].init(jax.random.key(0), u, titles, None)["params"]["gate"]
    logits = jnp.concatenate([jnp.broadcast_to(u[:, None], (B, C, U)), CATALOGUE[IDS]], -1) @ gate
    assert abs(jax.nn.softmax(logits.reshape(B, C, 3, 4)) - 0.25).max() < 0.05


def test_columns_that_several_heads_share_on_one_level():
    mmoe, ple = shared_columns("mmoe", 3, 4, G, 1), shared_columns("ple", 2, 1, 2, 1)
    assert mmoe["kernel"].all() and mmoe["bias"].shape == (4 * G,)
    assert not mmoe["gate"].any() and mmoe["gate"].shape == (12,)
    for name in ("kernel", "bias"):
        assert ple[name].tolist() == [True, True, False, False, False, False]
    assert ple["gate"].tolist() == [False] * 4 and ple.keys() == mmoe.keys()


def test_columns_that_several_heads_share_on_two_levels_are_those_with_gradients_of_several():
    kind, experts, levels = KINDS["ple of two levels"]
    trunk, *_ = modules(kind, experts, levels, product=0)
    u, titles = normal(0, B, U), TitleLookup(CATALOGUE, IDS)
    shapes = jax.eval_shape(lambda: trunk.init(jax.random.key(0), u, titles, None))["params"]
    leaves, tree = jax.tree.flatten(shapes)
    params = jax.tree.unflatten(tree, [0.1 * normal(10 + i, *x.shape) for i, x in enumerate(leaves)])
    for name in ("bias", "bias_second"):
        params[name] += 5  # no unit is dead

    def losses(params):
        h = trunk.apply({"params": params}, u, titles, None)
        return jnp.stack([jnp.square(h[head]).sum() for head in HEADS])

    gradients = jax.jit(jax.jacrev(losses))(params)
    masks = shared_columns(kind, len(HEADS), experts, G, levels)
    assert masks.keys() == params.keys()
    for name, of_heads in gradients.items():
        readers = (np.asarray(of_heads).reshape(len(HEADS), -1, of_heads.shape[-1]) != 0).any(1).sum(0)
        assert masks[name].shape == readers.shape and (readers[~masks[name]] <= 1).all()
        np.testing.assert_array_equal(masks[name], readers > 1, err_msg=name)
