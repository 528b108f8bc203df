"""The chain against steps worked by hand, and the plateau against PyTorch's table of rates."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Optimizer
from jaxrec.core.errors import InputError
from jaxrec.runtime import mesh, parallel_step
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training import optimizer
from jaxrec.training.input_pipeline import training_batches
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

PARAMS = {"kernel": jnp.array([2.0, -4.0]), "bias": jnp.array([1.0]), "norm": {"scale": jnp.array([1.0])}}
PLAIN = Optimizer(learning_rate=0.1, weight_decay=0.0, plateau_factor=0.5, plateau_patience=2)


def update(config, grads, params=PARAMS):
    tx = optimizer.make(config)
    return tx.update(grads, tx.init(params), params, value=0.0, fresh=False)[0]


def ones():
    return jax.tree.map(jnp.ones_like, PARAMS)


def test_adams_first_step_is_the_rate():
    np.testing.assert_allclose(update(PLAIN, ones())["kernel"], [-0.1, -0.1], rtol=1e-5)


def test_decoupled_decay_joins_the_step():
    got = update(replace(PLAIN, weight_decay=0.01), ones())
    np.testing.assert_allclose(got["kernel"], [-0.1 * (1 + 0.02), -0.1 * (1 - 0.04)], rtol=1e-5)
    np.testing.assert_allclose(got["bias"], [-0.1 * 1.01], rtol=1e-5)


def test_coupled_decay_joins_the_gradient():
    # gradient 0: the first Adam step is the sign of decay * parameter, whatever the decay
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    got = update(replace(PLAIN, weight_decay=0.01, decay="coupled"), zeros)
    np.testing.assert_allclose(got["kernel"], [-0.1, 0.1], rtol=1e-4)


@pytest.mark.parametrize("decay", optimizer.DECAYS)
def test_biases_and_norms_spared(decay):
    config = replace(PLAIN, weight_decay=0.5, decay=decay, decay_spares="biases_and_norms")
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    got = update(config, zeros)
    assert np.all(np.asarray(got["kernel"]) != 0)
    assert float(got["bias"][0]) == float(got["norm"]["scale"][0]) == 0.0


def rates(config, values, between=3):
    """The rate after each evaluation, with stale steps between them, whose value must not count."""
    tx = optimizer.make(config)
    state, out = tx.init(PARAMS), []
    step = jax.jit(lambda s, v, f: tx.update(ones(), s, PARAMS, value=v, fresh=f))
    for value in values:
        for _ in range(between):
            _, state = step(state, jnp.float32(0.0), jnp.bool_(False))
        updates, state = step(state, jnp.float32(value), jnp.bool_(True))
        out.append(float(optimizer.learning_rate(state, config)))
    assert step._cache_size() == 1
    return out, updates


def test_plateau_is_pytorchs():
    # torch.optim.lr_scheduler.ReduceLROnPlateau(factor=.5, patience=2): the rate falls on the third
    # evaluation in a row that is no better than the best by one part in 10,000, and the count restarts.
    values = [1.0, 0.9, 0.95, 0.91, 0.9, 0.85, 0.85, 0.84999, 0.8499, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    wanted = [0.1] * 4 + [0.05] * 4 + [0.05, 0.05, 0.05, 0.05, 0.025, 0.025, 0.025, 0.0125]
    got, updates = rates(PLAIN, values)
    np.testing.assert_allclose(got, wanted)
    np.testing.assert_allclose(updates["kernel"], -0.0125, rtol=1e-3)  # it acts in the step that learns of it


@pytest.mark.parametrize("lazy", [False, True])
def test_the_rate_warms_up_linearly_and_is_told_truly(lazy):
    config = replace(PLAIN, warmup=4, lazy=lazy, plateau_patience=0)
    params = {"embedding": jnp.zeros((2, 3)), "kernel": jnp.zeros(3)}
    state = optimizer.make(config).init(params)
    for n, rate in enumerate([0.025, 0.05, 0.075, 0.1, 0.1, 0.05]):
        plateau = {"value": 1.0, "fresh": n in (4, 5)}  # the second is no better than the first: halved
        if n < 5:
            assert float(optimizer.learning_rate(state, config)) == pytest.approx(rate)
        before = params
        grads = jax.tree.map(jnp.ones_like, params)
        params, state = optimizer.step(config, grads, state, params, **plateau)
        for name in params:
            np.testing.assert_allclose(before[name] - params[name], rate, rtol=1e-4)  # Adam's step is 1
    assert float(optimizer.learning_rate(state, config)) == pytest.approx(0.05)


def test_a_stale_zero_freezes_nothing():
    assert rates(PLAIN, [5.0, 4.0, 3.0, 2.0, 1.0])[0] == pytest.approx([0.1] * 5)


def test_patience_0_and_a_factor_that_lowers_nothing():
    assert rates(replace(PLAIN, plateau_patience=0), [1.0, 1.0, 1.0])[0] == pytest.approx([0.1, 0.05, 0.025])
    assert rates(replace(PLAIN, plateau_factor=1.0), [1.0] * 12)[0] == pytest.approx([0.1] * 12)


def test_state_is_a_tree_of_arrays():
    state = optimizer.make(PLAIN).init(PARAMS)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(InputError, match=r"optimizer\.decay='l2' must be one of decoupled, coupled"):
        optimizer.make(replace(PLAIN, decay="l2"))
    with pytest.raises(InputError, match=r"optimizer\.decay_spares='none' must be one of nothing"):
        optimizer.make(replace(PLAIN, decay_spares="none"))


# ---------------------------------------------------------------- lazy

TABLES = {
    "title": {"embedding": jnp.linspace(-1.0, 1.0, 40).reshape(10, 4)},
    "user": {"embedding": jnp.linspace(2.0, 3.0, 12).reshape(3, 4)},
    "kernel": jnp.array([2.0, -4.0]),
}
LAZY = replace(PLAIN, weight_decay=0.5, lazy=True)
NOTHING = {"value": 0.0, "fresh": False}


def train(config, every, at_a_time=4):
    """Parameters and state after gradients `every`; ten titles are gathered, three users masked."""
    params, state = TABLES, optimizer.make(config).init(TABLES)
    for grads in every:
        params, state = optimizer.step(config, grads, state, params, **NOTHING, at_a_time=at_a_time)
    return params, state


def gradients(*steps):
    """Random ones, of which a step's `rows` of the titles' table are not zero."""
    rng, found = np.random.default_rng(0), []
    for rows in steps:
        grads = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), TABLES)
        grads["title"]["embedding"][np.setdiff1d(np.arange(10), rows)] = 0
        found.append(jax.tree.map(jnp.asarray, grads))
    return found


def assert_close(got, wanted):
    """But for the last bit: a loop's body is compiled as one, what is not in one operation by operation."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize("decay", optimizer.DECAYS)
