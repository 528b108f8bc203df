"""Tokens as inputs: what a position reads of its token and of the next one, and never of later outcomes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.checkpoints.state_tree import slashed_leaves
from jaxrec.config.schema import (
    Config,
    Expert,
    Feature,
    Head,
    Label,
    Model,
    NextItem,
    Sampling,
    Start,
    Task,
    Train,
)  # fmt: skip
from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.storage.dataset import as_words
from jaxrec.models.next_item import NextItemModel
from jaxrec.runtime.device_batch import transfer
from jaxrec.runtime.mesh import replicate
from jaxrec.runtime.parallel_step import parallelize_step
from jaxrec.tasks import next_item_inputs
from jaxrec.tasks.inputs.state_terms import next_kinds
from jaxrec.tasks.negative_sampling import NegativePool
from jaxrec.tasks.next_item import NextItemTask
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

V, L, B, AT = 30, 8, 4, 4  # AT: the position whose scores are compared
FEATURES = (
    FeatureSpec("title_id", "category", "title", 8, V, 0), FeatureSpec("genre", "category", "title", 4, 6),
    FeatureSpec("device", "category", "context", 4, 5), FeatureSpec("load", "number", "context", 4),
)  # fmt: skip
KINDS = ("play:play", "trailer:seconds", "thumb:sign", "search:text")
LAYOUT = Layout(
    V, L, 1, (0, 0, 0, 0), 0, FEATURES, "next_item", ("back",), selects_targets=True, token_kinds=KINDS
)  # fmt: skip
TABLE = TitleTable(jnp.asarray(np.arange(V)[:, None] % 6, jnp.int32), jnp.zeros((V, 0), jnp.float32))
OUTCOMES = ("kinds", "end", "progress", "seconds", "values", "completion", "label", "label_known")
KEY = jnp.arange(2 * B, dtype=jnp.uint32).reshape(B, 2)
ENCODERS = [("sasrec", 0), ("sasrec", 4), ("sasrec", 8), ("hstu", 0), ("hstu", 4), ("ligr", 4), ("fuxi", 0),
            ("gru4rec", 0)]  # fmt: skip


def task_of(encoder="sasrec", span=0, heads=(), layers=2, **sampling):
    features = tuple(Feature(f.name, f.kind, f.where, f.width) for f in FEATURES)
    expert = Expert(L, layers, 2, 1.0, 0.0, encoder)
    model = Model(
        width=8, experts=(expert,), dropout=0.0, head="dot", attention_span=span, embedding_init_std=0.3,
        features=("title_id", "device", "load"),
    )  # fmt: skip
    config = Config(
        features=features, sampling=Sampling(id_dropout=0.0, **sampling), model=model, task=Task("next_item"),
        next_item=NextItem(), train=Train(batch_size=B),
    )  # fmt: skip
    config.objective.heads, config.labels = heads, (Label("back", "returned"),)
    return NextItemTask(config, LAYOUT, 0.5, 10, 100, {"back": 0.5})


def stored_rows(seed=0):
    """Return B training rows, of which the first is short."""
    r = np.random.default_rng(seed)
    rows = np.zeros(B, LAYOUT.row_dtype())
    for i, row in enumerate(rows):
        n = 5 if i == 0 else 2 * (L + 1)
        row["title"][-n:], row["time"][-n:] = r.integers(2, V, n), np.sort(r.integers(1e9, 1.1e9, n))
        row["selected"][-n:], row["kinds"][-n:] = r.integers(0, 2, n), r.integers(1, 16, n)
        row["completion"][-n:], row["progress"][-n:], row["seconds"][-n:] = r.random((3, n))
        row["values"][-n:, 0] = r.choice([-1, 1, np.nan], n)
        row["categories"][-n:, 0], row["numbers"][-n:, 0] = r.integers(1, 5, n), r.normal(size=n)
        row["query"][-n:] = r.integers(0, 9, n)
        row["label"][-n:, 0], row["label_known"][-n:] = r.integers(0, 2, n), r.integers(0, 2, n)
    return rows


def windows_of(task, rows, random=0.0):
    return next_item_inputs.training(as_words(rows), LAYOUT, L, random, 0.0, KEY)


def outputs_of(task, params, window):
    return task.model.apply({"params": params}, window, task.project_titles(params, TABLE))


@pytest.fixture(scope="module")
def parameters():
    """Return a function from an encoder and a span to a task and its parameters, made once."""
    made = {}

    def of(encoder, span):
        if (encoder, span) not in made:
            task = task_of(encoder, span)
            made[encoder, span] = task, StateInit(task).init().params
        return made[encoder, span]

    return of


@pytest.mark.parametrize(("encoder", "span"), ENCODERS)
def test_outcomes_of_later_tokens_have_no_gradient_and_their_requests_have_one(encoder, span, parameters):
    task, params = parameters(encoder, span)
    window = windows_of(task, stored_rows()).window
    tokens = window.tokens
    values = jnp.nan_to_num(tokens.past.signals.astype(jnp.float32))

    def scores(completion, seconds, values, numbers):
        past = tokens.past._replace(completion=completion, seconds=seconds, signals=values)
        inputs = tokens._replace(past=past, request=tokens.request._replace(numbers=numbers))
        return jnp.square(outputs_of(task, params, window._replace(tokens=inputs))[1:, AT]).sum()

    arguments = tokens.past.completion, tokens.past.seconds, values, tokens.request.numbers
    *outcomes, numbers = jax.jit(jax.grad(scores, (0, 1, 2, 3)))(*arguments)
    for gradient in outcomes:  # position t has the outcome of token t
        assert not np.asarray(gradient[:, AT + 1 :]).any()
        assert np.asarray(gradient[1:, : AT + 1]).reshape(B - 1, AT + 1, -1).any(-1).all()
    assert not np.asarray(numbers[:, AT + 1 :]).any()
    assert np.asarray(numbers[1:, AT]).any(-1).all()  # the request of token t + 1


@pytest.mark.parametrize("random", [0.0, 0.5, 1.0])  # the latest windows, mixed ones, those anywhere
@pytest.mark.parametrize(("encoder", "span"), [("sasrec", 0), ("sasrec", 4), ("hstu", 4)])
def test_nan_in_all_later_outcomes_changes_nothing(encoder, span, random, parameters):
    task, params = parameters(encoder, span)
    rows = stored_rows()
    index = np.asarray(next_item_inputs.window_index(jnp.asarray(rows["title"]), L, random, KEY))
    later = np.arange(rows["title"].shape[1]) > index[:, AT, None]
    poisoned = rows.copy()
    for name in OUTCOMES:
        wrong = np.nan if rows[name].dtype.kind == "f" else 0xFFFF
        poisoned[name] = np.where(
            later.reshape(*later.shape, *[1] * (rows[name].ndim - 2)), wrong, rows[name]
        )
    run = jax.jit(lambda window: outputs_of(task, params, window))
    plain, other = (np.asarray(run(windows_of(task, x, random).window)) for x in (rows, poisoned))
    assert np.isfinite(plain).all()
    np.testing.assert_array_equal(other[1:, : AT + 1], plain[1:, : AT + 1])
    assert (other[1:, AT + 1 :] != plain[1:, AT + 1 :]).any()


def test_the_last_position_of_a_query_reads_the_request_of_its_target(parameters):
    task, params = parameters("sasrec", 0)
    r, rows = np.random.default_rng(1), np.zeros(B, LAYOUT.query_dtype())
    of_training = stored_rows()
    for name in (n for n in rows.dtype.names if n.startswith("history_")):
        rows[name] = of_training[name.removeprefix("history_")][:, -L:]
    rows["target"][:, 0], rows["target_time"] = 3, of_training["time"][:, -1] + 100
    rows["target_categories"][:, 0], rows["target_query"] = 2, r.integers(1, 9, B)
    rows["target_numbers"][:, 0] = r.normal(size=B)
    run = jax.jit(lambda words: task.score_all_titles(params, HostBatch(words, None), TABLE).by_head)
    plain = np.asarray(run(as_words(rows))["next_item"])
    for name, value in (
        ("target_categories", 3), ("target_numbers", 0.1), ("target_query", 20), ("target_time", 7200),
        ("history_kinds", 8), ("history_progress", 0.2), ("history_values", -1.0), ("history_query", 25),
    ):  # fmt: skip
        changed = rows.copy()
        changed[name] = changed[name] + value if name == "target_time" else value
        assert (np.asarray(run(as_words(changed))["next_item"]) != plain).any(1).all(), name
    for name in ("target", "target_completion", "label", "label_known", "history_end"):
        changed = rows.copy()
        changed[name] = 1
        np.testing.assert_array_equal(run(as_words(changed))["next_item"], plain, name)
    # The window of a training row with the same tokens and a next token has the same last output.
    next_token = of_training.copy()
    for name in LAYOUT.row_dtype().names[1:]:
        next_token[name] = np.roll(of_training[name], -1, axis=1)
    for name in ("categories", "numbers", "query"):
        next_token[name][:, -1] = rows[f"target_{name}"]
    next_token["time"][:, -1], next_token["title"][:, -1] = rows["target_time"], 3
    h_BxLxD = outputs_of(task, params, windows_of(task, next_token).window)
    scores = np.asarray(h_BxLxD[:, -1] @ task.embed_titles(params, TABLE).T)
    np.testing.assert_allclose(scores[1:], plain[1:], rtol=1e-5, atol=1e-6)


def test_the_kind_of_a_token_with_a_play_is_play():
    bits = jnp.array([[0b0001, 0b0111, 0b0110, 0b1000, 0]], jnp.uint32)
    kinds = next_kinds(bits, LAYOUT)
    assert kinds.tolist() == [[[1, 0, 0, 0], [1, 0, 0, 0], [0, 2, 3, 0], [0, 0, 0, 4], [0, 0, 0, 0]]]


HEADS = (
    Head("kind", "token:kind", "state", "softmax", 0.3),
    Head("genre", "title:genre", "state", "softmax", 0.5),
    Head("back", "back", "state", "bce", 2.0),
)  # fmt: skip


def loss_of(task, params):
    """Return the compiled function from rows and a mask of the valid ones to the sums of the loss."""
    pool = NegativePool(V)

    @jax.jit
    def run(words, valid):
        return task.loss(params, HostBatch(words, valid), TABLE, (), jnp.int32(0), KEY, None, pool)[1]

    return lambda rows, valid: jax.tree.map(np.asarray, run(as_words(rows), valid))


def test_heads_on_states_equal_a_loop_over_positions():
    task, rows, valid = task_of(heads=HEADS, layers=1), stored_rows(), np.arange(B) != 2
    params = jax.tree.map(lambda x: x + 0.1, StateInit(task).init().params)  # heads begin near 0
    sums = loss_of(task, params)(rows, valid)
    windows = windows_of(task, rows)
    h_BxLxD = outputs_of(task, params, windows.window)
    scores = task.model.apply({"params": params}, h_BxLxD, method=NextItemModel.state_scores)
    logs = {name: np.asarray(jax.nn.log_softmax(x), np.float64) for name, x in scores.items()}
    logits = np.asarray(scores["back"], np.float64)[..., 0]
    totals, counts = (
        dict.fromkeys(("kind", "genre", "back"), 0.0),
        dict.fromkeys(("kind", "genre", "back"), 0),
    )
    for b in np.flatnonzero(valid):
        for i in range(L):
            at = rows.dtype["title"].shape[0] - L + i  # the next token of position i
            if not rows["title"][b, at - 1]:
                continue
            bits = 1 if rows["kinds"][b, at] & 1 else rows["kinds"][b, at]
            kinds = [k for k in range(4) if bits >> k & 1]
            totals["kind"] -= np.mean([logs["kind"][b, i, 1 + k] for k in kinds])
            counts["kind"] += 1
            if not rows["selected"][b, at]:
                continue
            genre = int(TABLE.categories[rows["title"][b, at], 0])
            if genre > 1:
                totals["genre"], counts["genre"] = (
                    totals["genre"] - logs["genre"][b, i, genre],
                    counts["genre"] + 1,
                )
            if rows["label_known"][b, at] & 1:
                y = rows["label"][b, at, 0]
                totals["back"] += (np.logaddexp(0, logits[b, i]) - y * logits[b, i]) / 0.5  # its known share
                counts["back"] += 1
    for name in totals:
        assert int(sums[f"loss_{name}"][1]) == counts[name] > 0
        np.testing.assert_allclose(sums[f"loss_{name}"][0], totals[name], rtol=1e-4)
    expected = sums["loss_next_item"][0] + sum(head.weight * totals[head.name] for head in HEADS)
    np.testing.assert_allclose(sums["loss"][0], expected, rtol=1e-4)


def query_rows(seed=1):
    """Return B query rows with the histories of `stored_rows`, targets, and labels, some of them known."""
    r, rows, of_training = np.random.default_rng(seed), np.zeros(B, LAYOUT.query_dtype()), stored_rows()
    for name in (n for n in rows.dtype.names if n.startswith("history_")):
        rows[name] = of_training[name.removeprefix("history_")][:, -L:]
    rows["user"], rows["target"][:, 0] = np.arange(B), [8, 6, 3, 4]  # the genre of 6 is 0, of none
    rows["target_time"] = of_training["time"][:, -1] + 100
    rows["label"][:, 0, 0], rows["label_known"][:, 0] = r.integers(0, 2, B), [1, 1, 0, 1]
    return rows


def test_states_of_queries_are_scored_by_their_heads():
    task, rows = task_of(heads=HEADS, layers=1), query_rows()
    assert task.label_heads == ("back",) and task.category_heads == ("genre",)  # the next token is a play
    assert task.head_loss("back") == "bce" and task.protocols().best == ("catalogue", "ndcg@10")
    params = jax.tree.map(lambda x: x + 0.1, StateInit(task).init().params)
    valid = np.array([True, True, True, False])
    score = jax.jit(lambda words: task.score_states(params, HostBatch(words, valid), TABLE))
    scores = jax.device_get(score(as_words(rows)))
    window, _ = next_item_inputs.queries(as_words(rows), LAYOUT, L)
    h_BxD = np.asarray(outputs_of(task, params, window)[:, -1], np.float64)
    layers = {name: jax.tree.map(np.asarray, params[f"head_{name}"]) for name in ("genre", "back")}
    by_hand = {name: h_BxD @ layer["kernel"] + layer["bias"] for name, layer in layers.items()}
    prediction, label, known = scores.labels["back"]
    np.testing.assert_allclose(prediction, by_hand["back"][:, 0], rtol=1e-4)
    np.testing.assert_array_equal(label[known], rows["label"][:, 0, 0][known])
    assert known.tolist() == [True, True, False, False]
    log_p, category, known = scores.categories["genre"]
    np.testing.assert_allclose(log_p, jax.nn.log_softmax(by_hand["genre"]), rtol=1e-4)
    assert category[:, 0].tolist() == [2, 0, 3, 0] and known.tolist() == [True, False, True, False]
    terms = -(log_p[0, 2] + log_p[2, 3]), (np.logaddexp(0, prediction) - label * prediction)[:2].sum() / 0.5
    for name, term in zip(("genre", "back"), terms, strict=True):
        np.testing.assert_allclose(scores.sums[f"loss_{name}"][0], term, rtol=1e-4)
    np.testing.assert_allclose(scores.sums["loss"][0], 0.5 * terms[0] + 2.0 * terms[1], rtol=1e-4)
    assert int(scores.sums["loss"][1]) == 3


def test_a_frozen_encoder_stays_as_it_is_and_its_new_head_learns():
    task, rows = task_of(heads=HEADS[2:], layers=1), stored_rows()
    frozen = ("title/*", "layers/*", "tokens/*", "position")
    task.config.start, task.config.next_item.weight = Start("w", freeze=frozen), 0.0
    state = replicate(StateInit(task).init())
    before = {name: np.asarray(x) for name, x in slashed_leaves(state.params).items()}
    step = parallelize_step(TrainStep(task))
    for _ in range(2):
        state, _ = step(state, transfer(HostBatch(as_words(rows), np.ones(B, bool))), replicate(TABLE))
    for name, x in slashed_leaves(state.params).items():
        moved = (np.asarray(x) != before[name]).any()
        assert moved == name.startswith("head_back/"), name


@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_titles_weigh_as_declared_beside_heads(weight):
    task, rows, valid = task_of(heads=HEADS, layers=1), stored_rows(), np.arange(B) != 2
    params = StateInit(task).init().params
    whole = loss_of(task, params)(rows, valid)
    task.config.next_item.weight = weight
    sums, heads = loss_of(task, params)(rows, valid), whole["loss"][0] - whole["loss_next_item"][0]
    expected = heads + weight * whole["loss_next_item"][0]
    np.testing.assert_allclose(sums["loss"][0], expected, rtol=1e-4)
    assert ("loss_next_item" in sums) == (weight > 0)
    assert task.protocols().best == (("catalogue", "ndcg@10") if weight else ("labels", "auc"))


def test_rows_that_are_padding_teach_no_kind_and_short_windows_teach_each_once():
    task, rows = task_of(heads=HEADS[:1], layers=1, stochastic_length=1.5), stored_rows()
    run = loss_of(task, StateInit(task).init().params)
    valid, other = np.array([True, True, False, True]), rows.copy()
    other[2] = stored_rows(9)[2]
    plain, changed = run(rows, valid), run(other, valid)
    np.testing.assert_array_equal(plain["loss_kind"][0], changed["loss_kind"][0])
    windows, long_B = next_item_inputs.stochastic_length(windows_of(task, rows), 1.5, KEY)
    assert long_B[valid].any() and not long_B[valid].all()
    assert int(plain["loss_kind"][1]) == int((windows.window.title_BxL[valid] > 0).sum())
