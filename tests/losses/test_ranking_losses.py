"""Equations of the ranking objective against values worked by hand."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Objective, Sampling
from jaxrec.core.batch import Batch, Outcome
from jaxrec.core.registry import RANKING_LOSSES
from jaxrec.losses import gate as gate_losses
from jaxrec.losses import ranking
from jaxrec.models.outputs import RankingOutput

LN2 = 0.6931472
# One example: two positives of which the second is absent, two negatives of which the first is abandoned.
ONE = ranking.CandidateLoss(
    present=jnp.array([[True, False]]),
    completion=jnp.array([[0.8, 0.0]]),
    negative=jnp.array([[True, True]]),
    hard=jnp.array([[True, False]]),
)


def assert_close(actual, expected):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("completion", "alpha", "expected"), [(0.8, 1.0, 1.2), (0.1, 1.0, 0.5), (0.1, 2.0, 0.0), (0.0, 4.0, 0.0)]
)
def test_eq_13_weight(completion, alpha, expected):
    assert_close(ranking.engagement_weight(jnp.float32(completion), alpha, 0.6), expected)


def test_eq_12_hinge():
    # gaps 2 - 1.5 = .5 and 2 - (-1) = 3: max(0, 1 - gap) is .5 and 0, mean .25, times the weight
    actual = ranking.hinge(
        jnp.array([[2.0, 9.0]]), jnp.array([[1.5, -1.0]]), jnp.array([[1.2, 7.0]]), ONE, 1.0
    )
    assert_close(actual, [0.3])


def test_softmax_over_the_positive_and_its_negatives():
    # ln(e^ln 3 + e^0 + e^ln 2) - ln 3 = ln 6 - ln 3 = ln 2, times the weight; with one negative, ln 4 - ln 3
    s, weight = jnp.log(jnp.array([[3.0, 9.0]])), jnp.array([[1.2, 7.0]])
    negative = jnp.log(jnp.array([[1.0, 2.0]]))
    assert_close(ranking.softmax(s, negative, weight, ONE, 1.0), [1.2 * LN2])
    one_negative = ONE._replace(negative=jnp.array([[True, False]]))
    assert_close(ranking.softmax(s, negative, weight, one_negative, 1.0), [1.2 * 0.2876821])
    # both positives present, each against the negatives only: ln 12 - ln 9 = ln 4/3 for the second
    two_positives = ONE._replace(present=jnp.array([[True, True]]))
    assert_close(ranking.softmax(s, negative, weight, two_positives, 1.0), [(1.2 * LN2 + 7 * 0.2876821) / 2])


def test_eq_14_cross_entropy_with_soft_negatives():
    # softplus(s) - y s: positive ln(1 + e^-1) = .3132617; negatives at 0: ln 2 for any label;
    # at s = ln 3, softplus = ln 4: label .1 gives 1.3862944 - .1098612 = 1.2764332; the mean of 3
    label = ranking.soft_labels(ONE.hard, 0.1, "hard")
    assert_close(label, [[0.1, 0.0]])
    actual = ranking.cross_entropy(
        jnp.array([[1.0, 5.0]]), jnp.log(jnp.array([[3.0, 1.0]])), jnp.array([1.0, 0.6]), label,
        jnp.array([[1.5, 1.0]]), ONE,
    )  # fmt: skip
    assert_close(actual, [1.5 * (0.3132617 + 1.2764332 + LN2) / 3])


@pytest.mark.parametrize(("on", "expected"), [("all", [[0.1, 0.1]]), ("none", [[0.0, 0.0]])])
def test_soft_labels_on_all_or_none(on, expected):
    assert_close(ranking.soft_labels(ONE.hard, 0.1, on), expected)


def test_regression_is_the_mean_over_present_positives():
    both = ONE._replace(present=jnp.array([[True, True]]), completion=jnp.array([[0.8, 0.2]]))
    assert_close(ranking.regression(jnp.array([[0.5, 9.0]]), ONE), [0.09])
    assert_close(ranking.regression(jnp.array([[0.5, 0.6]]), both), [(0.09 + 0.16) / 2])


def test_eq_10_entropy():
    # H(.5, .5) = ln 2; H(.9, .1) = .3250830; H(1, 0) = 0 with a finite gradient
    gate = jnp.array([[0.5, 0.5], [0.9, 0.1], [1.0, 0.0]])
    assert_close(gate_losses.entropy(gate), [LN2, 0.3250830, 0.0])
    assert np.isfinite(jax.grad(lambda g: gate_losses.entropy(g).sum())(gate)).all()


def compute_terms(config, scores, gate, labels=(1.0,), candidates=None, threshold=0.5, target=0.52):
    c = candidates or ONE._replace(present=ONE.present[:, :1], completion=ONE.completion[:, :1])
    per_example = jax.jit(lambda *a: ranking.per_example(*a, config, labels, threshold, target))
    return per_example(RankingOutput(scores, gate, gate), c)


def test_eq_15_total():
    """Scores at which every label counts: at 0 the cross-entropy is ln 2 whatever the label."""
    scores = {
        "ctr": jnp.log(jnp.array([[3.0, 2.0, 1.0]])),
        "ranking": jnp.array([[2.0, 1.5, -1.0]]),
        "completion": jnp.full((1, 3), 0.5),
    }
    total, terms = compute_terms(Objective(), scores, jnp.array([[0.5, 0.5]]))
    # W = 1 + (.8 - .5) = 1.3. BCE: positive ln 4 - ln 3, hard negative with label .1 ln 3 - .1 ln 2, the
    # other ln 2. Hinge: gaps .5 and 3, so .25. Squared error .09, (ln 2 - .52)^2 = .0299799.
    bce = (0.2876821 + 1.0986123 - 0.1 * LN2 + LN2) / 3
    assert_close(terms["ctr"], [1.3 * bce])
    assert_close(terms["ranking"], [1.3 * 0.25])
    assert_close(terms["regression"], [0.09])
    assert_close(terms["entropy"], [(LN2 - 0.52) ** 2])
    assert_close(total, [1.3 * bce + 1.3 * 0.25 + 0.2 * 0.09 + 0.1 * 0.02998])
    softmax_terms = compute_terms(Objective(ranking_loss="softmax"), scores, jnp.array([[0.5, 0.5]]))[1]
    # ln(e^2 + e^1.5 + e^-1) - 2 = ln(7.3890561 + 4.4816891 + .3678794) - 2 = .5046089
    assert_close(softmax_terms["ranking"], [1.3 * (np.log(7.3890561 + 4.4816891 + 0.3678794) - 2)])
    unweighted, _ = compute_terms(Objective(personalised=False), scores, jnp.array([[0.5, 0.5]]))
    assert_close(unweighted, [bce + 0.25 + 0.2 * 0.09 + 0.1 * 0.02998])
    weights = Objective(ctr=0.5, ranking=3.0, regression=0.0, entropy=0.0)
    weighted, _ = compute_terms(weights, scores, jnp.array([[0.5, 0.5]]))
    assert_close(weighted, [1.3 * (0.5 * bce + 3 * 0.25)])


def test_single_task_has_one_term():
    config = Objective(ranking=0.0, regression=0.0, entropy=0.0)
    assert set(compute_terms(config, {"ctr": jnp.zeros((1, 3))}, jnp.ones((1, 1)))[1]) == {"ctr"}
    assert set(
        compute_terms(replace(config, entropy=0.1), {"ctr": jnp.zeros((1, 3))}, jnp.ones((1, 1)))[1]
    ) == {"ctr"}


def test_next_k_labels_and_weights():
    c = ranking.CandidateLoss(
        jnp.array([[True, True, False]]), jnp.array([[1.0, 0.5, 0.0]]), ONE.negative, ONE.hard
    )
    config = Objective(regression=0.0, entropy=0.0, soft_on="none")
    # positives at 2 and ln 3, negatives at 0; W = 1.5 and 1
    s = jnp.array([[2.0, jnp.log(3.0), 7.0, 0.0, 0.0]])
    _, terms = compute_terms(config, {"ctr": s, "ranking": s / 4}, jnp.ones((1, 1)), (1.0, 0.6, 0.3), c)
    # hinge at gaps .5 and .2746531: 1.5 * .5 and .6 * .7253469, the mean of the two
    assert_close(terms["ranking"], [(0.75 + 0.4352082) / 2])
    # BCE: ln(1 + e^-2) = .1269280; label .6 at ln 3: 1.3862944 - .6 * 1.0986123 = .7271270
    first, second = 1.5 * (0.1269280 + 2 * LN2) / 3, (0.7271270 + 2 * LN2) / 3
    assert_close(terms["ctr"], [(first + second) / 2])


@pytest.mark.parametrize("ranking_loss", RANKING_LOSSES)
def test_masked_entries_add_neither_value_nor_gradient(ranking_loss):
    c = ONE._replace(negative=jnp.array([[True, False]]))
    config = Objective(ranking_loss=ranking_loss)

    def total(masked):
        s = jnp.array([[1.0, masked, 0.5, masked]])
        scores = {"ctr": s, "ranking": s, "completion": jnp.array([[0.3, masked]])}
        nan_candidates = c._replace(completion=jnp.array([[0.8, masked]]))
        return compute_terms(config, scores, jnp.array([[0.4, 0.6]]), (1.0, 0.6), nan_candidates)[0].sum()

    value_and_grad = jax.jit(jax.value_and_grad(total))
    assert [float(x) for x in value_and_grad(jnp.nan)] == [float(value_and_grad(0.0)[0]), 0.0]


def test_number_of_labels_must_equal_number_of_positives():
    with pytest.raises(ValueError, match="1 labels for 2 positives"):
        compute_terms(Objective(), {}, jnp.ones((1, 1)), (1.0,), ONE)


def test_gates_per_candidate_are_averaged_over_present_candidates():
    # the two present candidates have entropies ln 2 and 0; the gates of absent candidates are NaN
    gate = jnp.array([[[0.5, 0.5], [jnp.nan, 0.0], [1.0, 0.0], [jnp.nan, 1.0]]])
    batch = Batch(
        None, jnp.array([[5, 0]]), Outcome(jnp.ones((1, 2))), jnp.array([[6, 0]]), jnp.zeros((1, 2), bool),
        jnp.array([True]),
    )  # fmt: skip
    outputs = SimpleNamespace(scores={"ctr": jnp.zeros((1, 4))}, clean_gate_BxE=gate, retrieved=None)
    config = Objective(ranking=0.0, regression=0.0)
    sums = ranking.objective(outputs, batch, config, Sampling(next_k=2), 0.5, 0.5)[1]
    assert_close([sums[f"gate_{e}"][0] for e in (0, 1)], [0.75, 0.25])
    assert_close(sums["gate_entropy"][0], LN2 / 2)
    assert_close(sums["loss_entropy"][0], ((LN2 - 0.5) ** 2 + 0.25) / 2)


def test_sums_exclude_padding_and_give_gate_statistics():
    gate = jnp.array([[1.0, 0.0], [0.0, 1.0], [jnp.nan, jnp.nan]])
    # ln 3 and ln 2: positive ln 4 - ln 3, negative ln 3; the second example has them exchanged
    scores = {"ctr": jnp.log(jnp.array([[3.0, 2.0], [2.0, 3.0], [jnp.nan, 1.0]]))}
    outputs = SimpleNamespace(scores=scores, clean_gate_BxE=gate, retrieved=None)
    batch = Batch(
        None, jnp.full((3, 1), 5), Outcome(jnp.ones((3, 1))), jnp.full((3, 1), 6), jnp.zeros((3, 1), bool),
        jnp.array([True, True, False]),
    )  # fmt: skip
    config = Objective(ranking=0.0, regression=0.0, personalised=False, entropy=1.0, soft_on="none")
    value, sums = ranking.objective(outputs, batch, config, Sampling(), 0.5, 0.5)
    bce = (0.2876821 + 1.0986123) / 2 + (0.4054651 + 1.3862944) / 2
    assert_close(value, bce + 2 * 0.25)  # entropy 0, target .5: .25 each
    assert {name: int(n) for name, (_, n) in sums.items()} == dict.fromkeys(sums, 2)
    means = {name: float(s / n) for name, (s, n) in sums.items()}
    statistics = gate_losses.gate_statistics(means)
    assert_close([means["gate_0"], means["gate_1"], means["gate_entropy"]], [0.5, 0.5, 0.0])
    assert_close([statistics["gate_entropy_of_mean"], statistics["gate_information"]], [LN2, LN2])
    assert gate_losses.gate_statistics({"loss": 1.0}) == {}


def test_load_balancing_loss_equals_minus_the_entropy_of_the_mean_gate():
    gate = jnp.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])  # mean .6, .4: H = .6730117
    expert_load = gate.mean(0)
    assert_close(gate_losses.load_balancing_loss(gate, expert_load).mean(), -0.6730117)
    actual = jax.grad(lambda g: gate_losses.load_balancing_loss(g, expert_load).mean())(gate)
    expected = jax.grad(lambda g: -gate_losses.entropy(g.mean(0)))(gate)
    # Gate weights add up to 1, so only differences between the experts of an example matter.
    for i in (0, 1):
        assert_close(actual[:, i] - actual[:, 1 - i], expected[:, i] - expected[:, 1 - i])
    assert jnp.isfinite(gate_losses.load_balancing_loss(gate, jnp.array([1.0, 0.0]))).all()


def test_total_includes_the_weighted_balance_term():
    gate, expert_load = jnp.array([[0.5, 0.5]]), jnp.array([0.8, 0.2])
    config = Objective(ranking=0.0, regression=0.0, entropy=0.0, balance=0.3)
    outputs = RankingOutput({"ctr": jnp.zeros((1, 4))}, gate, gate)
    arguments = outputs, ONE, config, (1.0, 0.6), 0.5, None
    unbalanced = ranking.per_example(*arguments)
    balanced = ranking.per_example(*arguments, expert_load=expert_load)
    assert_close(balanced[1]["balance"], [(np.log(0.8) + np.log(0.2)) / 2])
    assert_close(balanced[0] - unbalanced[0], 0.3 * balanced[1]["balance"])


def test_retrieval_is_a_softmax_over_sampled_titles():
    # first positive: ln(3 + 1) - ln 3, because the second sample is one of the positives; times 1.2 and .5
    retrieved = SimpleNamespace(
        positive_BxK=jnp.log(jnp.array([[3.0, 9.0]])),
        negative_BxN=jnp.log(jnp.array([[1.0, 3.0]])),
        there_BxN=jnp.array([[True, False]]),
    )
    assert_close(ranking.retrieval(retrieved, jnp.array([[1.2, 7.0]]), ONE), [1.2 * 0.2876821])
    config = Objective(ranking=0.0, regression=0.0, entropy=0.0, retrieval=0.5)
    outputs = RankingOutput({"ctr": jnp.zeros((1, 4))}, jnp.ones((1, 1)), jnp.ones((1, 1)))
    arguments = ONE, config, (0.6, 0.3), 0.6, None
    total, terms = ranking.per_example(outputs._replace(retrieved=retrieved), *arguments)
    assert_close(terms["retrieval"], [0.6 * 1.2 * 0.2876821])  # weight of the label times that of Eq. 13
    without_total, without_terms = ranking.per_example(outputs, *arguments)
    assert_close(total - without_total, 0.5 * terms["retrieval"])
    assert {*without_terms} == {"ctr"}


def test_sampled_title_that_is_a_positive_gives_no_gradient():
    def loss(negative):
        retrieved = SimpleNamespace(
            positive_BxK=jnp.zeros((1, 2)), negative_BxN=negative, there_BxN=jnp.array([[True, False]])
        )
        return ranking.retrieval(retrieved, jnp.ones((1, 2)), ONE).sum()

    gradient = jax.grad(loss)(jnp.array([[0.5, jnp.nan]]))
    assert gradient[0, 0] > 0.1 and gradient[0, 1] == 0
