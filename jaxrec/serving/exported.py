"""Recommendations of an exported model, with jax and NumPy alone.

jax reads its exports by flatbuffers, a package in pure Python that jax does not install itself. The folder:

    manifest.json            versions, the end of the time in which jax reads the programs, config, layout,
                             correction, counts, and the sha256 of every other file
    *.stablehlo              programs of `jax.export`: scores, top_<k>, users
    parameters.safetensors   parameters by path
    arrays/*.npy             arrays of the catalogue, log density of the correction, vectors of the titles,
                             and their names if the titles table of the config has them
    vocabulary.json          values of each categorical feature, in the order of their ids

`export` writes the folder. Axis letters: U requests, V titles, N titles to score, G groups of users, F width
of a vector, k best titles.
"""

import hashlib
import importlib.util
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from jaxrec.config.schema import Config
from jaxrec.config.tree import decode
from jaxrec.core.errors import InputError
from jaxrec.core.json_io import ANY_KEY, check_shape, parse_json
from jaxrec.core.row_format import Layout
from jaxrec.data.events.history_columns import HistoryColumns
from jaxrec.data.events.user_groups import Chunk
from jaxrec.data.storage.arrays import Arrays, as_words
from jaxrec.serving import safetensors
from jaxrec.serving.exclusions import Exclusions
from jaxrec.serving.pages import Genres, find_genres
from jaxrec.serving.programs.catalogue_inputs import catalogue_inputs
from jaxrec.serving.recommender import BaseRecommender, Served
from jaxrec.serving.requests import RequestBuilder, RequestCounts, Requests, TopTitles

FORMAT = 1
MANIFEST, PARAMETERS, VOCABULARY = "manifest.json", "parameters.safetensors", "vocabulary.json"
# Arrays besides those of the catalogue
LOG_Q, VECTORS, NAMES = "log_q", "title_vectors", "title_names"
SUFFIX, TOP = ".stablehlo", "top_"  # end of the files of programs; first part of top_<k>
AGAIN = "export it again: python -m jaxrec.export --checkpoint W --out DIR"
_MANIFEST = {  # `decode` and `Layout.from_json` check the config and the layout
    "readable_until": str, "jax": str, "files": {ANY_KEY: {"sha256": str}},
    "programs": {ANY_KEY: {"file": str}}, "platforms": [str], "config": dict, "layout": dict,
    "columns": dict, "step": int, "block": int,
    "queries": int,
}  # fmt: skip
_PLATFORMS = {"gpu": "cuda"}  # name of a backend in jax -> name of the platform in an export
_CPU_PAIRS, _PAIRS = 2**18, 2**22  # (query, title) pairs that a device scores at a time, as in `catalogue`
_LEAST_QUERIES, _LEAST_TITLES = 8, 64  # of a step, so that few programs are compiled


