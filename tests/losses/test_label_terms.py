"""Terms of declared heads against values worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.heads import HeadSpec
from jaxrec.config.schema import Objective
from jaxrec.core.registry import PAIR_LOSSES, STATE_LOSSES
from jaxrec.losses import ranking
from jaxrec.losses.ranking import CandidateLoss, HeadLabels
from jaxrec.models.outputs import RankingOutput

LN2, LN3, LN4 = np.log([2.0, 3.0, 4.0])
GATE = jnp.ones((1, 1))
# Two positives, both present, and two negatives of which the second is absent.
ONE = CandidateLoss(
    present=jnp.array([[True, True]]),
    completion=jnp.array([[0.8, 0.2]]),
    negative=jnp.array([[True, False]]),
    hard=jnp.array([[False, False]]),
)
NO_PAPER = Objective(ctr=0.0, ranking=0.0, regression=0.0, entropy=0.0)


def head(loss: str, on: str = "pair", **changes) -> HeadSpec:
    target = (PAIR_LOSSES if on == "pair" else STATE_LOSSES)[loss]
    fields = {"on": on, "loss": loss, "of": "x", "personalised": False, "weight": 0.5}
    return HeadSpec("x", "x", target, **(fields | changes))


def term(spec: HeadSpec, scores, y, known, labels=(1.0, 0.6), candidates=ONE):
    """Return the total and the term of one declared head; the total has no other term."""
    declared = ((spec, HeadLabels(jnp.asarray(y), jnp.asarray(known))),)
    outputs = RankingOutput({"x": jnp.asarray(scores)}, GATE, GATE)
    c = candidates._replace(declared=declared)
    total, terms = ranking.per_example(outputs, c, NO_PAPER, labels, 0.5, None)
    assert {*terms} == {"x"}
    np.testing.assert_allclose(total, spec.weight * terms["x"], rtol=1e-6)
    return float(terms["x"][0])


def test_pair_bce_is_the_labelled_sum_over_the_share_of_known_entries():
    # softplus(s) - y s: positives at ln 3 with label 1: ln 4 - ln 3; at 0 with label 0: ln 2; negative at
    # ln 3: ln 4. Each positive: its own and the one present negative, over 2 terms, times 1 and .6.
    s, y = [[LN3, 0.0, LN3, 9.0]], [[1.0, 0.0, 0.0, 0.0]]
    known = [[True, True, True, True]]
    both = (((LN4 - LN3) + LN4) / 2 + 0.6 * (LN2 + LN4) / 2) / 2
    assert term(head("bce"), s, y, known) == pytest.approx(both, rel=1e-6)
    # of an unknown label, the negatives stay: the sum is over 2 terms still, and over the share of entries
    first = ((LN4 - LN3) + LN4) / 2 + 0.6 * LN4 / 2
    known = [[True, False, True, True]]
    assert term(head("bce", share=0.75), s, y, known) == pytest.approx(first / 2 / 0.75, rel=1e-6)
    # drawn titles of unknown label: the first positive alone, over 2 terms
    known = [[True, False, False, False]]
    assert term(head("bce"), s, y, known) == pytest.approx((LN4 - LN3) / 2 / 2, rel=1e-6)
    # a head without drawn titles has scores of the positives alone
    spec, known = head("bce", drawn=False), [[True, True, False, False]]
    alone = ((LN4 - LN3) + 0.6 * LN2) / 2
    assert term(spec, [[LN3, 0.0]], y, known) == pytest.approx(alone, rel=1e-6)


def test_pair_mse_of_positives_and_drawn_titles():
    # errors 3 - 5 = -2 and .5 - 1; the negative 1 - 0
    s, y, known = [[3.0, 0.5, 1.0, 7.0]], [[5.0, 1.0, 0.0, 0.0]], [[True, True, True, True]]
    expected = ((4.0 + 1.0) / 2 + 0.6 * (0.25 + 1.0) / 2) / 2
    assert term(head("mse"), s, y, known) == pytest.approx(expected, rel=1e-6)
    spec = head("mse", drawn=False, share=0.5)
    known = [[True, False, False, False]]
    assert term(spec, [[3.0, 0.5]], y, known) == pytest.approx(4.0 / 2 / 0.5, rel=1e-6)


@pytest.mark.parametrize("loss", ["hinge", "softmax"])
def test_a_positive_weighs_as_much_as_its_label_in_rankings(loss):
    # the positives at 1 and 0, the negative at .5: hinge gaps .5 and -.5
    s, y = [[1.0, 0.0, 0.5, 9.0]], [[2.0, 3.0, 0.0, 0.0]]
    of_pair = {"hinge": (0.5, 1.5), "softmax": (np.log1p(np.exp(-0.5)), np.log1p(np.exp(0.5)))}[loss]
    known = [[True, True, True, True]]
    expected = (2 * of_pair[0] + 0.6 * 3 * of_pair[1]) / 2
    assert term(head(loss, last_bias=False), s, y, known) == pytest.approx(expected, rel=1e-6)
    known = [[True, False, True, True]]
    assert term(head(loss, share=0.5), s, y, known) == pytest.approx(2 * of_pair[0] / 2 / 0.5, rel=1e-6)


def test_a_personalised_head_is_weighed_by_eq_13():
    # W = 1 + (.8 - .5) = 1.3 and 1 + (.2 - .5) = .7; the plain objective is not personalised
    s, y, known = [[LN3, 0.0]], [[1.0, 0.0, 0.0, 0.0]], [[True, True, False, False]]
    spec = head("bce", drawn=False, personalised=True)
    expected = (1.3 * (LN4 - LN3) + 0.7 * 0.6 * LN2) / 2
    assert term(spec, s, y, known) == pytest.approx(expected, rel=1e-6)


def test_state_losses_read_the_first_target():
    y, known = [[1.0, 0.0]], [[True, True]]
    assert term(head("bce", "state", share=0.5), [[LN3]], y, known) == pytest.approx((LN4 - LN3) / 0.5)
    assert term(head("mse", "state"), [[3.0]], [[5.0, 9.0]], known) == pytest.approx(4.0)
    assert term(head("bce", "state"), [[LN3]], y, [[False, True]]) == 0.0


def test_state_softmax_averages_the_categories_of_the_next_title():
    scores = [[0.0, 0.0, LN2, LN3]]  # exp: 1, 1, 2, 3
    log_p = np.log(np.array([1, 1, 2, 3]) / 7)
    known = [[True, False]]
    both = term(head("softmax", "state", outputs=4), scores, [[[2, 3], [0, 0]]], known)
    assert both == pytest.approx(-(log_p[2] + log_p[3]) / 2, rel=1e-6)
    one = term(head("softmax", "state", outputs=4), scores, [[[3, 0], [0, 0]]], known)
    assert one == pytest.approx(-log_p[3], rel=1e-6)
    assert term(head("softmax", "state", outputs=4), scores, [[[0, 0], [0, 0]]], [[False, False]]) == 0.0


@pytest.mark.parametrize(("on", "loss"), [
    *(("pair", loss) for loss in PAIR_LOSSES), *(("state", loss) for loss in STATE_LOSSES),
])  # fmt: skip
def test_unknown_labels_add_neither_value_nor_gradient(on, loss):
    spec = head(loss, on, outputs=3 if (on, loss) == ("state", "softmax") else 1)
    scores = jnp.array([[0.3, -0.2, 0.1, 0.4]])[:, : 4 if on == "pair" else spec.outputs]

    def value(scores, y):
        if (on, loss) == ("state", "softmax"):
            known, labels = [[False, False]], jnp.full((1, 2, 2), 1)
        else:
            known, labels = [[False, False, False, False]], y
        declared = ((spec, HeadLabels(labels, jnp.asarray(known))),)
        c = ONE._replace(declared=declared)
        outputs = RankingOutput({"x": scores}, GATE, GATE)
        return ranking.per_example(outputs, c, NO_PAPER, (1.0, 0.6), 0.5, None)[0].sum()

    y = jnp.full((1, 4), jnp.nan)
    total, gradients = jax.value_and_grad(value, argnums=(0, 1))(scores, y)
    assert total == 0
    assert all((np.asarray(g) == 0).all() for g in gradients)
