"""The whole model: what may change its scores, its variants, its dtypes, and that it learns."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.heads import HeadSpec
from jaxrec.config.schema import Blend, BlendTerm, Expert, Objective, Optimizer, Sampling
from jaxrec.config.schema import Gate as GateConfig
from jaxrec.core.batch import Batch, Outcome
from jaxrec.losses import ranking
from jaxrec.models.layers import rng as rng_module
from jaxrec.tasks.ranking_inputs import alone
from jaxrec.training import optimizer

TOLERATED = 0.1  # of the largest score, in bfloat16
PER_TITLE = ("title", "past", "sessions", "age")


def same(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def with_titles(history, **columns):
    """A history with other columns [B, L], a request a row."""
    history = history._replace(**columns)
    example, newer, shorter = alone(history.title, (*history.shorter,))
    return history._replace(example=example, newer=newer, shorter=shorter)


def test_the_content_of_padding_changes_nothing_bit_for_bit(small):
    h, pad = small.history, small.history.title == 0
    assert pad.any()
    dirty = {
        name: jax.tree.map(lambda x: jnp.where(pad, jnp.nan, x), getattr(h, name)) for name in PER_TITLE[1:]
    }
    same(small(), small(h._replace(**dirty)), rtol=0)


def rows_shared(history, rng):
    """The same requests, two to a row of twice the length, their titles in any order."""
    B, L = history.title.shape
    R = -(-B // 2)
    source = np.append(np.arange(B * L), np.full(2 * R * L - B * L, B * L)).reshape(R, 2 * L)
    source = np.stack([rng.permutation(row) for row in source])
    where = np.full(B * L + 1, 2 * R * L)
    where[source] = np.arange(2 * R * L).reshape(R, 2 * L)
    where[B * L] = 2 * R * L  # nothing lies there

    def moved(x, fill):
        return jnp.asarray(np.append(np.asarray(x).reshape(-1), fill)[source].astype(x.dtype))

    places = {
        name: jax.tree.map(lambda x: moved(x, 0), getattr(history, name)) for name in (*PER_TITLE, "newer")
    }
    places["example"] = moved(history.example, B)
    shorter = {w: jnp.asarray(where[at]) for w, at in history.shorter.items()}
    return history._replace(**places, shorter=shorter)


@pytest.mark.parametrize("training", [False, True])
def test_histories_that_share_rows_are_scored_as_if_alone(case, training):
    """A row is as long as needed; which places a history has in it, and beside whom, changes nothing."""
    experts = (Expert(3, 2, 2, 1.0, 0.2), Expert(6, 2, 2, 2.0, 0.2))
    alone_, key = case(experts=experts), rng_module.row_keys(0, 0, jnp.arange(5)) if training else None
    shared = rows_shared(alone_.history, np.random.default_rng(3))
    assert shared.title.shape == (3, 12)
    longer = (experts[0], Expert(12, 2, 2, 2.0, 0.2))
    wide = alone_.model.clone(config=replace(alone_.model.config, experts=longer))

    def total(model, history):
        def of(variables):
            out = model.apply(variables, history, alone_.candidate, alone_.table, 1.0, key)
            return sum((s**2).sum() for s in out.scores.values()), out.scores

        return jax.jit(jax.value_and_grad(of, has_aux=True))

    p = alone_.variables["params"]
    longer = p | {"history": p["history"] | {"position": jnp.pad(p["history"]["position"], ((0, 6), (0, 0)))}}
    (_, one), one_grad = total(alone_.model, alone_.history)(alone_.variables)
    (_, two), two_grad = total(wide, shared)({"params": longer})
    same(one, two, atol=1e-6)
    two_grad["params"]["history"]["position"] = two_grad["params"]["history"]["position"][:6]
    same(one_grad, two_grad, atol=1e-5)


def test_an_empty_history_is_finite_and_learns_its_own_vector(small):
    empty = {name: jax.tree.map(jnp.zeros_like, getattr(small.history, name)) for name in PER_TITLE}
    history = with_titles(small.history, **empty)

    def total(variables):
        out = small.model.apply(variables, history, small.candidate, small.table, 1.0)
        return sum(s.sum() for s in out.scores.values())

    grads = jax.jit(jax.grad(total))(small.variables)["params"]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
    assert np.any(grads["expert_0"]["pool"]["empty"])
    assert not any(np.any(x) for x in jax.tree.leaves(grads["expert_0"]["encoder"]))


@pytest.mark.parametrize("training", [False, True])
def test_rows_are_scored_alike_wherever_they_stand(small, training):
    key = rng_module.row_keys(0, 0, jnp.arange(5)) if training else None
    order = jnp.array([3, 0, 4, 1, 2])
    moved = small(
        with_titles(jax.tree.map(lambda x: x[order], small.history)),
        small.candidate[order],
        None if key is None else key[order],
    )
    same(jax.tree.map(lambda x: x[order], small(key=key)), moved, atol=1e-6)


def test_a_candidates_score_depends_on_no_other_candidate(small):
    other = small.candidate.at[:, 1:].set(2)
    for task, scores in small().scores.items():
        np.testing.assert_allclose(scores[:, 0], small(candidate=other).scores[task][:, 0], atol=1e-6)


def test_randomness_is_for_training_alone(small):
    keys = [rng_module.row_keys(0, step, jnp.arange(5)) for step in (0, 1)]
    one, two, none = small(key=keys[0]), small(key=keys[1]), small()
    assert not np.allclose(one.scores["ctr"], two.scores["ctr"])
    assert not np.allclose(one.gate_BxE, one.clean_gate_BxE)
    assert np.array_equal(none.gate_BxE, none.clean_gate_BxE)
    same(small(key=keys[0]), one, rtol=0)


def test_encoding_once_and_scoring_is_the_call(small):
    @jax.jit
    def apart(variables, history, candidate):
        user = small.model.apply(variables, history, small.table, 1.0, method="encode")
        return small.model.apply(variables, user, candidate, small.table, ("ranking",), method="score")

    scores = apart(small.variables, small.history, small.candidate)
    assert {*scores} == {"ranking"}
    np.testing.assert_allclose(scores["ranking"], small().scores["ranking"], atol=1e-6)


def test_completion_for_the_positives_alone(small):
    apply = jax.jit(lambda v, h, c: small.model.apply(v, h, c, small.table, 1.0, None, 2))
    out = apply(small.variables, small.history, small.candidate)
    np.testing.assert_allclose(out.scores["completion"], small().scores["completion"][:, :2], atol=1e-6)
    assert out.scores["ranking"].shape == (5, 4)


def test_completion_is_a_share(small):
    assert np.all((small().scores["completion"] > 0) & (small().scores["completion"] < 1))


def test_one_expert_has_no_gate_and_one_task_has_one_head(case):
    bst = case(experts=(Expert(6, 1, 2, 2.0, 0.2),), tasks=("ctr",), matcher_product=False)
    names = {*bst.variables["params"]}
    assert names == {"title", "user", "context", "history", "expert_0", "matcher_ctr"}
    out = bst(key=rng_module.row_keys(0, 0, jnp.arange(5)))
    assert {*out.scores} == {"ctr"}
    assert out.gate_BxE.tolist() == out.clean_gate_BxE.tolist() == [[1.0]] * 5


@pytest.mark.slow
def test_equal_experts_with_equal_parameters_are_one_expert(case):
    expert = Expert(6, 1, 2, 2.0, 0.2)
    two, one = case(experts=(expert, expert)), case(experts=(expert,))
    p = dict(two.variables["params"])
    p["expert_1"] = p["expert_0"]
    gate = p.pop("gate")
    alone = {name: x for name, x in p.items() if name != "expert_1"}
    same(
        two(variables={"params": p | {"gate": gate}}).scores,
        one(variables={"params": alone}).scores,
        atol=1e-6,
    )


@pytest.mark.parametrize("tasks", [(), ("ctr", "ctr")])
def test_no_head_and_a_head_twice_are_refused(case, tasks):
    with pytest.raises(ValueError, match="heads="):
        case(tasks=tasks)


THUMB = HeadSpec("thumb", "thumb", "", loss="bce", ranks=False)
VALUE = HeadSpec("value", "value", "", loss="mse", ranks=False, drawn=False)
MOOD = HeadSpec("mood", "mood", "", on="state", outputs=3, loss="softmax", ranks=False, drawn=False)


def test_heads_of_the_state_ignore_the_candidates(case):
    c = case(tasks=("ctr", THUMB, MOOD))
    scores = c().scores
    assert scores["mood"].shape == (5, 3)
    other = c(candidate=c.candidate[:, ::-1])
    np.testing.assert_array_equal(scores["mood"], other.scores["mood"])
    assert not np.array_equal(scores["thumb"], other.scores["thumb"])
    # the paper's head has the parameters that it has alone
    alone = case(tasks=("ctr",))
    assert {name for name in c.variables["params"] if name not in alone.variables["params"]} == {
        "matcher_thumb", "state_mood",
    }  # fmt: skip


def test_heads_that_read_no_drawn_titles_are_scored_for_positives_alone(case):
    c = case(tasks=("ctr", VALUE, MOOD))
    scores = c.model.apply(
        c.variables, c.history, c.candidate, c.table, 1.0, None, 1, method="__call__"
    ).scores  # fmt: skip
    assert {name: s.shape for name, s in scores.items()} == {"ctr": (5, 4), "value": (5, 1), "mood": (5, 3)}
    np.testing.assert_allclose(scores["value"], c().scores["value"][:, :1], atol=1e-6)


def test_a_blend_is_the_weighted_sum_of_log_probabilities_and_values(case):
    terms = (
        BlendTerm("ctr"),
        BlendTerm("thumb", 0.3),
        BlendTerm("completion", 2.0),
        BlendTerm("value", -0.5),
    )
    c = case(tasks=("ctr", "completion", THUMB, VALUE))
    model = c.model.clone(blends=(Blend("top", terms),))
    user = model.apply(c.variables, c.history, c.table, 1.0, method="encode")
    scores = c().scores
    log_p = {name: np.log(1 / (1 + np.exp(-np.asarray(scores[name], float)))) for name in ("ctr", "thumb")}
    expected = log_p["ctr"] + 0.3 * log_p["thumb"] + 2.0 * scores["completion"] - 0.5 * scores["value"]
    both = model.apply(c.variables, user, c.candidate, c.table, ("top", "ctr"), method="score")
    assert {*both} == {"top", "ctr"}
    np.testing.assert_allclose(both["top"], expected, rtol=1e-5)
    every = model.apply(c.variables, user, c.table, "top", method="score_catalogue")
    np.testing.assert_allclose(np.take_along_axis(every, c.candidate, axis=1), expected, rtol=1e-4)


def test_bfloat16_keeps_parameters_and_outputs_wide(case, small):
    low = case(dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(low.variables)} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(low())} == {jnp.dtype("float32")}
    wide, narrow = small(), low(variables=small.variables)
    for name, scores in wide.scores.items():
        # Of scores far below 1, an absolute tolerance would accept zeros.
        spread = float(jnp.abs(scores - (0.5 if name == "completion" else 0.0)).max())
        assert spread > 1e-4
        same(narrow.scores[name], scores, rtol=0, atol=TOLERATED * spread)
    same(narrow.gate_BxE, wide.gate_BxE, atol=0.01)


def test_float64_is_float64_throughout(case):
    with jax.enable_x64(True):
        high = case(dtype="float64")
        key = rng_module.row_keys(0, 0, jnp.arange(5))
        assert {x.dtype for x in jax.tree.leaves(high.variables)} == {jnp.dtype("float64")}
        assert {x.dtype for x in jax.tree.leaves(high(key=key))} == {jnp.dtype("float64")}

        def total(position):
            p = dict(high.variables["params"])
            p["history"] = p["history"] | {"position": position}
            return high(key=key, variables={"params": p}).scores["ranking"].sum()

        # a float32 anywhere on the way would leave 1e-4 between the slope and the gradient
        position = high.variables["params"]["history"]["position"]
        way = jax.random.normal(jax.random.key(0), position.shape)
        slope = (total(position + 1e-5 * way) - total(position - 1e-5 * way)) / 2e-5
        assert float(slope) == pytest.approx(float((jax.grad(total)(position) * way).sum()), rel=1e-7)


def test_noise_of_the_gate_is_in_the_mixture(small):
    """In training the vectors of the experts are mixed by the weights with noise."""
    r = np.random.default_rng(4)
    pooled = [jnp.asarray(r.normal(size=(5, 8)), jnp.float32) for _ in range(2)]
    user, context = (jnp.asarray(r.normal(size=(5, n)), jnp.float32) for n in (6, 3))
    key = rng_module.row_keys(0, 0, jnp.arange(5))
    for keys in (key, None):
        made = small.model.apply(small.variables, pooled, user, context, 1.0, keys, method="_mix")
        weights = np.asarray(made.gate_BxE)
        mixture = weights[:, :1] * pooled[0] + weights[:, 1:] * pooled[1]
        expected = np.concatenate([mixture, user, context], axis=1)
        np.testing.assert_allclose(made.vector_BxF, expected, rtol=1e-5, atol=1e-6)
        moved = np.abs(weights - made.clean_gate_BxE).max(axis=1)
        assert (moved > 1e-3).all() if keys is not None else (moved == 0).all()


def batch_of(c) -> Batch:
    rows = len(c.candidate)
    r = np.random.default_rng(2)
    return Batch(
        c.history, c.candidate[:, :1], Outcome(jnp.asarray(r.random((rows, 1)), jnp.float32)),
        c.candidate[:, 1:], jnp.zeros((rows, 3), bool), jnp.ones(rows, bool),
    )  # fmt: skip


def objective(c, batch, variables, key=None):
    candidates = jnp.concatenate([batch.positive, batch.negative], 1)
    out = c.model.apply(variables, batch.history, candidates, c.table, 1.0, key, 1)
    return ranking.objective(out, batch, Objective(personalised=False), Sampling(), 0.5, 0.52)


def test_the_first_loss_is_near_its_closed_form(small):
    # scores near 0: BCE ln 2, hinge 1; completion .5; the gate even: (ln 2 - .52)^2
    batch = batch_of(small)
    sums = jax.jit(lambda v: objective(small, batch, v)[1])(small.variables)
    means = {name: float(s / n) for name, (s, n) in sums.items()}
    assert means["loss_ctr"] == pytest.approx(np.log(2), abs=0.02)
    assert means["loss_ranking"] == pytest.approx(1.0, abs=0.02)
    assert means["loss_regression"] == pytest.approx(
        float(jnp.square(batch.outcome.completion - 0.5).mean()), abs=0.02
    )
    assert means["loss_entropy"] == pytest.approx((np.log(2) - 0.52) ** 2, abs=0.005)
    assert means["gate_0"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.slow
def test_a_batch_overfits(case):
    experts = (Expert(3, 1, 2, 1.0, 0.0), Expert(6, 1, 2, 2.0, 0.0))
    c = case(dropout=0.0, experts=experts, matcher=(32, 16), rows=8)
    c.candidate = 2 + (jnp.arange(8)[:, None] * 3 + jnp.arange(4)[None]) % 28
    batch = batch_of(c)
    config = Optimizer(learning_rate=0.01, weight_decay=0.0)
    tx = optimizer.make(config)

    def step(carry, _):
        variables, state = carry
        (_, sums), grads = jax.value_and_grad(lambda v: objective(c, batch, v), has_aux=True)(variables)
        updates, state = tx.update(grads, state, variables, value=jnp.float32(0), fresh=jnp.bool_(False))
        return (optimizer.apply(variables, updates), state), sums["loss"][0] / sums["loss"][1]

    train = jax.jit(lambda v: jax.lax.scan(step, (v, tx.init(v)), length=400)[1])
    loss = np.asarray(train(c.variables))
    assert loss[0] > 1.5
    assert loss[-1] < 0.02


def test_table_3_at_full_size(small):
    """Shapes alone: nothing is computed."""
    fields = {
        "width": 96,
        "experts": (Expert(7, 2, 12, 1.0, 0.2), Expert(20, 2, 12, 2.0, 0.2)),
        "gate": GateConfig((128, 64), 0.1),
        "matcher": (128, 64),
    }
    model = small.model.clone(config=replace(small.model.config, **fields))
    spec = jax.ShapeDtypeStruct
    history = jax.tree.map(
        lambda x: spec((8192, 20) if x.shape[1] == 6 else (8192, x.shape[1]), x.dtype), small.history
    )._replace(shorter={7: spec((8192, 7), jnp.int32)})
    shapes = jax.eval_shape(
        lambda h, c: model.init_with_output(jax.random.key(0), h, c, small.table, 1.0),
        history, spec((8192, 21), jnp.int32),
    )  # fmt: skip
    assert shapes[0].scores["ranking"].shape == (8192, 21)
    assert shapes[0].gate_BxE.shape == (8192, 2)
    assert shapes[1]["params"]["expert_1"]["encoder"]["block_1"]["hidden"]["kernel"].shape == (96, 192)
