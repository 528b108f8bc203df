"""Greedy choice by a determinantal point process, and the comparison at equal diversity."""

import numpy as np

from benchmarks import diversity


def test_each_choice_has_the_largest_determinant():
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(20, 8))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    ids, scores = np.stack([rng.permutation(20)[:9] for _ in range(5)]), rng.normal(size=(5, 9))
    chosen = diversity.choose_by_process(ids, scores, unit, 4, strength=2.0)
    for q in range(5):
        relevance = (scores[q] - scores[q].min()) / np.ptp(scores[q])
        vectors = np.exp(2.0 * relevance)[:, None] * unit[ids[q]]
        kernel, taken = vectors @ vectors.T, []
        for _ in range(4):
            rest = [i for i in range(9) if i not in taken]
            taken.append(max(rest, key=lambda i: np.linalg.det(kernel[np.ix_([*taken, i], [*taken, i])])))
        assert chosen[q].tolist() == taken


def test_a_curve_is_linear_between_its_settings():
    low, high = diversity.Lists(np.array([1.0, 0.0]), 0.2), diversity.Lists(np.array([0.0, 1.0]), 0.6)
    np.testing.assert_allclose(diversity.at_distance([high, low], 0.3), [0.75, 0.25])
    assert diversity.at_distance([high, low], 0.7) is None
