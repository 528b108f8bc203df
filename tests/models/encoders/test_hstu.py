"""HSTU: its equations title by title, who sees whom, the buckets of time, and that it learns them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Expert
from jaxrec.models.encoders import hstu
from jaxrec.models.encoders.base import PackedTitles
from jaxrec.models.layers import history_encoder, rng

WINDOW, L, D, H, REQUESTS, PAD = 7, 6, 8, 2, 4, 9
# Whose title it is: three requests in a row, one beside padding, one (number 3) that shows nothing.
WHOSE = jnp.array([[0, 0, 0, 2, 2, PAD], [PAD, 1, 1, 1, 1, PAD]])
AGO = np.array([[9e5, 8.9e5, 40, 7e7, 3e3, 0], [0, 4e6, 4e6, 86400, 5, 0]])  # seconds


def module_of(dtype="float32", dropout=0.0):
    return hstu.Hstu(dtype, Expert(WINDOW, 2, H, 1.0, dropout, "hstu"))


def filled(dtype):
    """Titles and parameters, none of which is 0 or 1, the biases as large as scores are."""
    r = np.random.default_rng(0)
    titles = PackedTitles(
        jnp.asarray(r.normal(size=(2, L, D)), dtype), WHOSE, jnp.log1p(jnp.asarray(AGO)), None
    )
    shapes = jax.eval_shape(lambda: module_of(dtype).init(jax.random.key(0), titles, REQUESTS))
    return titles, jax.tree.map(lambda x: jnp.asarray(r.normal(size=x.shape) * 0.7, dtype), shapes)


@pytest.fixture(scope="module")
def made():
    titles, variables = filled("float32")
    return titles, variables, jax.jit(lambda v, t: module_of().apply(v, t, REQUESTS))


# ---------------------------------------------------------------- the equations


def silu(x):
    return x / (1 + np.exp(-x))


def norm(x, p):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * p["scale"] + p["bias"]


def plain(p, x, ago):
    """One request's newest output, its titles x [l, D] played `ago` seconds ago, in loops."""
    d, h = D // H, list(x)
    for layer in (p["block_0"], p["block_1"]):
        u, v, q, k = zip(
            *(np.split(silu(norm(t, layer["norm"]) @ layer["uvqk"]["kernel"]), 4) for t in h), strict=True
        )
        found = []
        for i in range(len(h)):
            y = np.zeros(D)
            for head in range(H):
                part = slice(head * d, head * d + d)
                for j in range(i + 1):
                    bucket = min(
                        int(2 * np.log(1 + abs(ago[j] - ago[i]))), history_encoder.TIME_GAP_BUCKETS - 1
                    )
                    bias = layer["bias"]["position_bias"][i - j] + layer["bias"]["time_bias"][bucket]
                    y[part] += silu(q[i][part] @ k[j][part] + bias) / WINDOW * v[j][part]
            gated = norm(y, layer["gated_norm"]) * u[i]
            found.append(h[i] + gated @ layer["out"]["kernel"] + layer["out"]["bias"])
        h = found
    return norm(h[-1], p["norm"])


def test_it_is_the_equations_in_loops():
    with jax.enable_x64(True):
        titles, variables = filled("float64")
        got = jax.jit(lambda v: module_of("float64").apply(v, titles, REQUESTS))(variables)
        p = jax.tree.map(np.asarray, variables["params"])
    x, whose = np.asarray(titles.x_RxLxD), np.asarray(WHOSE)
    for request in range(3):
        wanted = plain(p, x[whose == request], AGO[whose == request])
        np.testing.assert_allclose(got[request], wanted, atol=1e-10)
    np.testing.assert_array_equal(got[3], p["newest"]["empty"])


def test_gaps_by_hand():
    # 2 ln(1 + seconds): none 0, a minute 8.2, an hour 16.4, a day 22.7; whichever comes first
    found = hstu.gaps(jnp.log1p(jnp.array([[86400.0, 3600, 60, 0, 0]])))[0]
    assert found[3].tolist() == [22, 16, 8, 0, 0] and found[:, 3].tolist() == [22, 16, 8, 0, 0]
    assert found[1, 2] == 16  # 3540 s: 16.3
    assert found[0, 1] == 22  # 82800 s: 22.6
    assert hstu.gaps(jnp.array([[30.0, 0.0]]))[0, 0, 1] == history_encoder.TIME_GAP_BUCKETS - 1


# ---------------------------------------------------------------- who sees whom


