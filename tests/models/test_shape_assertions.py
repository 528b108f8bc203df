"""Public functions of models, losses and tasks refuse arrays of a wrong rank, shape or type, by name.

The rule: at the public edges of models, losses and tasks, chex asserts the rank, shape and type of each array
argument and names it; under jit this costs nothing at run time, for it runs while tracing.
"""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Expert, Model, NextItem, Objective
from jaxrec.config.schema import Gate as GateConfig
from jaxrec.losses import next_item, ranking
from jaxrec.models import cached_scoring, two_stage
from jaxrec.models.encoders import gru4rec, hstu
from jaxrec.models.encoders.base import PackedTitles, append_candidates
from jaxrec.models.encoders.transformer import TransformerStack
from jaxrec.models.heads import MlpHead, dot_score
from jaxrec.models.layers import attention
from jaxrec.models.layers.pooling import AttentionPooling, LastPosition
from jaxrec.models.layers.title_encoder import TitleEncoder
from jaxrec.models.mixture import Gate
from jaxrec.models.next_item import ItemWindow, NextItemModel
from jaxrec.models.outputs import RankingOutput
from jaxrec.tasks import negative_sampling, ranking_inputs
from jaxrec.tasks.negative_sampling import NegativePool

R, L, H, D = 2, 5, 2, 8
F32 = "float32"


