"""Alignment of vectors: products stay, and trainings that differ by a map alone get equal vectors."""

import numpy as np
import pytest

from jaxrec.analysis.derived.alignment import Probe, balanced_maps, mean_cosine, procrustes


@pytest.fixture(scope="module")
def vectors():
    """Title vectors [60, 6] and outputs [200, 6], with a spectrum that falls."""
    rng = np.random.default_rng(1)
    scale = np.array([4.0, 3.0, 2.0, 1.0, 0.5, 0.25])
    return rng.normal(size=(60, 6)) * scale, rng.normal(size=(200, 6)) * scale[::-1] ** 0.5


def test_the_maps_keep_every_product(vectors):
    t, u = vectors
    maps = balanced_maps(t, u).rotated(procrustes(np.eye(6)[::-1], np.eye(6)))
    np.testing.assert_allclose((t @ maps.of_title_DxD) @ (u @ maps.of_user_DxD).T, t @ u.T, atol=1e-10)
    other = np.random.default_rng(2).normal(size=(5, 6))  # of a user that did not determine the maps
    np.testing.assert_allclose(
        (t @ maps.of_title_DxD) @ (other @ maps.of_user_DxD).T, t @ other.T, atol=1e-10
    )


def test_both_sides_have_the_singular_values_of_the_scores(vectors):
    t, u = vectors
    maps, s = balanced_maps(t, u), np.linalg.svd(t @ u.T, compute_uv=False)[:6]
    for side in (t @ maps.of_title_DxD, u @ maps.of_user_DxD):
        np.testing.assert_allclose(side.T @ side, np.diag(s), atol=1e-8 * s[0])


def test_a_training_that_differs_by_a_map_has_the_same_balanced_vectors(vectors):
    t, u = vectors
    mix = np.random.default_rng(3).normal(size=(6, 6))
    other_t, other_u = t @ mix, u @ np.linalg.inv(mix).T
    np.testing.assert_allclose(other_t @ other_u.T, t @ u.T, atol=1e-9)
    ours, theirs = (x @ balanced_maps(x, y).of_title_DxD for x, y in ((t, u), (other_t, other_u)))
    np.testing.assert_allclose(theirs, ours, atol=1e-8)
    assert mean_cosine(other_t, t) < 0.5
    # A rotation alone does not undo a map.
    assert mean_cosine(other_t @ procrustes(other_t, t), t) < 0.97


def test_directions_without_scores_are_left_out(vectors):
    t, u = vectors
    u = u.copy()
    u[:, 4:] = 0.0
    maps = balanced_maps(t, u)
    assert maps.rank == 4 and np.isfinite(maps.of_title_DxD).all()
    np.testing.assert_allclose((t @ maps.of_title_DxD) @ (u @ maps.of_user_DxD).T, t @ u.T, atol=1e-10)
    fewer = balanced_maps(t[:3], u)  # fewer titles than the width
    assert fewer.of_title_DxD.shape == (6, 6) and fewer.rank == 3
    np.testing.assert_allclose(
        (t[:3] @ fewer.of_title_DxD) @ (u @ fewer.of_user_DxD).T, t[:3] @ u.T, atol=1e-10
    )


def test_procrustes_finds_a_rotation():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(30, 5))
    omega = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    np.testing.assert_allclose(procrustes(x, x @ omega), omega, atol=1e-12)


def test_a_probe_explains_linear_facts_and_fails_on_other_vectors():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(400, 4))
    y = np.stack([x @ [1.0, -2.0, 0.5, 0.0] + 3.0, rng.normal(size=400)], axis=1)
    probe = Probe(x, y)
    linear, noise = probe.r2(x)
    assert linear > 0.95 and abs(noise) < 0.1
    assert probe.r2(x[:, ::-1])[0] < 0.3
