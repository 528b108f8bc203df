"""Each equation of the objective against values worked by hand."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Objective, Sampling
from jaxrec.config.validation import NAMES
from jaxrec.core.batch import Batch
from jaxrec.losses import ranking

LN2 = 0.6931472
# One row: two next titles of which one is there, two negatives, the first abandoned.
ONE = ranking.CandidateLoss(
    present=jnp.array([[True, False]]),
    completion=jnp.array([[0.8, 0.0]]),
    negative=jnp.array([[True, True]]),
    hard=jnp.array([[True, False]]),
)


def close(got, wanted):
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("completion", "alpha", "wanted"), [(0.8, 1.0, 1.2), (0.1, 1.0, 0.5), (0.1, 2.0, 0.0), (0.0, 4.0, 0.0)]
)
def test_eq_13_weight(completion, alpha, wanted):
    close(ranking.engagement_weight(jnp.float32(completion), alpha, 0.6), wanted)


def test_eq_12_hinge():
    # gaps 2 - 1.5 = .5 and 2 - (-1) = 3: max(0, 1 - gap) is .5 and 0, mean .25, times the weight
    got = ranking.hinge(jnp.array([[2.0, 9.0]]), jnp.array([[1.5, -1.0]]), jnp.array([[1.2, 7.0]]), ONE, 1.0)
    close(got, [0.3])


def test_softmax_over_the_positive_and_its_negatives():
    # ln(e^ln 3 + e^0 + e^ln 2) - ln 3 = ln 6 - ln 3 = ln 2, times the weight; without the second, ln 4 - ln 3
    s, weight = jnp.log(jnp.array([[3.0, 9.0]])), jnp.array([[1.2, 7.0]])
    negative = jnp.log(jnp.array([[1.0, 2.0]]))
    close(ranking.softmax(s, negative, weight, ONE, 1.0), [1.2 * LN2])
    one = ONE._replace(negative=jnp.array([[True, False]]))
    close(ranking.softmax(s, negative, weight, one, 1.0), [1.2 * 0.2876821])
    # both positives there: each meets the negatives alone, ln 12 - ln 9 = ln 4/3 for the second
    both = ONE._replace(present=jnp.array([[True, True]]))
    close(ranking.softmax(s, negative, weight, both, 1.0), [(1.2 * LN2 + 7 * 0.2876821) / 2])


def test_names_of_ranking_losses_are_those_a_config_may_use():
    assert tuple(ranking.RANKING_LOSSES) == NAMES["objective.ranking_loss"]


def test_eq_14_cross_entropy_with_soft_negatives():
    # softplus(s) - y s: positive ln(1 + e^-1) = .3132617; negatives at 0: ln 2 whatever the label;
    # so at s = ln 3, softplus = ln 4: label .1 gives 1.3862944 - .1098612 = 1.2764332; then mean of 3
    label = ranking.soft_labels(ONE.hard, 0.1, "hard")
    close(label, [[0.1, 0.0]])
    got = ranking.cross_entropy(
        jnp.array([[1.0, 5.0]]), jnp.log(jnp.array([[3.0, 1.0]])), jnp.array([1.0, 0.6]), label,
        jnp.array([[1.5, 1.0]]), ONE,
    )  # fmt: skip
    close(got, [1.5 * (0.3132617 + 1.2764332 + LN2) / 3])


@pytest.mark.parametrize(("on", "wanted"), [("all", [[0.1, 0.1]]), ("none", [[0.0, 0.0]])])
def test_soft_labels_elsewhere(on, wanted):
    close(ranking.soft_labels(ONE.hard, 0.1, on), wanted)


def test_regression_is_the_mean_over_present_positives():
    two = ONE._replace(present=jnp.array([[True, True]]), completion=jnp.array([[0.8, 0.2]]))
    close(ranking.regression(jnp.array([[0.5, 9.0]]), ONE), [0.09])
    close(ranking.regression(jnp.array([[0.5, 0.6]]), two), [(0.09 + 0.16) / 2])


def test_eq_10_entropy():
    # H(.5, .5) = ln 2; H(.9, .1) = .3250830; H(1, 0) = 0 with a finite gradient
    gate = jnp.array([[0.5, 0.5], [0.9, 0.1], [1.0, 0.0]])
    close(ranking.entropy(gate), [LN2, 0.3250830, 0.0])
    assert np.isfinite(jax.grad(lambda g: ranking.entropy(g).sum())(gate)).all()


def terms(config, scores, gate, labels=(1.0,), candidates=None, threshold=0.5, target=0.52):
    c = candidates or ONE._replace(present=ONE.present[:, :1], completion=ONE.completion[:, :1])
    run = jax.jit(lambda *a: ranking.per_example(*a, config, labels, threshold, target))
    return run(scores, c, gate)


def test_eq_15_total():
    scores = {
        "ctr": jnp.zeros((1, 3)),
        "ranking": jnp.zeros((1, 3)),
        "completion": jnp.full((1, 3), 0.5),
    }
    total, parts = terms(Objective(soft_on="none"), scores, jnp.array([[0.5, 0.5]]))
    # W = 1 + (.8 - .5) = 1.3; BCE ln 2, hinge 1, squared error .09, (ln 2 - .52)^2 = .0299799
    close(parts["ctr"], [1.3 * LN2])
    close(parts["ranking"], [1.3])
    close(parts["regression"], [0.09])
    close(parts["entropy"], [(LN2 - 0.52) ** 2])
    close(total, [1.3 * LN2 + 1.3 + 0.2 * 0.09 + 0.1 * 0.02998])
    soft = terms(Objective(ranking_loss="softmax"), scores, jnp.array([[0.5, 0.5]]))[1]
    close(soft["ranking"], [1.3 * 1.0986123])  # three scores alike: ln 3
    plain, _ = terms(Objective(soft_on="none", personalised=False), scores, jnp.array([[0.5, 0.5]]))
    close(plain, [LN2 + 1.0 + 0.2 * 0.09 + 0.1 * 0.02998])


def test_single_task_has_the_one_term():
    config = Objective(ranking=0.0, regression=0.0, entropy=0.0)
    assert set(terms(config, {"ctr": jnp.zeros((1, 3))}, jnp.ones((1, 1)))[1]) == {"ctr"}
    assert set(terms(replace(config, entropy=0.1), {"ctr": jnp.zeros((1, 3))}, jnp.ones((1, 1)))[1]) == {
        "ctr"
    }


def test_next_k_labels_and_weights():
    c = ranking.CandidateLoss(
        jnp.array([[True, True, False]]), jnp.array([[1.0, 0.5, 0.0]]), ONE.negative, ONE.hard
    )
    config = Objective(regression=0.0, entropy=0.0, soft_on="none")
    # positives at 2 and ln 3, negatives at 0; W = 1.5 and 1
    s = jnp.array([[2.0, jnp.log(3.0), 7.0, 0.0, 0.0]])
    _, parts = terms(config, {"ctr": s, "ranking": s / 4}, jnp.ones((1, 1)), (1.0, 0.6, 0.3), c)
    # hinge at gaps .5 and .2746531: 1.5 * .5 and .6 * .7253469, the mean of the two
    close(parts["ranking"], [(0.75 + 0.4352082) / 2])
    # BCE: ln(1 + e^-2) = .1269280; label .6 at ln 3: 1.3862944 - .6 * 1.0986123 = .7271270
    first, second = 1.5 * (0.1269280 + 2 * LN2) / 3, (0.7271270 + 2 * LN2) / 3
    close(parts["ctr"], [(first + second) / 2])


@pytest.mark.parametrize("ranking_loss", ranking.RANKING_LOSSES)
def test_what_is_masked_gives_neither_value_nor_gradient(ranking_loss):
    c = ONE._replace(negative=jnp.array([[True, False]]))
    config = Objective(ranking_loss=ranking_loss)

    def total(bad):
        s = jnp.array([[1.0, bad, 0.5, bad]])
        out = {"ctr": s, "ranking": s, "completion": jnp.array([[0.3, bad]])}
        nan_completion = c._replace(completion=jnp.array([[0.8, bad]]))
        return terms(config, out, jnp.array([[0.4, 0.6]]), (1.0, 0.6), nan_completion)[0].sum()

    both = jax.jit(jax.value_and_grad(total))
    assert [float(x) for x in both(jnp.nan)] == [float(both(0.0)[0]), 0.0]


def test_labels_are_as_many_as_positives():
    with pytest.raises(ValueError, match="1 labels for 2 positives"):
        terms(Objective(), {}, jnp.ones((1, 1)), (1.0,), ONE)


def test_a_gate_a_candidate_counts_by_those_present():
    # entropies ln 2 and 0 of the two candidates there; the absent ones hold NaN
    gate = jnp.array([[[0.5, 0.5], [jnp.nan, 0.0], [1.0, 0.0], [jnp.nan, 1.0]]])
    batch = Batch(
        None, jnp.array([[5, 0]]), jnp.ones((1, 2)), jnp.array([[6, 0]]), jnp.zeros((1, 2), bool),
        jnp.array([True]),
    )  # fmt: skip
    out = SimpleNamespace(scores={"ctr": jnp.zeros((1, 4))}, clean_gate_BxE=gate, retrieved=None)
    config = Objective(ranking=0.0, regression=0.0)
    sums = ranking.objective(out, batch, config, Sampling(next_k=2), 0.5, 0.5)[1]
    close([sums[f"gate_{e}"][0] for e in (0, 1)], [0.75, 0.25])
    close(sums["gate_entropy"][0], LN2 / 2)
    close(sums["loss_entropy"][0], ((LN2 - 0.5) ** 2 + 0.25) / 2)


def test_sums_leave_padding_out_and_tell_how_the_gate_is_used():
    gate = jnp.array([[1.0, 0.0], [0.0, 1.0], [jnp.nan, jnp.nan]])
    scores = {"ctr": jnp.array([[0.0, 0.0], [0.0, 0.0], [jnp.nan, 0]])}
    out = SimpleNamespace(scores=scores, clean_gate_BxE=gate, retrieved=None)
    batch = Batch(
        None, jnp.full((3, 1), 5), jnp.ones((3, 1)), jnp.full((3, 1), 6), jnp.zeros((3, 1), bool),
        jnp.array([True, True, False]),
    )  # fmt: skip
    config = Objective(ranking=0.0, regression=0.0, personalised=False, entropy=1.0)
    value, sums = ranking.objective(out, batch, config, Sampling(), 0.5, 0.5)
    close(value, 2 * (LN2 + 0.25))  # entropy 0, target .5: .25 each
    assert {name: int(n) for name, (_, n) in sums.items()} == dict.fromkeys(sums, 2)
    means = {name: float(s / n) for name, (s, n) in sums.items()}
    use = ranking.gate_statistics(means)
    close([means["gate_0"], means["gate_1"], means["gate_entropy"]], [0.5, 0.5, 0.0])
    close([use["gate_entropy_of_mean"], use["gate_information"]], [LN2, LN2])
    assert ranking.gate_statistics({"loss": 1.0}) == {}


def test_evenness_is_minus_the_entropy_of_the_mean_gate_in_value_and_gradient():
    gate = jnp.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])  # mean .6, .4: H = .6730117
    usage = gate.mean(0)
    close(ranking.load_balancing_loss(gate, usage).mean(), -0.6730117)
    ours = jax.grad(lambda g: ranking.load_balancing_loss(g, usage).mean())(gate)
    plain = jax.grad(lambda g: -ranking.entropy(g.mean(0)))(gate)
    # Weights add up to 1, so what moves all experts of a request alike moves nothing.
    for i in (0, 1):
        close(ours[:, i] - ours[:, 1 - i], plain[:, i] - plain[:, 1 - i])
    assert jnp.isfinite(ranking.load_balancing_loss(gate, jnp.array([1.0, 0.0]))).all()


def test_balance_joins_the_total_by_its_weight():
    gate, usage = jnp.array([[0.5, 0.5]]), jnp.array([0.8, 0.2])
    config = Objective(ranking=0.0, regression=0.0, entropy=0.0, balance=0.3)
    given = {"ctr": jnp.zeros((1, 4))}, ONE, gate, config, (1.0, 0.6), 0.5, None
    out = ranking.per_example(*given)
    balanced = ranking.per_example(*given, usage=usage)
    close(balanced[1]["balance"], [(np.log(0.8) + np.log(0.2)) / 2])
    close(balanced[0] - out[0], 0.3 * balanced[1]["balance"])


def test_retrieval_is_a_softmax_over_titles_drawn():
    # ln(3 + 1) - ln 3 of the first positive, the second draw being one of the positives; times 1.2 and .5
    found = SimpleNamespace(
        positive_BxK=jnp.log(jnp.array([[3.0, 9.0]])),
        negative_BxN=jnp.log(jnp.array([[1.0, 3.0]])),
        there_BxN=jnp.array([[True, False]]),
    )
    close(ranking.retrieval(found, jnp.array([[1.2, 7.0]]), ONE), [1.2 * 0.2876821])
    config = Objective(ranking=0.0, regression=0.0, entropy=0.0, retrieval=0.5)
    given = {"ctr": jnp.zeros((1, 4))}, ONE, jnp.ones((1, 1)), config, (0.6, 0.3), 0.6, None
    total, terms = ranking.per_example(*given, retrieved=found)
    close(terms["retrieval"], [0.6 * 1.2 * 0.2876821])  # the label's weight, and Eq. 13's
    close(total - ranking.per_example(*given)[0], 0.5 * terms["retrieval"])
    assert {*ranking.per_example(*given)[1]} == {"ctr"}


def test_a_title_drawn_that_is_a_positive_gives_no_gradient():
    def loss(negative):
        found = SimpleNamespace(
            positive_BxK=jnp.zeros((1, 2)), negative_BxN=negative, there_BxN=jnp.array([[True, False]])
        )
        return ranking.retrieval(found, jnp.ones((1, 2)), ONE).sum()

    slope = jax.grad(loss)(jnp.array([[0.5, jnp.nan]]))
    assert slope[0, 0] > 0.1 and slope[0, 1] == 0
