"""Cost model of collectives: bytes and published link speeds in, seconds out.

A ring of n chips moves 2 (n - 1) / n of an all-reduce's bytes through the link of each chip. An all-gather
or an all-to-all moves (n - 1) / n of the result, and a reduce-scatter (n - 1) / n of the input. Speeds are
per direction. Where slower links join hosts, a collective has two phases: among the chips of a host, then
among hosts, where each chip handles its fraction of the host's bytes. On a torus, rings run along all axes
at once and use all links of a chip. An all-to-all on a torus crosses as many links as its path is long, on
average a quarter of each axis.
"""

from typing import NamedTuple


class Cluster(NamedTuple):
    """A cluster: speeds in bytes per second per direction, `flops` of bfloat16."""

    name: str
    chips: int  # largest number of chips considered
    together: int  # chips joined by the fast links
    inside: float  # speed of a chip's fast links
    between: float  # speed of a chip's link to other hosts; 0: no such link
    axes: int  # axes of the torus; 0: switches connect all chips
    flops: float
    memory: float  # bandwidth of a chip's memory, in bytes per second
    source: str


# Assumed seconds of a message to a neighbour: none of the three kinds of links has a published figure.
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
    """Return the seconds of a collective whose result is `size` bytes on each chip."""
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
    """Return the seconds on a torus: bytes as on a ring, latency per axis."""
    side = n ** (1 / cluster.axes)
    transfer, steps = _ring(kind, size, n, cluster.inside, 0.0), cluster.axes * (side - 1)
    if "all-to-all" in kind:
        return transfer * max(cluster.axes * side / 4, 1.0) + steps * LATENCY["inside"]
    return transfer + (2 if kind == "all-reduce" else 1) * steps * LATENCY["inside"]


def seconds(cluster: Cluster, kind: str, size: float, n: int) -> float:
    """Return the seconds of one collective over n chips of a cluster.

    Args:
        cluster: Cluster with its speeds.
        kind: Collective, such as "all-reduce".
        size: Bytes of the result on one chip.
        n: Number of chips.
    """
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
        within, across = (inner - 1) / n * size / cluster.inside, (n - inner) / n * size / cluster.between
        return within + across + (inner - 1) * inside + (hosts - 1) * between
    return size / cluster.between + between