class ExportedScorer:
    """Scorer over the whole catalogue by exported programs, on the default device.

    Args:
        manifest: Manifest of the export.
        programs: Name -> function of jax arrays.
        parameters: Parameters by path.
        served: Config, layout and arrays of the catalogue.
        log_q_V: Log density of the correction by id.
        vectors_VxF: Vectors of the titles by id.
    """

    def __init__(
        self, manifest: dict[str, Any], programs: dict[str, Callable], parameters: dict[str, np.ndarray],
        served: Served, log_q_V: np.ndarray, vectors_VxF: np.ndarray,
    ) -> None:  # fmt: skip
        arrays = served.arrays
        self.titles = len(arrays.id_of_rank)
        self._programs, self._block = programs, manifest["block"]
        self._tops = sorted(program["k"] for program in manifest["programs"].values() if "k" in program)
        pairs = _CPU_PAIRS if jax.default_backend() == "cpu" else _PAIRS
        at_most = max(min(pairs // self._block, manifest["queries"]), 1)
        self._least, self._queries = _LEAST_QUERIES, 1 << (at_most.bit_length() - 1)
        self._vectors = vectors_VxF
        catalogue = catalogue_inputs(served.config, served.layout, arrays, log_q_V, self._block)
        self._parameters, self._catalogue = jax.device_put((parameters, catalogue))

    @property
    def most_titles(self) -> int:
        """Return the largest k of a list."""
        return self._tops[-1]

    @property
    def list_lengths(self) -> list[int]:
        """Return the k of each exported program of lists."""
        return self._tops

    @property
    def titles_of_step(self) -> int:
        """Return the most titles that one call of the program `scores` reads."""
        return _power_of_two(self._block)

    def limit_batches(self, least: int, most: int) -> int:
        """Set the least and the most requests of a call, and return the most.

        The default of at least 8 requests suits offline work. A service compiles every size at its start.

        Args:
            least: Power of two.
            most: Power of two; the device may allow fewer.
        """
        self._queries = min(self._queries, most)
        self._least = min(least, self._queries)
        return self._queries

    def top(
        self, rows: np.ndarray, k: int, exclusions: Exclusions, by_popularity: np.ndarray | None = None
    ) -> TopTitles:
        """Return the k best eligible titles of each request; arguments as for `CatalogueScorer.top`.

        Raises:
            InputError: k is above the number of titles that the export returns.
        """
        if k > self._tops[-1]:
            raise InputError(
                f"k={k}; allowed: 1 to {self._tops[-1]}, the most titles of this export; for more, export "
                "with --max_k"
            )
        exported_k = next(n for n in self._tops if n >= k)
        if by_popularity is None:
            by_popularity = np.zeros(len(rows), bool)
        eligible_GxV = exclusions.eligible_GxV  # a power of two of groups, so that few programs are compiled
        groups = _power_of_two(len(eligible_GxV)) - len(eligible_GxV)
        eligible_GxV = jax.device_put(np.pad(eligible_GxV, ((0, groups), (0, -self.titles % self._block))))
        columns = exclusions.pad_by_user(len(rows), self.titles), exclusions.group, by_popularity
        parts = [
            jax.device_get(self._run(f"{TOP}{exported_k}", words, *queries, eligible_GxV))
            for words, *queries in self._batches(rows, *columns)
        ]
        outputs = [np.concatenate(values)[: len(rows), :k] for values in zip(*parts, strict=True)]
        return TopTitles(*outputs)

    def scores(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return the scores [U, N] of the titles `ids` [N] for each request."""
        size = min(_power_of_two(max(len(ids), _LEAST_TITLES)), _power_of_two(self._block))
        padded = np.pad(ids, (0, -len(ids) % size)).astype(np.int32)
        parts = [
            np.concatenate(
                [self._run("scores", words, padded[i : i + size]) for i in range(0, len(padded), size)],
                axis=1,
            )
            for (words,) in self._batches(rows)
        ]
        return np.concatenate(parts)[: len(rows), : len(ids)]

    def embed_users(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors [U, F] of the users of requests.

        Raises:
            InputError: The model has no vector of a user.
        """
        if "users" not in self._programs:
            raise InputError("model.target_in_sequence=true: a user has no vector without a candidate")
        parts = [np.asarray(self._run("users", words)) for (words,) in self._batches(rows)]
        return np.concatenate(parts)[: len(rows)]

    def embed_titles(self) -> np.ndarray:
        """Return the vectors [V, F] of all titles, by id."""
        return self._vectors

    def report(self) -> dict[str, Any]:
        """Return no counts: all titles are scored."""
        return {}

    def _run(self, name: str, words: np.ndarray, *inputs: Any) -> Any:
        return self._programs[name](self._parameters, self._catalogue, words, *inputs)

    def _batches(self, rows: np.ndarray, *columns: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield words and columns of batches of a power of two of queries, the last one padded."""
        words = as_words(rows)
        size = min(_power_of_two(max(len(rows), self._least)), self._queries)
        for first in range(0, max(len(rows), 1), size):
            parts = [column[first : first + size] for column in (words, *columns)]
            yield tuple(np.pad(x, ((0, size - len(x)), *((0, 0),) * (x.ndim - 1))) for x in parts)


class ColumnRequestBuilder(RequestBuilder):
    """Builder of requests that parses dicts of columns by NumPy; other tables need polars.

    Args:
        served: Contents of the export.
        columns: From `sources.histories.columns_to_json`.
    """

    def __init__(self, served: Served, columns: dict[str, Any]) -> None:
        super().__init__(served.config, served.layout, served.arrays, served.categories)
        self.history_columns = HistoryColumns(columns, served.arrays.title_key, served.arrays.title_runtime)

    def _chunks(self, plays: Any, users: Any, counts: RequestCounts) -> Iterator[Chunk]:
        is_list = isinstance(users, Sequence | np.ndarray) and not isinstance(users, str)
        if not isinstance(plays, Mapping) or not (users is None or is_list or isinstance(users, Mapping)):
            yield from super()._chunks(plays, users, counts)
            return
        interactions = self.history_columns.plays(plays)
        yield interactions
        if users is not None:
            yield self.history_columns.users(users, interactions)


class ExportedRecommender(BaseRecommender):
    """Recommender of an export; the methods are those of `recommender.BaseRecommender`.

    Histories and users are dicts of columns, in the columns of the config. Files and other tables need
    polars.

    Args:
        manifest: Manifest of the export.
        served: Contents of the export.
        scorer: Scorer by the exported programs.
        names: [V] names of the titles in the order of `titles`; None without names.
    """

    def __init__(
        self, manifest: dict[str, Any], served: Served, scorer: ExportedScorer,
        names: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.scorer, self.builder = scorer, ColumnRequestBuilder(served, manifest["columns"])
        super().__init__(served, self.scorer, self.builder)
        self.manifest, self.names = manifest, names

    def top(self, made: Requests, exclusions: Exclusions, k: int) -> tuple[TopTitles, np.ndarray]:
        """Return the k best titles of each request, and a mask [U] of requests served by popularity."""
        return self._top(made, exclusions, k)

    def genres(self) -> Genres | None:
        """Return the genre-like feature of the titles; None without one."""
        return find_genres(self._layout, self.arrays, self._categories)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "ExportedRecommender":
        """Load an export, and warn once jax no longer promises to read it.

        Args:
            folder: Folder that `python -m jaxrec.export` wrote.

        Raises:
            InputError: The folder is no export, its format is unknown, a file is missing or damaged, or the
                programs are for another platform.
        """
        path = Path(folder)
        manifest = _read_manifest(path)
        contents = {name: _read_checked(path, name, entry) for name, entry in manifest["files"].items()}
        programs: dict[str, Callable] = {
            name: jax.jit(_deserialize(path, program["file"], contents[program["file"]]).call)
            for name, program in manifest["programs"].items()
        }
        parameters = safetensors.read(path / PARAMETERS)
        stored = {
            Path(name).stem: np.load(io.BytesIO(contents[name]), allow_pickle=False)
            for name in contents
            if name.startswith("arrays/")
        }
        log_q_V, vectors_VxF, names = stored.pop(LOG_Q), stored.pop(VECTORS), stored.pop(NAMES, None)
        served = Served(
            decode(manifest["config"], Config),
            Layout.from_json(manifest["layout"]),
            Arrays(**stored),
            json.loads(contents[VOCABULARY]),
            manifest["step"],
        )
        scorer = ExportedScorer(manifest, programs, parameters, served, log_q_V, vectors_VxF)
        return cls(manifest, served, scorer, names)


def _read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of an export that this process can run."""
    if not (path / MANIFEST).is_file():
        raise InputError(f"{path}: no {MANIFEST}; allowed: a folder that python -m jaxrec.export wrote")
    try:
        manifest = parse_json((path / MANIFEST).read_bytes())
        check_shape(manifest, {}, MANIFEST)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {MANIFEST} is damaged: {error}; {AGAIN}") from error
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{path}: format={manifest.get('format')!r}; allowed: {FORMAT}; load it with the jaxrec that "
            f"wrote it, or {AGAIN}"
        )
    check_shape(manifest, _MANIFEST, f"{path}: {MANIFEST}", AGAIN)
    for name in manifest["files"]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"{path}: {MANIFEST}: files: {name} is outside of the folder; {AGAIN}")
    try:
        until = datetime.fromisoformat(manifest["readable_until"])
    except ValueError as error:
        raise InputError(f"{path}: {MANIFEST}: readable_until: {error}; {AGAIN}") from error
    if datetime.now(UTC) > until:
        warnings.warn(
            f"{path}: jax {manifest['jax']} promised to be readable until {until:%Y-%m-%d}; {AGAIN}",
            stacklevel=4,
        )
    backend = jax.default_backend()
    platform = _PLATFORMS.get(backend, backend)
    if platform not in manifest["platforms"]:
        raise InputError(
            f"{path}: platforms={','.join(manifest['platforms'])}; this process runs on {platform}; {AGAIN} "
            f"--platforms {platform}"
        )
    return manifest


def _read_checked(path: Path, name: str, entry: dict[str, Any]) -> bytes:
    """Return the contents of a file of the export."""
    file = path / name
    if not file.is_file():
        raise InputError(f"{path}: {name} is missing; {AGAIN}")
    contents = file.read_bytes()
    digest = hashlib.sha256(contents).hexdigest()
    if digest != entry["sha256"]:
        raise InputError(
            f"{path}: {name} is damaged: sha256={digest[:12]}..., in the manifest "
            f"{entry['sha256'][:12]}...; {AGAIN}"
        )
    return contents


def _deserialize(path: Path, name: str, contents: bytes) -> jax_export.Exported:
    if importlib.util.find_spec("flatbuffers") is None:
        raise InputError(f"{path}: jax reads an export by flatbuffers; pip install flatbuffers")
    try:
        return jax_export.deserialize(bytearray(contents))
    except Exception as error:  # jax raises errors of many kinds
        raise InputError(f"{path}: jax {jax.__version__} cannot read {name}: {error}; {AGAIN}") from error


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
