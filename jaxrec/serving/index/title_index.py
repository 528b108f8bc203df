"""Approximate index of title vectors (usearch, an HNSW graph), kept beside the checkpoint.

The largest inner products become the smallest distances (Bachrach et al., RecSys 2014): the mean of the
vectors is subtracted, which changes the products of a user by one number, and one more component makes all
vectors of one length. The stored vectors are float32, because bfloat16 rounds that component: recall@100 of
vectors with log-normal lengths was .79 in place of .99. A graph by plain inner product (ip-NSW; Morozov &
Babenko, NeurIPS 2018) needs fewer candidates for standard normals, but its search does not reach groups of
similar titles: `benchmarks/results/title-index.md`. The folder of the index:

    title_index-<hash>.usearch   the graph, with its vectors
    title_index.json             checkpoint step, hash of the float32 vectors, settings, sha256 of the graph,
                                 candidates of a search and the recall that was measured with them
"""

import hashlib
import importlib.util
import json
import time
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from jaxrec.core.errors import InputError
from jaxrec.core.json_io import write_bytes, write_json
from jaxrec.core.paths import AnyPath

MANIFEST = "title_index.json"
FORMAT = 1
_GRAPH = "title_index-{}.usearch"
_LONG_BUILD = 100_000  # titles; a build of more takes minutes


class IndexSettings(NamedTuple):
    """Settings of the graph.

    Args:
        connectivity: Links of a title in the graph.
        expansion_add: Candidates for the links of a new title.
        dtype: Type of the stored vectors.
        metric: "l2sq", or "ip" for the plain inner product.
    """

    connectivity: int = 32
    expansion_add: int = 64
    dtype: str = "f32"
    metric: str = "l2sq"


class Calibration(NamedTuple):
    """Candidates of a search, and the recall that was measured with them.

    Args:
        expansion_search: Candidates that a search of the graph keeps.
        recall: Mean fraction of the exact best titles that the index returned. None: not measured.
        requests: Requests of the measurement.
        reached: True if the recall reached its target.
    """

    expansion_search: int = 128
    recall: float | None = None
    requests: int = 0
    reached: bool = False


def is_installed() -> bool:
    """Return True if usearch can be imported."""
    return importlib.util.find_spec("usearch") is not None


class GraphIndex:
    """Index of the vectors of titles by popularity rank; `open_or_build` makes one.

    Args:
        graph: Index of usearch.
        manifest: Contents of `title_index.json`.
        folder: Folder of the files. None: in memory only.
        is_new: True if the graph was built in this process.
    """

    def __init__(
        self, graph: Any, manifest: dict[str, Any], folder: AnyPath | None = None, is_new: bool = True
    ) -> None:
        self._graph, self._manifest, self._folder, self.is_new = graph, manifest, folder, is_new
        self.titles: int = manifest["titles"]
        self.build_seconds: float = manifest["build_seconds"]
        self._calibration = Calibration(**manifest["calibration"])

    @property
    def calibration(self) -> Calibration:
        """Candidates of a search."""
        return self._calibration

    def calibrate(self, calibration: Calibration) -> None:
        """Change the candidates of a search, and store them beside the graph."""
        self._calibration = calibration
        self._manifest["calibration"] = calibration._asdict()
        if self._folder is not None:
            _write(self._folder, None, self._manifest)

    def search(self, vectors: np.ndarray, number: int, expansion: int = 0) -> np.ndarray:
        """Return the popularity ranks [U, number] of titles with large inner products.

        Args:
            vectors: [U, D]; NaN counts as 0.
            number: Number of titles, at most that of the index.
            expansion: Candidates of the search; 0: those of the calibration.

        Returns:
            int64 ranks, the best first; the number of titles where the index has no result.
        """
        if not len(vectors):
            return np.empty((0, number), np.int64)
        queries = np.nan_to_num(vectors.astype(np.float32))
        queries = np.pad(queries, ((0, 0), (0, self._graph.ndim - queries.shape[1])))
        self._graph.expansion_search = max(expansion or self._calibration.expansion_search, number)
        if len(queries) == 1:  # usearch has another type of result for one query
            queries = np.repeat(queries, 2, axis=0)
        matches = self._graph.search(queries, number)
        ranks, counts = matches.keys.astype(np.int64), matches.counts[:, None]
        ranks = np.where(np.arange(ranks.shape[1]) < counts, ranks, self.titles)
        return ranks[: len(vectors)]