def test_lazy_is_plain_where_every_row_is_touched(decay):
    # 10 rows, 4 at a time: three rounds, the last with two places to spare
    every, config = gradients(range(10), range(10), range(10)), replace(LAZY, decay=decay)
    assert_close(train(config, every), train(replace(config, lazy=False), every))


@pytest.mark.parametrize("decay", optimizer.DECAYS)
@pytest.mark.parametrize("touched", [(), (7,), (0, 3, 9), (1, 2, 3, 4, 5, 6, 7), range(10)])
def test_gathered_is_masked(touched, decay):
    every, config = gradients(range(10), touched, (3, 4)), replace(LAZY, decay=decay)
    masked = train(config, every, at_a_time=10)
    for at_a_time in (1, 4, 9):
        assert_close(train(config, every, at_a_time), masked)


@pytest.mark.parametrize("decay", optimizer.DECAYS)
@pytest.mark.parametrize("at_a_time", [4, 10])
def test_an_untouched_row_stays_and_does_not_decay(decay, at_a_time):
    config = replace(LAZY, decay=decay)
    before = train(config, gradients(range(10)), at_a_time)
    after = train(config, gradients(range(10), (2, 5)), at_a_time)
    adam = optimizer.DECAYS.index(decay)
    for old, new in ((before[0], after[0]), *((before[1][adam][i], after[1][adam][i]) for i in (1, 2))):
        moved = np.any(np.asarray(old["title"]["embedding"] != new["title"]["embedding"]), axis=1)
        assert np.flatnonzero(moved).tolist() == [2, 5]
        assert np.all(np.asarray(old["kernel"] != new["kernel"]))  # what is no table moves every step


