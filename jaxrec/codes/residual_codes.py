"""Codes of titles: tokens of balanced clusters of residuals, and a last token that separates titles.

Level l clusters what the levels before leave of each vector, its residual (OneRec, arXiv 2502.18965). The
tokens of all levels are the path of a title. Titles with the same path differ in the last token, the
collision token, which every title has: all codes have the same length, so that sums of their log
probabilities are comparable.
"""

from typing import NamedTuple

import numpy as np

from jaxrec.codes.balanced_kmeans import assign_by_regret, balanced_kmeans, squared_distances
from jaxrec.core.errors import InputError
from jaxrec.core.hashing import uniform

_SHUFFLE = 0x5F1E  # purpose of the draws of random codes


class Codes(NamedTuple):
    """Codes of n titles.

    Attributes:
        tokens: [n, levels + 1] int32; the last one is the collision token.
        centroids: [levels, size, D] float32 centroids; D = 0 for random codes.
        distortion: Mean squared norm of the residuals after each level; empty for random codes.
    """

    tokens: np.ndarray
    centroids: np.ndarray
    distortion: tuple[float, ...]


def code_vectors(vectors: np.ndarray, levels: int, size: int, seed: int) -> Codes:
    """Return the codes of title vectors [n, D].

    Args:
        vectors: Vectors of the titles, in the order of their ids.
        levels: Number of levels.
        size: Number of clusters of a level, and of collision tokens.
        seed: Seed of the first centroids.

    Raises:
        InputError: More than `size` titles have the same path.
    """
    residual = np.asarray(vectors, np.float64)
    tokens, centroids, distortion = [], [], []
    for level in range(levels):
        clusters = balanced_kmeans(residual, size, seed + level)
        residual = residual - clusters.centroids[clusters.cluster]
        tokens.append(clusters.cluster)
        centroids.append(clusters.centroids)
        distortion.append(clusters.distortion)
    path = np.stack(tokens, axis=1).astype(np.int32)
    return Codes(with_collisions(path, size), np.stack(centroids).astype(np.float32), tuple(distortion))


def random_codes(titles: int, levels: int, size: int, seed: int) -> Codes:
    """Return codes without a meaning, whose levels are as balanced as those of `code_vectors`.

    Raises:
        InputError: More than `size` titles have the same path.
    """
    path = np.empty((titles, levels), np.int32)
    for level in range(levels):
        order = np.argsort(uniform(seed, _SHUFFLE, level, np.arange(titles)), kind="stable")
        path[order, level] = np.arange(titles) % size
    return Codes(with_collisions(path, size), np.zeros((levels, size, 0), np.float32), ())


def with_collisions(path: np.ndarray, size: int) -> np.ndarray:
    """Append the collision token to paths [n, levels]: the number of earlier titles with the same path.

    Raises:
        InputError: A number is `size` or more.
    """
    leaf, inverse = np.unique(path, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    order = np.argsort(inverse, kind="stable")
    count = np.bincount(inverse, minlength=len(leaf))
    token = np.empty(len(path), np.int32)
    token[order] = np.arange(len(path)) - np.repeat(np.cumsum(count) - count, count)
    _check_collisions(token, path, size)
    return np.concatenate([path, token[:, None]], axis=1)


def _check_collisions(token: np.ndarray, path: np.ndarray, size: int) -> None:
    if len(token) and token.max() >= size:
        row = int(token.argmax())
        raise InputError(
            f"codes: {int(token[row]) + 1:,} titles have the path {'-'.join(map(str, path[row].tolist()))}, "
            f"and the collision token has codes.size={size} values; give a larger codes.size or codes.levels"
        )


def code_new_titles(vectors: np.ndarray, codes: Codes) -> np.ndarray:
    """Return the tokens [m, levels + 1] of new titles, which leave all other codes unchanged.

    At each level a title goes to the nearest centroid whose cluster is not full: one of fewer than
    ceil((n + m) / K) titles, new ones included. Where titles compete, the larger regret goes first.

    Args:
        vectors: [m, D] vectors of the new titles, of the space of the centroids.
        codes: Codes of n titles.

    Raises:
        InputError: The collision token of a leaf overflows.
    """
    n, levels = len(codes.tokens), codes.tokens.shape[1] - 1
    size, residual = codes.centroids.shape[1], np.asarray(vectors, np.float64)
    path = np.empty((len(vectors), levels), np.int32)
    full = -(-(n + len(vectors)) // size)
    for level, centroids in enumerate(codes.centroids.astype(np.float64)):
        room = full - np.bincount(codes.tokens[:, level], minlength=size)
        path[:, level] = assign_by_regret(squared_distances(residual, centroids), room)
        residual = residual - centroids[path[:, level]]
    both = np.concatenate([codes.tokens[:, :-1], path])
    return with_collisions(both, size)[n:]


def largest_clusters(tokens: np.ndarray) -> tuple[int, ...]:
    """Return the number of titles of the largest cluster of each level; the collision token is no level."""
    return tuple(int(np.bincount(column).max()) for column in tokens[:, :-1].T)