def open_or_build(
    vectors: np.ndarray, folder: AnyPath | None = None, step: int | None = None,
    settings: IndexSettings = IndexSettings(),  # noqa: B008
) -> GraphIndex:  # fmt: skip
    """Return the index of a folder; build it if it is absent, of other vectors or damaged.

    Args:
        vectors: [titles, D] float32, by popularity rank.
        folder: Folder of the files, whose old index is replaced. None: in memory only.
        step: Step of the checkpoint.
        settings: Settings of the graph.

    Raises:
        InputError: usearch is not installed.
    """
    _require_usearch()
    if folder is not None and (folder / MANIFEST).exists():
        try:
            return open_index(vectors, folder, step, settings)
        except InputError as error:
            logging.info("%s; the index is built again", error)
    if len(vectors) > _LONG_BUILD:
        logging.info("building the index of %s titles, once for this checkpoint", f"{len(vectors):,}")
    started = time.perf_counter()
    graph = _new_graph(vectors.shape[1], settings)
    stored = _stored_vectors(vectors, settings)
    order = np.random.default_rng(0).permutation(len(stored))  # neighbours in popularity may be alike
    graph.add(order.astype(np.uint64), stored[order])
    seconds = time.perf_counter() - started
    manifest = _identity(vectors, step, settings) | {
        "build_seconds": seconds,
        "calibration": Calibration()._asdict(),
    }
    if folder is not None:
        _write(folder, graph, manifest)
    return GraphIndex(graph, manifest, folder)


def open_index(
    vectors: np.ndarray, folder: AnyPath, step: int | None = None,
    settings: IndexSettings = IndexSettings(),  # noqa: B008
) -> GraphIndex:  # fmt: skip
    """Open the index of a folder; arguments as for `open_or_build`.

    Raises:
        InputError: usearch is not installed, or the index is absent, damaged, or of another checkpoint, other
            titles or other settings.
    """
    _require_usearch()
    path = folder / MANIFEST
    if not path.exists():
        raise InputError(f"{path} is missing; allowed: a folder with an index of titles")
    try:
        manifest = json.loads(path.read_bytes())
        calibration = Calibration(**manifest["calibration"])
        name, digest = str(manifest["file"]), str(manifest["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    for field, expected in _identity(vectors, step, settings).items():
        if manifest.get(field) != expected:
            raise InputError(
                f"{path}: {field}={manifest.get(field)!r}; that of this checkpoint: {expected!r}"
            )
    file = folder / name
    if name != _GRAPH.format(digest[:16]) or not file.exists():
        raise InputError(f"{path}: file={name!r}; allowed: a file beside it, named after its sha256")
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise InputError(f"{file} is damaged: its sha256 is not that of {MANIFEST}")
    graph = _new_graph(vectors.shape[1], settings)
    try:
        graph.load(content)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{file}: usearch cannot load it: {error}") from error
    if len(graph) != len(vectors):
        raise InputError(f"{file}: {len(graph):,} titles; those of this checkpoint: {len(vectors):,}")
    manifest["calibration"] = calibration._asdict()
    return GraphIndex(graph, manifest, folder, is_new=False)


def _require_usearch() -> None:
    if not is_installed():
        raise InputError(
            "index=ann: usearch is not installed; allowed without it: index=exact; to install it: "
            "pip install 'jaxrec[ann]'"
        )


def _new_graph(width: int, settings: IndexSettings) -> Any:
    from usearch.index import Index

    return Index(ndim=width + (settings.metric == "l2sq"), **settings._asdict())


def _stored_vectors(vectors: np.ndarray, settings: IndexSettings) -> np.ndarray:
    """Return the vectors of the graph, [titles, D] or [titles, D + 1] float32."""
    centred = (vectors - vectors.mean(axis=0, dtype=np.float64)).astype(np.float32)
    if settings.metric == "ip":
        return centred
    square = (centred**2).sum(axis=1)
    return np.column_stack([centred, np.sqrt(square.max(initial=0) - square)])


def _identity(vectors: np.ndarray, step: int | None, settings: IndexSettings) -> dict[str, Any]:
    """Return the fields of the manifest in which an index must equal a checkpoint."""
    digest = hashlib.sha256(np.ascontiguousarray(vectors, np.float32).data).hexdigest()
    titles, width = vectors.shape
    return {"format": FORMAT, "step": step, "titles": titles, "width": width, "vectors": digest} | (
        settings._asdict()
    )


def _write(folder: AnyPath, graph: Any, manifest: dict[str, Any]) -> None:
    """Write the graph, or none, and the manifest; log a warning if that fails.

    The manifest is written after the graph, and older graphs are deleted last.
    """
    try:
        if graph is not None:
            content = bytes(graph.save())
            digest = hashlib.sha256(content).hexdigest()
            manifest |= {"file": _GRAPH.format(digest[:16]), "sha256": digest}
            write_bytes(folder / manifest["file"], content)
        write_json(folder / MANIFEST, manifest)
        if graph is not None:
            for old in folder.glob(_GRAPH.format("*")):
                if old.name != manifest["file"]:
                    old.unlink(missing_ok=True)
    except OSError as error:
        logging.warning("the index of titles is not kept: %s", error)