@pytest.mark.parametrize("at_a_time", [4, 10])
def test_a_row_touched_at_steps_1_and_3(at_a_time):
    # By hand, gradients 1 and then 2, rate 0.1, decoupled decay 0.5, from 1:
    #   step 1: mu 0.1, nu 0.001, corrected 1 and 1:        1    - 0.1 * (1 + 0.5 * 1)          = 0.85
    #   step 2: nothing
    #   step 3: mu 0.29, nu 0.004999, corrected by 1 - 0.9**3 = 0.271 and 1 - 0.999**3 = 0.002997001:
    #           1.0701107 / sqrt(1.6680008) = 0.8285720;    0.85 - 0.1 * (0.8285720 + 0.425)    = 0.7246428
    params = {"embedding": jnp.ones((10, 1))}
    state = optimizer.make(LAZY).init(params)
    wanted = [(0.1, 0.001, 0.85), (0.1, 0.001, 0.85), (0.29, 0.004999, 0.7246428)]
    for gradient, row in zip((1.0, 0.0, 2.0), wanted, strict=True):
        grads = {"embedding": jnp.zeros((10, 1)).at[6].set(gradient)}
        params, state = optimizer.step(LAZY, grads, state, params, **NOTHING, at_a_time=at_a_time)
        got = (state[0].mu["embedding"][6, 0], state[0].nu["embedding"][6, 0], params["embedding"][6, 0])
        np.testing.assert_allclose(got, row, rtol=1e-5)
        np.testing.assert_array_equal(np.delete(params["embedding"], 6), 1.0)


@pytest.mark.parametrize("at_a_time", [4, 10])
def test_rows_that_are_dealt_are_lazy_rows_too(at_a_time):
    """[5, 2, 4] is a table of ten rows."""

    def as_dealt(tree):
        return {"dealt": tree["title"]["embedding"].reshape(5, 2, 4)}

    params, state = as_dealt(TABLES), optimizer.make(LAZY).init(as_dealt(TABLES))
    every = gradients(range(10), (2, 5))
    for grads in every:
        params, state = optimizer.step(LAZY, as_dealt(grads), state, params, **NOTHING, at_a_time=at_a_time)
    expected, of_tables = train(LAZY, every, at_a_time)
    assert_close(params, as_dealt(expected))
    assert_close((state[0].mu, state[0].nu), (as_dealt(of_tables[0].mu), as_dealt(of_tables[0].nu)))


def test_a_gradient_that_is_not_a_number_is_not_hidden():
    (grads,) = gradients((1,))
    grads["title"]["embedding"] = grads["title"]["embedding"].at[8, 2].set(jnp.nan)
    params, _ = train(LAZY, [grads])
    assert np.argwhere(np.isnan(params["title"]["embedding"])).tolist() == [[8, 2]]


def test_the_plateau_lowers_a_lazy_rate():
    config = replace(LAZY, weight_decay=0.0, plateau_patience=0)
    state, (grads,) = optimizer.make(config).init(TABLES), gradients(range(10))
    for value, rate in ((1.0, 0.1), (1.0, 0.05)):
        params, state = optimizer.step(config, grads, state, TABLES, value=value, fresh=True, at_a_time=4)
        moved = np.abs(params["title"]["embedding"] - TABLES["title"]["embedding"])
        np.testing.assert_allclose(moved, rate, rtol=1e-4)  # the same gradient again: Adam's step is 1
        assert float(optimizer.learning_rate(state, config)) == pytest.approx(rate)


def test_a_lazy_training_step_differs_in_untouched_rows_alone(tiny, tiny_config, monkeypatch):
    tiny_config = replace(tiny_config, model=replace(tiny_config.model, dtype="float64"))
    lazy_config = replace(tiny_config, optimizer=replace(tiny_config.optimizer, lazy=True))
    lazily, found = optimizer.lazily, {}
    # so few at a time that the titles' table is gathered
    monkeypatch.setattr(optimizer, "lazily", lambda rule, g, rows, _: lazily(rule, g, rows, 16))
    with jax.enable_x64(True):
        for name, config in (("plain", tiny_config), ("lazy", lazy_config)):
            program = RankingTask(config, tiny.layout, 0.5, 4, 40)
            batch = training_batches(program, tiny.rows("train"))[0]
            state, table = (
                mesh.replicate(StateInit(program).init()),
                mesh.replicate(tiny.arrays.title_table()),
            )
            before = jax.device_get(state.params)
            step = parallel_step.parallelize_step(TrainStep(program))
            found[name] = jax.device_get(step(state, batch, table)[0])
    plain, lazy = found["plain"], found["lazy"]
    assert jax.tree.structure(lazy) == jax.tree.structure(plain)
    untouched = 0
    trees = (plain.params, lazy.params, before, plain.optimizer[0].nu)
    paths = jax.tree_util.tree_flatten_with_path(before)[0]
    for (path, _), a, b, old, nu in zip(paths, *map(jax.tree.leaves, trees), strict=True):
        if path[-1].key != "embedding":
            np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-9)
            continue
        same = np.any(nu != 0, axis=1)  # after one step, a second moment is the gradient's square
        untouched += int((~same).sum())
        np.testing.assert_allclose(b[same], a[same], rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(b[~same], old[~same])
        assert np.all(np.any(a != old, axis=1)[~same])  # plain Adam decays these
    assert untouched