def f(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def i(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def b(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.bool_)


def w(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.uint32)


def initialised(module, **static):
    """Return a function from arrays to the outputs of `module` with new parameters."""
    return lambda *arguments: module.init_with_output(jax.random.key(0), *arguments, **static)[0]


def attend(*arguments):
    return attention.attend("einsum", *arguments)


def of_joined(*arguments):
    return attention.attend_fused("einsum", *arguments, H)


def through_hstu(h, seen, gaps):
    visible = hstu.VisiblePositions(seen, gaps, jnp.zeros(gaps.shape[1:], jnp.int32))
    return hstu.through(([], lambda x: x), h, visible, None)


def join(x_RxLxD, x_BxCxD):
    age = jnp.zeros(x_RxLxD.shape[:2])
    return append_candidates(PackedTitles(x_RxLxD, age.astype(jnp.int32), age, None), x_BxCxD, None)


def gate(customer, *experts):
    return initialised(Gate(F32, GateConfig((4,), 0.0)))(customer, experts, 1.0, None)


def match(u):
    titles = SimpleNamespace(through=lambda name, kernel: jnp.zeros((R, 3, kernel.shape[1])))
    return initialised(MlpHead(F32, "ctr", D, 4, 0, (6,), True))(u, titles, None)


def match_every(u, t):
    module = MlpHead(F32, "ctr", D, 4, 0, (6,), True)
    return module.init_with_output(jax.random.key(0), u, t, None, method="every")[0]


def sequential(title, time, until, *catalogue):
    encoder = Expert(L, 1, H, 1.0, 0.0, "sasrec")
    return initialised(NextItemModel(F32, (), 9, Model(D, (encoder,), dropout=0.0)))(
        ItemWindow(title, time, until), catalogue
    )


def per_example(ctr, present, completion, negative, hard, gate):
    config, candidates = Objective(), ranking.CandidateLoss(present, completion, negative, hard)
    outputs = RankingOutput({"ctr": ctr, "ranking": ctr, "completion": ctr}, gate, gate)
    labels = (1.0,) * present.shape[1]
    return ranking.per_example(outputs, candidates, config, labels, 0.5, None)[0]


def next_title(h, titles, target, negatives, log_q):
    positions = next_item.Positions(h, titles, target, negatives, log_q)
    return next_item.next_item_loss(positions, NextItem(loss="sampled_softmax"))


ROW = np.dtype([("target", "<i4", (2,)), ("age", "<f2", (3,))], align=True)
assert ROW.itemsize == 16


def decode(words):
    return ranking_inputs.decode(words, ROW)


def vectors(ids):
    return TitleEncoder(F32, (), 9).init_with_output(jax.random.key(0), ids, None, method="vectors")


def draw(keys):
    return negative_sampling.draw(keys, "uniform", "position", L, 3, NegativePool(9))


def rank_among(ids, scores, target):
    return two_stage.rank_among(two_stage.TwoStageResult(ids, scores), target, 9)


def in_groups(candidates):
    return cached_scoring.score_in_groups(None, None, candidates, None, 1.0, (), 3)


encoder = initialised(TransformerStack(F32, 1, H, 2.0, 0.0, "einsum"))
QKV = f(R, L, H, 4)
SCORES = (f(R, 5), b(R, 2), f(R, 2), b(R, 3), b(R, 3), f(R, 1))  # of `per_example`
NEXT = (f(R, L, D), f(9, D), i(R, L), i(R, L, 3), f(9))  # of `next_title`
WINDOW = (i(R, L), w(R, L), w(R, L), f(9, D))


def pool(layer):
    return lambda of: initialised(layer(F32), examples=R)(jnp.zeros((R, L, D)), of)


def wrong(good, place, array):
    return (*good[:place], array, *good[place + 1 :])


CASES = [  # a function, arguments that it takes, which of them is wrong, and what is named
    (attend, (QKV, QKV, QKV, b(R, L, L)), 0, f(R, L, D), "q [R, L, H, d]"),
    (attend, (QKV, QKV, QKV, b(R, L, L)), 1, f(R, L, H, 3), "k, v [R, M, H, d]"),
    (attend, (QKV, QKV, QKV, b(R, L, L)), 3, b(R, L, 4), "mask [R, L, M]"),
    (attend, (QKV, QKV, QKV, b(R, L, L)), 3, f(R, L, L), "mask"),
    (of_joined, (f(R, L, 3 * D), b(R, L, L)), 0, f(R * L, 3 * D), "qkv_RxLx3D"),
    (of_joined, (f(R, L, 3 * D), b(R, L, L)), 1, b(R, L), "mask_RxLxL"),
    (encoder, (f(R, L, D), b(R, L, L), None), 0, f(L, D), "x_RxLxD"),
    (encoder, (f(R, L, D), b(R, L, L), None), 1, b(L, L), "mask_RxLxM"),
    (through_hstu, (f(R, L, D), b(R, L, L), i(R, L, L)), 0, f(R, D), "h_RxLxD"),
    (through_hstu, (f(R, L, D), b(R, L, L), i(R, L, L)), 1, b(R, 4, L), "visible.seen_RxLxM"),
    (through_hstu, (f(R, L, D), b(R, L, L), i(R, L, L)), 2, i(R, L, 4), "visible.gaps_RxLxM"),
    (join, (f(R, L, D), f(R, 3, D)), 1, f(R, D), "x_BxCxD"),
    (join, (f(R, L, D), f(R, 3, D)), 0, f(R, L, 4), "titles.x_RxLxD"),
    (gate, (f(R, 3), f(R, D), f(R, D)), 0, f(3), "user_BxF"),
    (gate, (f(R, 3), f(R, D), f(R, D)), 2, f(3, D), "experts [B, D]"),
    (match, (f(R, D),), 0, f(D), "u [B, D] or [B, C, D]"),
    (match, (f(R, D),), 0, f(R, 7), "u: the width of the user vector"),
    (match_every, (f(R, D), f(9, 4)), 0, f(R, 7), "u_BxU"),
    (match_every, (f(R, D), f(9, 4)), 1, f(9, 5), "t_VxF"),
    (sequential, WINDOW, 0, i(R, L, 1), "window.title_BxL"),
    (sequential, WINDOW, 0, f(R, L), "window.title_BxL"),
    (sequential, WINDOW, 1, w(R, 4), "window: title_BxL, time_BxL, until_BxL"),
    (sequential, WINDOW, 3, f(8, D), "catalogue [V, D]"),
    (per_example, SCORES, 0, f(R, 4), "scores['ctr'] [B, K + N]"),
    (per_example, SCORES, 2, f(R, 3), "candidates.completion [B, K]"),
    (per_example, SCORES, 4, b(R, 2), "candidates.hard [B, N]"),
    (per_example, SCORES, 1, f(R, 2), "candidates.present, candidates.negative"),
    (per_example, SCORES, 5, f(R), "clean_gate [B, E] or [B, K + N, E]"),
    (next_title, NEXT, 0, f(R, D), "h, titles, target"),
    (next_title, NEXT, 1, f(9, 4), "titles [V, D]"),
    (next_title, NEXT, 2, i(R, 4), "target [R, L]"),
    (next_title, NEXT, 2, f(R, L), "target"),
    (next_title, NEXT, 3, i(L), "negatives [R, N] or [R, L, N]"),
    (next_title, NEXT, 3, i(3, 4), "negatives [R, ...]"),
    (next_title, NEXT, 4, f(8), "log_q [V]"),
    (decode, (w(R, 4),), 0, w(4), "words [B, words]"),
    (decode, (w(R, 4),), 0, i(R, 4), "words"),
    (decode, (w(R, 4),), 0, w(R, 3), "words [B, words]"),
    (draw, (w(R, 2),), 0, w(2), "keys_Rx2"),
    (rank_among, (i(R, 3), f(R, 3), i(R)), 2, i(R, 1), "recommended.id_BxN, target_B"),
]


def named(case):
    return f"{case[0].__name__}-{case[4]}"


@pytest.mark.parametrize("function, good, place, bad, name", CASES, ids=map(named, CASES))
def test_a_wrong_argument_is_named(function, good, place, bad, name):
    jax.eval_shape(function, *good)
    with pytest.raises(AssertionError, match=re.escape(f"[{name}]")):
        jax.eval_shape(function, *wrong(good, place, bad))


@pytest.mark.parametrize("function, bad, name", [  # whose good arguments take more to make
    (in_groups, i(R), "candidate_BxC"),
    (vectors, f(R), "ids"),
    (lambda u: dot_score(u, None, "", None), f(D), "u [B, D] or [B, C, D]"),
    (lambda h: gru4rec.states(F32, Expert(L, 1, H, 1.0, 0.0), (), h, None, None), f(R, D), "h_RxLxD"),
    (pool(AttentionPooling), i(L), "example_RxL"),
    (pool(LastPosition), i(L), "example_RxL"),
], ids=["groups", "titles", "dot", "gru4rec", "pool", "newest"])  # fmt: skip
def test_a_wrong_argument_alone_is_named(function, bad, name):
    with pytest.raises(AssertionError, match=re.escape(f"[{name}]")):
        jax.eval_shape(function, bad)


def test_a_compiled_program_has_no_trace_of_them():
    """The program is the same with and without: assertions are of shapes, and run while tracing."""
    import chex

    arguments = [jnp.zeros(x.shape, x.dtype) for x in (QKV, QKV, QKV, b(R, L, L))]
    asserted = jax.make_jaxpr(attend)(*arguments)
    chex.disable_asserts()
    try:
        bare = jax.make_jaxpr(lambda *x: attend(*x))(*arguments)
    finally:
        chex.enable_asserts()
    assert str(asserted) == str(bare)
