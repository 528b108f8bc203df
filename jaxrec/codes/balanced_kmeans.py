"""Balanced k-means: clusters of equal sizes, by two procedures, of which the better one is kept.

n vectors go to K clusters of floor(n / K) or ceil(n / K) vectors. In the procedure of OneRec (arXiv
2502.18965, Algorithm 1) each centroid in turn takes its nearest vectors that are left, so that the last
centroids take what nobody wanted. In the procedure by regret, a vector goes to its nearest cluster before
another one if its second choice costs more. Ties go to the lower index everywhere.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxrec.core.hashing import uniform

_ITERATIONS = 25  # at most: the procedures do not lower the distortion at every iteration
_FIRST = 0xC0DE  # purpose of the draws of first centroids

# Function of squared distances [n, K] to the cluster [n] of each vector.
Procedure = Callable[[np.ndarray], np.ndarray]


class Clusters(NamedTuple):
    """Clusters of n vectors.

    Attributes:
        cluster: [n] int32 cluster of each vector.
        centroids: [K, D] float64 means of the clusters.
        distortion: Mean squared distance of the vectors to their centroids.
    """

    cluster: np.ndarray
    centroids: np.ndarray
    distortion: float


def squared_distances(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the squared distances [n, K] of vectors [n, D] to centroids [K, D], at least 0."""
    product = vectors @ centroids.T
    squares = np.square(vectors).sum(1)[:, None] + np.square(centroids).sum(1) - 2.0 * product
    return np.maximum(squares, 0.0)


def assign_by_regret(cost: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Assign rows to columns of least cost, at most room[k] rows to column k.

    In each round, the rows without a column apply at their cheapest column that has room, and a column takes
    those whose second choice costs most more. A round without a full column is the last one, so that there
    are at most K + 1 rounds.

    Args:
        cost: [n, K] costs.
        room: [K] number of rows that each column takes.

    Returns:
        [n] int32 column of each row; -1 for rows that no column has room for.
    """
    column, room = np.full(len(cost), -1, np.int32), np.array(room, np.int64)
    while True:
        rows, columns = np.flatnonzero(column < 0), np.flatnonzero(room > 0)
        if not len(rows) or not len(columns):
            return column
        costs = cost[np.ix_(rows, columns)]
        every = np.arange(len(rows))
        cheapest = costs.argmin(1)
        least = costs[every, cheapest]
        costs[every, cheapest] = np.inf
        regret = costs.min(1) - least if len(columns) > 1 else np.zeros(len(rows))
        order = np.lexsort((rows, -regret, cheapest))
        place = _places_in_groups(cheapest[order])
        taken = order[place < room[columns[cheapest[order]]]]
        column[rows[taken]] = columns[cheapest[taken]]
        room -= np.bincount(column[rows[taken]], minlength=len(room))


def _places_in_groups(groups: np.ndarray) -> np.ndarray:
    """Return the place [n] of each element among the elements of its group, of sorted groups [n]."""
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    return np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))


def _by_regret(cost: np.ndarray) -> np.ndarray:
    """Return clusters [n] by regret: all of floor(n / K) first, then one more each for what is left."""
    n, K = cost.shape
    cluster = assign_by_regret(cost, np.full(K, n // K))
    left = np.flatnonzero(cluster < 0)
    cluster[left] = assign_by_regret(cost[left], np.ones(K, int))
    return cluster


def _in_turn(cost: np.ndarray) -> np.ndarray:
    """Return clusters [n] by OneRec's procedure; the first n mod K clusters are the larger ones."""
    n, K = cost.shape
    cluster = np.full(n, -1, np.int32)
    for k in range(K):
        left = np.flatnonzero(cluster < 0)
        nearest = np.argsort(cost[left, k], kind="stable")[: n // K + (k < n % K)]
        cluster[left[nearest]] = k
    return cluster


PROCEDURES: tuple[Procedure, ...] = (_in_turn, _by_regret)


def balanced_kmeans(vectors: np.ndarray, clusters: int, seed: int) -> Clusters:
    """Return the clusters of the procedure with the lower distortion.

    Args:
        vectors: [n, D] vectors.
        clusters: Number of clusters K.
        seed: Seed of the first centroids.
    """
    vectors = np.asarray(vectors, np.float64)
    first = first_centroids(vectors, clusters, seed)
    return min((_cluster(vectors, first, assign) for assign in PROCEDURES), key=lambda x: x.distortion)


def _cluster(vectors: np.ndarray, centroids: np.ndarray, assign: Procedure) -> Clusters:
    """Iterate one procedure until no vector moves, and return the iteration of least distortion."""
    best: Clusters | None = None
    before = None
    for _ in range(_ITERATIONS):
        cluster = assign(squared_distances(vectors, centroids))
        if before is not None and np.array_equal(cluster, before):
            break
        centroids, before = _means(vectors, cluster, centroids), cluster
        distortion = float(np.square(vectors - centroids[cluster]).sum(1).mean())
        if best is None or distortion < best.distortion:
            best = Clusters(cluster, centroids, distortion)
    assert best is not None
    return best


def _means(vectors: np.ndarray, cluster: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the means [K, D] of clusters; an empty cluster keeps its centroid."""
    order = np.argsort(cluster, kind="stable")
    count = np.bincount(cluster, minlength=len(centroids))
    used = np.flatnonzero(count)
    starts = np.r_[0, np.cumsum(count)[:-1]][used]
    means = centroids.copy()
    means[used] = np.add.reduceat(vectors[order], starts, axis=0) / count[used, None]
    return means


def first_centroids(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Return first centroids [K, D] by k-means++ (Arthur & Vassilvitskii 2007).

    A vector is drawn with a probability proportional to its squared distance to the nearest one drawn before.

    Args:
        vectors: [n, D] vectors.
        clusters: Number of centroids K.
        seed: Seed of the draws.
    """
    draws = uniform(seed, _FIRST, np.arange(clusters))
    squares = np.square(vectors).sum(1)[:, None]  # computed once: a third of the time of many centroids
    row = int(draws[0] * len(vectors))
    chosen, nearest = [row], np.full(len(vectors), np.inf)
    for draw in draws[1:]:
        centroid = vectors[row : row + 1]
        distances = squares + np.square(centroid).sum(1) - 2.0 * (vectors @ centroid.T)
        nearest = np.minimum(nearest, np.maximum(distances, 0.0)[:, 0])
        total = np.cumsum(nearest)
        if total[-1] > 0:
            row = min(int(np.searchsorted(total, draw * total[-1], side="right")), len(vectors) - 1)
        else:  # fewer distinct vectors than clusters
            row = len(chosen) % len(vectors)
        chosen.append(row)
    return vectors[chosen]
