"""Mini-batch k-means (Sculley 2010) from k-means++ centroids (Arthur & Vassilvitskii 2007).

Every draw is a counter hash, so that equal vectors have equal centroids.
"""

import numpy as np

from jaxrec.codes.balanced_kmeans import first_centroids, squared_distances
from jaxrec.core.hashing import mix

_EPOCHS = 10
_BATCH = 4096  # vectors of an update
_FIRST_OF = 8  # vectors per cluster of which the first centroids are drawn
_LEAST_FIRST = 4096
_ORDER = 0x51A7E  # purpose of the order of vectors
_PAIRS = 2**23  # distances in memory at a time


def fit_centroids(vectors: np.ndarray, clusters: int, seed: int = 0) -> np.ndarray:
    """Return centroids [K, F] float32.

    Args:
        vectors: [N, F] vectors, a random sample of users.
        clusters: Number of clusters K, at most N.
        seed: Seed of the draws.

    Raises:
        ValueError: There are fewer vectors than clusters.
    """
    if not 1 <= clusters <= len(vectors):
        raise ValueError(f"{clusters} clusters of {len(vectors)} vectors")
    vectors = np.asarray(vectors, np.float64)
    mean = vectors.mean(axis=0)  # small numbers keep squared distances exact in float32
    vectors = (vectors - mean).astype(np.float32)
    order = np.argsort(mix(seed, _ORDER, np.arange(len(vectors))), kind="stable")
    first = order[: max(_FIRST_OF * clusters, _LEAST_FIRST)]
    centroids, count = first_centroids(vectors[first], clusters, seed), np.zeros(clusters)
    for epoch in range(_EPOCHS):
        order = np.argsort(mix(seed, _ORDER, 1 + epoch, np.arange(len(vectors))), kind="stable")
        for start in range(0, len(order), _BATCH):
            batch = vectors[order[start : start + _BATCH]]
            cluster = nearest(batch, centroids)
            of_batch = np.bincount(cluster, minlength=clusters)
            count += of_batch
            used = np.flatnonzero(of_batch)
            sums = np.add.reduceat(
                batch[np.argsort(cluster, kind="stable")], np.cumsum(of_batch)[used] - of_batch[used], axis=0
            )
            # The mean of all vectors that the centroid has had so far: a rate of 1 / count for each.
            step = (sums - of_batch[used, None] * centroids[used]) / count[used, None]
            centroids[used] += step.astype(np.float32)
    return (centroids + mean).astype(np.float32)


def nearest(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the nearest of centroids [K, F] to each of vectors [N, F], [N] int32; the first of ties."""
    out, at_once = np.empty(len(vectors), np.int32), max(_PAIRS // len(centroids), 1)
    for start in range(0, len(vectors), at_once):
        part = slice(start, start + at_once)
        out[part] = squared_distances(vectors[part], centroids).argmin(axis=1)
    return out
