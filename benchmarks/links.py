"""What a collective costs on links: bytes and a cluster's published speeds in, seconds out.

A ring of n chips moves 2 (n - 1) / n of an all-reduce's bytes through each chip's link, and (n - 1) / n of
the result of an all-gather, an all-to-all or, of what goes in, a reduce-scatter. Speeds are of one direction.
Where hosts are joined by slower links, a collective goes two ways: among the chips of a host, then, a host's
share each, among hosts. On a torus rings run along every axis at once, so that all of a chip's links are at
work; an all-to-all crosses as many links as its way is long, a quarter of every axis in the mean.
"""

from typing import NamedTuple


class Cluster(NamedTuple):
    """Speeds in bytes a second and of one direction, `flops` of bfloat16."""

    name: str
    chips: int  # the most it has here
    together: int  # chips that the fast links join
    inside: float  # of a chip's links to those
    between: float  # of a chip's link to other hosts; 0: there are none
    axes: int  # of a torus; 0: every chip reaches every other through switches
    flops: float
    memory: float  # of a chip's own memory
    source: str


# Seconds that a message takes to a neighbour. Assumed: no source was seen for any of the three.
LATENCY = {"inside": 1e-6, "between": 5e-6}

_NVLINK = "NVIDIA, H100 and H200: NVLink 900 GB/s a GPU, both directions; 989 TFLOP/s; 3.35 TB/s"
_NDR = "NVIDIA, ConnectX-7: NDR 400 Gb/s; DGX H100 User Guide: an adapter for each GPU"
_V5E = "Google Cloud, TPU v5e: ICI 400 GB/s a chip, both directions; 197 TFLOP/s; 819 GB/s; 2D torus"
_V5P = "Google Cloud, TPU v5p: ICI 1,200 GB/s a chip, both directions; 459 TFLOP/s; 2,765 GB/s; 3D torus"
CLUSTERS = (
    Cluster("8 H100 in a host", 8, 8, 450e9, 0.0, 0, 989e12, 3.35e12, _NVLINK),
    Cluster("hosts of 8 H100, InfiniBand", 256, 8, 450e9, 50e9, 0, 989e12, 3.35e12, f"{_NVLINK}; {_NDR}"),
    Cluster("TPU v5e pod", 256, 256, 200e9, 0.0, 2, 197e12, 819e9, _V5E),
    Cluster("TPU v5p pod", 256, 256, 600e9, 0.0, 3, 459e12, 2765e9, _V5P),
)


def _ring(kind: str, size: float, n: int, speed: float, latency: float) -> float:
    """Seconds of a collective whose result has `size` bytes on each of n chips."""
    steps = n - 1
    if n == 1:
        return 0.0
    if kind == "all-reduce":
        return 2 * steps / n * size / speed + 2 * steps * latency
    if kind == "reduce-scatter":
        return steps * size / speed + steps * latency
    if kind in ("all-gather", "all-to-all", "ragged-all-to-all"):
        return steps / n * size / speed + steps * latency
    return size / speed + latency  # a permutation, a broadcast along a chain


def _torus(cluster: Cluster, kind: str, size: float, n: int) -> float:
    """As a ring for bytes; a message passes along every axis in turn, not by all n chips."""
    side = n ** (1 / cluster.axes)
    of_bytes, steps = _ring(kind, size, n, cluster.inside, 0.0), cluster.axes * (side - 1)
    if "all-to-all" in kind:
        return of_bytes * max(cluster.axes * side / 4, 1.0) + steps * LATENCY["inside"]
    return of_bytes + (2 if kind == "all-reduce" else 1) * steps * LATENCY["inside"]


def seconds(cluster: Cluster, kind: str, size: float, n: int) -> float:
    """Of one collective over n chips of a cluster; `size` is of its result on one chip, in bytes."""
    if n == 1 or not size:
        return 0.0
    if cluster.axes:
        return _torus(cluster, kind, size, n)
    inner = min(n, cluster.together)
    hosts, inside, between = -(-n // inner), LATENCY["inside"], LATENCY["between"]
    if hosts == 1:
        return _ring(kind, size, n, cluster.inside, inside)
    if kind == "all-reduce":
        among = _ring(kind, size / inner, hosts, cluster.between, between)
        return _ring(kind, size, inner, cluster.inside, inside) + among
    if kind == "all-gather":
        among = _ring(kind, size / inner, hosts, cluster.between, between)
        return among + _ring(kind, size, inner, cluster.inside, inside)
    if kind == "reduce-scatter":
        among = _ring(kind, size, hosts, cluster.between, between)
        return among + _ring(kind, size * hosts, inner, cluster.inside, inside)
    if "all-to-all" in kind:
        own, others = (inner - 1) / n * size / cluster.inside, (n - inner) / n * size / cluster.between
        return own + others + (inner - 1) * inside + (hosts - 1) * between
    return size / cluster.between + between
