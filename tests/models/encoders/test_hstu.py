"""Tests of HSTU: equations, attention mask, time-gap buckets, dropout and learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Expert
from jaxrec.models.encoders import hstu
from jaxrec.models.encoders.base import PackedTitles
from jaxrec.models.layers import history_encoder, rng

WINDOW, L, D, H, EXAMPLES, PAD = 7, 6, 8, 2, 4, 9
# Owners of the titles: examples 0 and 2 share a row, example 1 is next to padding, example 3 is empty.
OWNERS = jnp.array([[0, 0, 0, 2, 2, PAD], [PAD, 1, 1, 1, 1, PAD]])
AGO = np.array([[9e5, 8.9e5, 40, 7e7, 3e3, 0], [0, 4e6, 4e6, 86400, 5, 0]])  # seconds


def module_of(dtype="float32", dropout=0.0):
    return hstu.Hstu(dtype, Expert(WINDOW, 2, H, 1.0, dropout, "hstu"))


def random_inputs(dtype):
    """Return random titles and parameters, with biases as large as scores."""
    r = np.random.default_rng(0)
    titles = PackedTitles(
        jnp.asarray(r.normal(size=(2, L, D)), dtype), OWNERS, jnp.log1p(jnp.asarray(AGO)), None
    )
    shapes = jax.eval_shape(lambda: module_of(dtype).init(jax.random.key(0), titles, EXAMPLES))
    return titles, jax.tree.map(lambda x: jnp.asarray(r.normal(size=x.shape) * 0.7, dtype), shapes)


@pytest.fixture(scope="module")
def small_module():
    titles, variables = random_inputs("float32")
    return titles, variables, jax.jit(lambda v, t: module_of().apply(v, t, EXAMPLES))


# ---------------------------------------------------------------- the equations


def silu(x):
    return x / (1 + np.exp(-x))


def norm(x, p):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * p["scale"] + p["bias"]


def plain(p, x, ago):
    """Compute the newest output of one example in loops: titles x [l, D], played `ago` seconds ago."""
    d, h = D // H, list(x)
    for layer in (p["block_0"], p["block_1"]):
        u, v, q, k = zip(
            *(np.split(silu(norm(t, layer["norm"]) @ layer["uvqk"]["kernel"]), 4) for t in h), strict=True
        )
        next_h = []
        for i in range(len(h)):
            y = np.zeros(D)
            for head in range(H):
                head_slice = slice(head * d, head * d + d)
                for j in range(i + 1):
                    bucket = min(
                        int(2 * np.log(1 + abs(ago[j] - ago[i]))), history_encoder.TIME_GAP_BUCKETS - 1
                    )
                    bias = layer["bias"]["position_bias"][i - j] + layer["bias"]["time_bias"][bucket]
                    y[head_slice] += (
                        silu(q[i][head_slice] @ k[j][head_slice] + bias) / WINDOW * v[j][head_slice]
                    )
            gated = norm(y, layer["gated_norm"]) * u[i]
            next_h.append(h[i] + gated @ layer["out"]["kernel"] + layer["out"]["bias"])
        h = next_h
    return norm(h[-1], p["norm"])


def test_outputs_equal_the_equations_in_loops():
    with jax.enable_x64(True):
        titles, variables = random_inputs("float64")
        outputs = jax.jit(lambda v: module_of("float64").apply(v, titles, EXAMPLES))(variables)
        p = jax.tree.map(np.asarray, variables["params"])
    x, owners = np.asarray(titles.x_RxLxD), np.asarray(OWNERS)
    for example in range(3):
        expected = plain(p, x[owners == example], AGO[owners == example])
        np.testing.assert_allclose(outputs[example], expected, atol=1e-10)
    np.testing.assert_array_equal(outputs[3], p["newest"]["empty"])


def test_gaps_by_hand():
    # 2 ln(1 + seconds): 0 s 0, a minute 8.2, an hour 16.4, a day 22.7; the order does not matter
    next_h = hstu.gaps(jnp.log1p(jnp.array([[86400.0, 3600, 60, 0, 0]])))[0]
    assert next_h[3].tolist() == [22, 16, 8, 0, 0] and next_h[:, 3].tolist() == [22, 16, 8, 0, 0]
    assert next_h[1, 2] == 16  # 3540 s: 16.3
    assert next_h[0, 1] == 22  # 82800 s: 22.6
    assert hstu.gaps(jnp.array([[30.0, 0.0]]))[0, 0, 1] == history_encoder.TIME_GAP_BUCKETS - 1


# ---------------------------------------------------------------- attention mask


def test_a_title_attends_to_itself_and_older_titles_of_its_example(small_module):
    titles, variables, _ = small_module

    def middle(x):  # output of the last block for the second of the three titles of example 0
        captured = module_of().apply(
            variables, titles._replace(x_RxLxD=x), EXAMPLES, capture_intermediates=True
        )
        return (
            captured[1]["intermediates"]["block_1"]["__call__"][0][0][0, 1] * jnp.arange(1.0, D + 1)
        ).sum()

    grad = jax.jit(jax.grad(middle))(titles.x_RxLxD)
    assert np.all(np.any(grad[0, :2], axis=-1))
    assert not np.any(grad[0, 2:]) and not np.any(grad[1])


def test_an_example_does_not_depend_on_others_in_its_row(small_module):
    titles, variables, run = small_module
    shared, names = run(variables, titles), ("x_RxLxD", "age_RxL")
    for example in range(3):
        row, position = np.nonzero(np.asarray(OWNERS) == example)
        for first in (0, L - len(position)):  # at either end
            target_slots = first + np.arange(len(position))
            moved = {n: jnp.zeros_like(getattr(titles, n)) for n in names}
            moved = {
                n: x.at[0, target_slots].set(getattr(titles, n)[row, position]) for n, x in moved.items()
            }
            owners = jnp.full((2, L), PAD).at[0, target_slots].set(example)
            output = run(variables, titles._replace(example_RxL=owners, **moved))
            np.testing.assert_allclose(output[example], shared[example], atol=1e-6)


def test_padding_has_no_effect_bit_for_bit(small_module):
    titles, variables, run = small_module
    pad = OWNERS == PAD
    x, age = titles.x_RxLxD, titles.age_RxL
    other = titles._replace(x_RxLxD=jnp.where(pad[..., None], 100.0, x), age_RxL=jnp.where(pad, jnp.nan, age))
    np.testing.assert_array_equal(run(variables, other), run(variables, titles))
    gradients = jax.jit(jax.grad(lambda v, t: (run(v, t) ** 3).sum()))
    jax.tree.map(np.testing.assert_array_equal, gradients(variables, other), gradients(variables, titles))


def test_outputs_depend_on_times_of_plays(small_module):
    titles, variables, run = small_module
    changed = run(variables, titles._replace(age_RxL=titles.age_RxL / 2))
    assert np.all(np.any(np.abs(changed - run(variables, titles))[:3] > 1e-3, axis=-1))


def test_a_shorter_window_reads_its_own_times(case):
    experts = Expert(3, 1, 2, 1.0, 0.0, "hstu"), Expert(6, 1, 2, 1.0, 0.0, "sasrec")
    c = case(experts=experts, reads=("title_id",))  # age is then read by the biases only
    changed = c(c.history._replace(age=c.history.age / 2))
    changed = np.any(changed.scores["ctr"] != c().scores["ctr"], axis=1)
    np.testing.assert_array_equal(changed, (c.history.title[:, -3:] > 0).sum(1) > 1)


# ---------------------------------------------------------------- training


def test_dropout_needs_keys_and_does_not_depend_on_rows(small_module):
    titles, variables, run = small_module
    module = module_of(dropout=0.5)
    dropped = jax.jit(lambda t: module.apply(variables, t, EXAMPLES))
    np.testing.assert_array_equal(dropped(titles), run(variables, titles))
    key = rng.fold_in(rng.row_keys(0, 0, jnp.arange(2))[:, None], jnp.arange(L))
    output = dropped(titles._replace(key_RxLx2=key))
    assert np.all(np.any(output != run(variables, titles), axis=-1)[:3])
    reversed_rows = PackedTitles(*(x[::-1] for x in titles._replace(key_RxLx2=key)))
    np.testing.assert_allclose(dropped(reversed_rows), output, atol=1e-6)


def test_hstu_learns_from_times_only():
    """The target is whether two titles, equal for all examples, were played a day or a minute apart."""
    r = np.random.default_rng(0)
    is_day = r.integers(0, 2, 64)
    x = jnp.broadcast_to(jnp.asarray(r.normal(size=(2, D)), "float32"), (64, 2, D))
    age = np.log1p(np.stack([np.where(is_day, 90000, 3660), np.full(64, 3600)], 1))
    titles = PackedTitles(x, jnp.arange(64)[:, None].repeat(2, 1), jnp.asarray(age, "float32"), None)
    module = hstu.Hstu("float32", Expert(2, 2, H, 1.0, 0.0, "hstu"))

    def loss(v):
        return ((module.apply(v, titles, 64)[:, 0] - jnp.asarray(2.0 * is_day - 1)) ** 2).mean()

    def step(v, _):
        value, grads = jax.value_and_grad(loss)(v)
        return jax.tree.map(lambda p, g: p - 0.1 * g, v, grads), value

    start = jax.jit(lambda: module.init(jax.random.key(0), titles, 64))()
    values = jax.jit(lambda v: jax.lax.scan(step, v, length=300)[1])(start)
    assert values[0] > 0.5 and values[-1] < 0.05, values[::30]
