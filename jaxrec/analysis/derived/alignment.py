"""Alignment of the vectors of two trainings: Orthogonal Low Rank Embedding Stabilization (arXiv 2508.07574).

A product of outputs and title vectors is the same for any invertible map of one side and its inverse
transpose on the other, so that each training ends with other vectors. The singular values of the product
determine vectors up to a rotation, which Procrustes' problem aligns with those of an earlier training.

Axis letters: V titles, N users, D width, C common titles.
"""

from typing import NamedTuple

import numpy as np

_SMALLEST = 1e-6  # singular values below this share of the largest are left out
_FOLDS = 5  # of the probe
_RIDGE = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # penalties of the probe, relative to the rows


class Maps(NamedTuple):
    """Maps of title vectors and of outputs that keep their product.

    Attributes:
        of_title_DxD: M_T Omega; columns of singular values that were left out are 0.
        of_user_DxD: M_U Omega.
        rank: Number of singular values.
    """

    of_title_DxD: np.ndarray
    of_user_DxD: np.ndarray
    rank: int

    def rotated(self, omega_DxD: np.ndarray) -> "Maps":
        """Return the maps followed by a rotation."""
        return Maps(self.of_title_DxD @ omega_DxD, self.of_user_DxD @ omega_DxD, self.rank)


def balanced_maps(t_VxD: np.ndarray, u_NxD: np.ndarray) -> Maps:
    """Return the maps to the balanced factors of the scores T U^T, whose singular values both sides share.

    With T = Q_T R_T, U = Q_U R_U and R_T R_U^T = A S B^T, the maps are M_T = R_U^T B S^(-1/2) and
    M_U = R_T^T A S^(-1/2). Then T M_T = Q_T A S^(1/2), U M_U = Q_U B S^(1/2), and M_T M_U^T = 1. The sign of
    each column of T M_T makes its sum positive, so that the maps are a function of the scores.

    Args:
        t_VxD: Title vectors T.
        u_NxD: Outputs U of users.
    """
    r_t, r_u = (np.asarray(np.linalg.qr(x.astype(np.float64), mode="r")) for x in (t_VxD, u_NxD))
    a, s, b = np.linalg.svd(r_t @ r_u.T)
    kept = s > _SMALLEST * s.max(initial=0.0)
    scale = np.where(kept, 1.0 / np.sqrt(np.where(kept, s, 1.0)), 0.0)
    of_title = _padded(r_u.T @ b.T[:, : len(s)] * scale)
    sign = np.where((t_VxD.astype(np.float64) @ of_title).sum(0) < 0, -1.0, 1.0)
    return Maps(of_title * sign, _padded(r_t.T @ a[:, : len(s)] * scale) * sign, int(kept.sum()))


def _padded(map_DxS: np.ndarray) -> np.ndarray:
    """Return a map [D, S] with columns of 0 up to a square."""
    width = len(map_DxS)
    return np.pad(map_DxS, ((0, 0), (0, width - map_DxS.shape[1])))


def procrustes(x_CxD: np.ndarray, y_CxD: np.ndarray) -> np.ndarray:
    """Return the orthogonal matrix Omega [D, D] with the smallest |X Omega - Y| (Schoenemann 1966)."""
    left, _, right = np.linalg.svd(x_CxD.astype(np.float64).T @ y_CxD.astype(np.float64))
    return left @ right


def mean_cosine(x_CxD: np.ndarray, y_CxD: np.ndarray) -> float:
    """Return the mean cosine of the vectors of equal rows."""
    x, y = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (x_CxD, y_CxD))
    return float((x * y).sum(1).mean())


class Probe:
    """Ridge regression of title facts on earlier vectors, applied to later ones.

    The titles are divided into folds by a permutation of fixed seed. R^2 is that of predictions by the
    regression of the other folds, a quarter of whose titles chooses the penalty.

    Args:
        x_CxD: Earlier vectors of the titles.
        y_CxF: Facts, such as log plays and the genres as 0 and 1.
    """

    def __init__(self, x_CxD: np.ndarray, y_CxF: np.ndarray) -> None:
        self._fold = np.random.default_rng(0).permutation(len(x_CxD)) % _FOLDS
        self._y = y_CxF.astype(np.float64)
        self._weights = []
        for fold in range(_FOLDS):
            trained = np.flatnonzero(self._fold != fold)
            chosen, fitted = trained[::4], np.delete(trained, np.s_[::4])
            losses = [self._loss(x_CxD, self._fit(x_CxD, fitted, ridge), chosen) for ridge in _RIDGE]
            self._weights.append(self._fit(x_CxD, trained, _RIDGE[int(np.argmin(losses))]))

    def _fit(self, x_CxD: np.ndarray, rows: np.ndarray, ridge: float) -> np.ndarray:
        x, penalty = _with_one(x_CxD[rows]), ridge * len(rows) * np.eye(x_CxD.shape[1] + 1)
        penalty *= np.square(x_CxD[rows]).mean()  # in units of the vectors
        penalty[-1, -1] = 0.0
        return np.linalg.lstsq(x.T @ x + penalty, x.T @ self._y[rows], rcond=None)[0]

    def _loss(self, x_CxD: np.ndarray, weights: np.ndarray, rows: np.ndarray) -> float:
        spread = np.maximum(self._y.var(0), 1e-12)
        return float((np.square(_with_one(x_CxD[rows]) @ weights - self._y[rows]).mean(0) / spread).mean())

    def r2(self, x_CxD: np.ndarray) -> list[float]:
        """Return R^2 of each fact; it may be negative.

        Args:
            x_CxD: Vectors of the same titles.
        """
        predicted = np.empty_like(self._y)
        for fold, weights in enumerate(self._weights):
            own = self._fold == fold
            predicted[own] = _with_one(x_CxD[own]) @ weights
        residual = np.square(predicted - self._y).sum(0)
        spread = np.square(self._y - self._y.mean(0)).sum(0)
        return (1.0 - residual / np.maximum(spread, 1e-12)).tolist()


def _with_one(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x.astype(np.float64), np.ones((len(x), 1))], axis=1)