def test_a_title_sees_itself_and_the_older_ones_of_its_request(made):
    titles, variables, _ = made

    def middle(x):  # what the last block gives for the second of request 0's three titles
        given = module_of().apply(variables, titles._replace(x_RxLxD=x), REQUESTS, capture_intermediates=True)
        return (given[1]["intermediates"]["block_1"]["__call__"][0][0][0, 1] * jnp.arange(1.0, D + 1)).sum()

    grad = jax.jit(jax.grad(middle))(titles.x_RxLxD)
    assert np.all(np.any(grad[0, :2], axis=-1))
    assert not np.any(grad[0, 2:]) and not np.any(grad[1])


def test_a_request_is_the_same_alone_in_its_row(made):
    titles, variables, run = made
    together, names = run(variables, titles), ("x_RxLxD", "age_RxL")
    for request in range(3):
        row, place = np.nonzero(np.asarray(WHOSE) == request)
        for first in (0, L - len(place)):  # at either end
            to = first + np.arange(len(place))
            moved = {n: jnp.zeros_like(getattr(titles, n)) for n in names}
            moved = {n: x.at[0, to].set(getattr(titles, n)[row, place]) for n, x in moved.items()}
            whose = jnp.full((2, L), PAD).at[0, to].set(request)
            one = run(variables, titles._replace(example_RxL=whose, **moved))
            np.testing.assert_allclose(one[request], together[request], atol=1e-6)


def test_the_content_of_padding_changes_nothing_bit_for_bit(made):
    titles, variables, run = made
    pad = WHOSE == PAD
    x, age = titles.x_RxLxD, titles.age_RxL
    other = titles._replace(x_RxLxD=jnp.where(pad[..., None], 100.0, x), age_RxL=jnp.where(pad, jnp.nan, age))
    np.testing.assert_array_equal(run(variables, other), run(variables, titles))
    slopes = jax.jit(jax.grad(lambda v, t: (run(v, t) ** 3).sum()))
    jax.tree.map(np.testing.assert_array_equal, slopes(variables, other), slopes(variables, titles))


def test_when_titles_were_played_counts(made):
    titles, variables, run = made
    later = run(variables, titles._replace(age_RxL=titles.age_RxL / 2))
    assert np.all(np.any(np.abs(later - run(variables, titles))[:3] > 1e-3, axis=-1))


def test_a_shorter_window_knows_its_times_too(case):
    experts = Expert(3, 1, 2, 1.0, 0.0, "hstu"), Expert(6, 1, 2, 1.0, 0.0, "sasrec")
    c = case(experts=experts, reads=("title_id",))  # which leaves age to the biases alone
    later = c(c.history._replace(age=c.history.age / 2))
    changed = np.any(later.scores["ctr"] != c().scores["ctr"], axis=1)
    np.testing.assert_array_equal(changed, (c.history.title[:, -3:] > 0).sum(1) > 1)


# ---------------------------------------------------------------- training


def test_dropout_is_for_training_alone_and_the_same_wherever_a_title_lies(made):
    titles, variables, run = made
    module = module_of(dropout=0.5)
    dropped = jax.jit(lambda t: module.apply(variables, t, REQUESTS))
    np.testing.assert_array_equal(dropped(titles), run(variables, titles))
    key = rng.fold_in(rng.row_keys(0, 0, jnp.arange(2))[:, None], jnp.arange(L))
    one = dropped(titles._replace(key_RxLx2=key))
    assert np.all(np.any(one != run(variables, titles), axis=-1)[:3])
    turned = PackedTitles(*(x[::-1] for x in titles._replace(key_RxLx2=key)))
    np.testing.assert_allclose(dropped(turned), one, atol=1e-6)


def test_it_learns_what_times_alone_tell():
    """Whether two titles, the same for all, were played a day or a minute apart."""
    r = np.random.default_rng(0)
    apart = r.integers(0, 2, 64)
    x = jnp.broadcast_to(jnp.asarray(r.normal(size=(2, D)), "float32"), (64, 2, D))
    age = np.log1p(np.stack([np.where(apart, 90000, 3660), np.full(64, 3600)], 1))
    titles = PackedTitles(x, jnp.arange(64)[:, None].repeat(2, 1), jnp.asarray(age, "float32"), None)
    module = hstu.Hstu("float32", Expert(2, 2, H, 1.0, 0.0, "hstu"))

    def loss(v):
        return ((module.apply(v, titles, 64)[:, 0] - jnp.asarray(2.0 * apart - 1)) ** 2).mean()

    def step(v, _):
        value, grads = jax.value_and_grad(loss)(v)
        return jax.tree.map(lambda p, g: p - 0.1 * g, v, grads), value

    start = jax.jit(lambda: module.init(jax.random.key(0), titles, 64))()
    values = jax.jit(lambda v: jax.lax.scan(step, v, length=300)[1])(start)
    assert values[0] > 0.5 and values[-1] < 0.05, values[::30]
