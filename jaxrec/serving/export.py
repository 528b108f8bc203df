"""Export of a checkpoint to a folder that jax and NumPy alone can serve; `exported` describes the files.

A program is traced for one request and mapped over requests by `jax.vmap`, so that the number of requests
is a symbol and no layer depends on it. Kernels are not exported: every function has its plain form.
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from jaxrec.config.serialization import to_json
from jaxrec.core.batch import HostBatch
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.json_io import write_json
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.models.kernels import pallas
from jaxrec.serving import exported, safetensors
from jaxrec.serving.catalogue import DeviceCatalogue, best_titles
from jaxrec.serving.programs.catalogue_inputs import catalogue_inputs, table_of_inputs
from jaxrec.serving.recommender import Recommender
from jaxrec.sources.histories import columns_to_json, title_names
from jaxrec.tasks.base import Task
from jaxrec.tasks.mixture.task import MIXTURE

PLATFORMS = ("cpu", "cuda")
ALLOWED_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
MAX_K = 1000
_SMALL_K = 100  # most lists are short, and a program of many titles sorts more
_READABLE = timedelta(days=180)  # jax reads an export for six months
_BLOCK, _QUERIES = 4096, 1024  # titles of a block; most requests of a call
_JOINED_BLOCK, _JOINED_QUERIES = 256, 16  # where each candidate has a sequence of its own


def export(
    workdir: str | AnyPath, out: str | AnyPath, which: str | None = None,
    platforms: tuple[str, ...] = PLATFORMS, max_k: int = MAX_K, titles: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """Export a checkpoint; see `write`.

    Args:
        workdir: Folder of the training run.
        out: Folder to write.
        which: As for `Recommender.load`.
        platforms: Platforms of the programs.
        max_k: Most titles of a list.
        titles: As for `Recommender.load`.

    Returns:
        The manifest.
    """
    _check(out, platforms)
    return write(Recommender.load(workdir, which, titles, "exact"), out, platforms, max_k)


def write(
    recommender: Recommender, out: str | AnyPath, platforms: tuple[str, ...] = PLATFORMS, max_k: int = MAX_K
) -> dict[str, Any]:
    """Write the export of a recommender, as a whole or not at all.

    Args:
        recommender: Recommender of a checkpoint.
        out: Folder to write; an export that is there is replaced.
        platforms: Platforms of the programs, of `ALLOWED_PLATFORMS`.
        max_k: Most titles of a list; the number of titles if that is less.

    Returns:
        The manifest.

    Raises:
        InputError: An argument is wrong, `out` is another folder, or the model cannot be exported.
    """
    target = _check(out, platforms)
    if recommender.loaded.task.shards_titles:
        raise InputError(
            "model.item_table_sharding='split' cannot be exported; allowed: 'replicated'; serve the "
            "checkpoint with python -m jaxrec.recommend"
        )
    if MIXTURE in recommender.loaded.meta:
        raise InputError(
            "a mixture of models cannot be exported; allowed: one of its members; serve the checkpoint with "
            "python -m jaxrec.recommend"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        manifest = _write_files(recommender, temporary, platforms, max_k)
        temporary.chmod(0o755)
        if target.exists():
            os.rename(target, temporary / "replaced")
        os.rename(temporary, target)
        shutil.rmtree(target / "replaced", ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def _check(out: str | AnyPath, platforms: tuple[str, ...]) -> Path:
    """Return the folder to write, or raise InputError."""
    if not platforms or not set(platforms) <= set(ALLOWED_PLATFORMS):
        raise InputError(f"platforms={','.join(platforms)}; allowed: {', '.join(ALLOWED_PLATFORMS)}")
    target = as_path(out)
    if not isinstance(target, Path):
        raise InputError(f"out={out}; allowed: a folder of this machine")
    if target.exists() and not (target / exported.MANIFEST).is_file() and any(target.iterdir()):
        raise InputError(f"out={out}; allowed: a new folder, or one that holds an export")
    return target


def _write_files(
    recommender: Recommender, folder: Path, platforms: tuple[str, ...], max_k: int
) -> dict[str, Any]:
    """Write all files of an export, the manifest last, and return the manifest."""
    programs, entries = Programs(recommender), dict[str, dict[str, Any]]()
    for name, program in programs.lowered(max_k, platforms).items():
        file_name = f"{name}{exported.SUFFIX}"
        (folder / file_name).write_bytes(program.serialize())
        entries[name] = {"file": file_name}
        if name.startswith(exported.TOP):
            entries[name]["k"] = int(name.removeprefix(exported.TOP))
    parameters = {name: np.asarray(value) for name, value in programs.parameters.items()}
    contents = safetensors.to_bytes(parameters, {"format": "jaxrec"})
    (folder / exported.PARAMETERS).write_bytes(contents)
    (folder / "arrays").mkdir()
    arrays = recommender.arrays.stored() | {
        exported.LOG_Q: np.asarray(recommender.correction.log_q_V, np.float32),
        exported.VECTORS: np.pad(recommender.embed(titles=recommender.titles), ((FIRST_TITLE, 0), (0, 0))),
    }
    names = title_names(recommender.config.source, recommender.titles)
    if names is not None:
        arrays[exported.NAMES] = names
    for name, array in arrays.items():
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        (folder / "arrays" / f"{name}.npy").write_bytes(file.getvalue())
    write_json(folder / exported.VOCABULARY, recommender.loaded.categories)
    manifest = _manifest(recommender, platforms) | {
        "block": programs.block,
        "queries": programs.queries,
        "programs": entries,
        "files": {str(p.relative_to(folder)): _entry(p) for p in sorted(folder.rglob("*")) if p.is_file()},
    }
    write_json(folder / exported.MANIFEST, manifest)
    return manifest


def _entry(path: Path) -> dict[str, Any]:
    contents = path.read_bytes()
    return {"sha256": hashlib.sha256(contents).hexdigest(), "bytes": len(contents)}


def _manifest(recommender: Recommender, platforms: tuple[str, ...]) -> dict[str, Any]:
    """Return the manifest without the programs and the files."""
    loaded, created = recommender.loaded, datetime.now(UTC)
    config = loaded.config
    manifest = {
        "format": exported.FORMAT,
        "jax": jax.__version__,
        "calling_convention": jax_export.maximum_supported_calling_convention_version,
        "created": created.isoformat(timespec="seconds"),
        "readable_until": (created + _READABLE).isoformat(timespec="seconds"),
        "platforms": platforms,
        "dataset": loaded.meta["dataset"],
        "step": loaded.step,
        "task": config.task.name,
        "correction": recommender.correction.to_json(),
        "counts": {
            "titles": len(recommender.titles),
            "plays": int(recommender.arrays.title_plays.sum()),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(loaded.params)),
        },
        "columns": columns_to_json(config.source, config.stored_features, config.signals),
        "layout": loaded.task.layout.to_json(),
        "config": to_json(config),
    }
    return json.loads(json.dumps(manifest))


class Programs:
    """Functions of a recommender over flat trees of arrays, and their lowering.

    Every function takes the parameters by path, the arrays of the catalogue by name, and the packed rows of
    the requests [b, words] uint32:

    - `scores`: also ids [n]; returns [b, n].
    - `top_<k>`: also excluded ranks [b, m], groups [b], [b] bool for the order of popularity, and eligible
      titles [g, V] by popularity rank; returns the fields of `TopTitles`, [b, k].
    - `users`: returns [b, F].

    Args:
        recommender: Recommender of a checkpoint.
    """

    def __init__(self, recommender: Recommender) -> None:
        self._task: Task = recommender.loaded.task
        self._arrays, self._correction = recommender.arrays, recommender.correction
        self._log_q_V = np.asarray(self._correction.log_q_V, np.float32)
        leaves, self._structure = jax.tree_util.tree_flatten_with_path(recommender.loaded.params)
        self.parameters = {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}
        self._names = [*self.parameters]
        self._is_joined = self._task.config.model.target_in_sequence
        self.titles = len(self._arrays.id_of_rank)
        self.block = min(_JOINED_BLOCK if self._is_joined else _BLOCK, self.titles)
        self.queries = _JOINED_QUERIES if self._is_joined else _QUERIES

    def lowered(self, max_k: int, platforms: tuple[str, ...]) -> dict[str, jax_export.Exported]:
        """Return all programs in their plain form, by name.

        Args:
            max_k: Most titles of a list.
            platforms: Platforms of the programs.
        """
        max_k = min(max_k, self.titles)
        self.block = max(self.block, max_k)
        b, m, g, n = jax_export.symbolic_shape("b, m, g, n")
        padded = self.titles + -self.titles % self.block
        words = _shape((b, self._task.layout.query_dtype().itemsize // 4), np.uint32)
        queries = _shape((b, m), np.int32), _shape((b,), np.int32), _shape((b,), bool)
        eligible = _shape((g, padded), bool)
        inputs: dict[str, tuple[Callable, tuple]] = {
            f"{exported.TOP}{k}": (self._top(k), (*queries, eligible))
            for k in sorted({min(_SMALL_K, max_k), max_k})
        }
        inputs["scores"] = self._scores, (_shape((n,), np.int32),)
        if not self._is_joined:
            inputs["users"] = self._users, ()
        parameters = {name: _shape(leaf.shape, leaf.dtype) for name, leaf in self.parameters.items()}
        inputs_of_catalogue = catalogue_inputs(
            self._task.config, self._task.layout, self._arrays, self._log_q_V, self.block
        )
        catalogue = {name: _shape(array.shape, array.dtype) for name, array in inputs_of_catalogue.items()}
        with pallas.plain_form():
            return {
                name: jax_export.export(jax.jit(function), platforms=platforms)(
                    parameters, catalogue, words, *arguments
                )
                for name, (function, arguments) in inputs.items()
            }

    def _params(self, parameters: dict[str, Any]) -> Any:
        return jax.tree_util.tree_unflatten(self._structure, [parameters[name] for name in self._names])

    def _top(self, k: int) -> Callable:
        """Return the function `top_<k>`."""

        def top(parameters, catalogue, words, excluded, group, by_popularity, eligible):
            params, table = self._params(parameters), table_of_inputs(catalogue)
            titles = DeviceCatalogue(table, catalogue["id_by_rank"], catalogue["log_q_by_rank"], eligible)

            def top_of_request(words, excluded, group, by_popularity):
                queries = _host(words), excluded[None], group[None], by_popularity[None]
                outputs = best_titles(self._task, self._correction, (k, self.block), params, queries, titles)
                return jax.tree.map(lambda x: x[0], outputs)

            return jax.vmap(top_of_request)(words, excluded, group, by_popularity)

        return top

    def _scores(self, parameters, catalogue, words, ids):
        params, table = self._params(parameters), table_of_inputs(catalogue)
        head, scale = self._correction.head, self._correction.scale

        def scores_of_request(words):
            if table.trie is None:
                encoded = self._task.encode_queries(params, _host(words), table)

                def score(id_):
                    return self._task.score_titles(params, encoded, table, head, id_[None])[0, 0]

                scores = jax.vmap(score)(ids)
            else:  # as in `catalogue`
                scores = self._task.policy_logits(params, _host(words), table)[0, ids]
            return (scale * scores + catalogue["log_q"][ids]).astype(jnp.float32)

        return jax.vmap(scores_of_request)(words)

    def _users(self, parameters, catalogue, words):
        params, table = self._params(parameters), table_of_inputs(catalogue)
        return jax.vmap(lambda words: self._task.embed_users(params, _host(words), table)[0])(words)


def _shape(shape: tuple[Any, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _host(words: Any) -> HostBatch:
    """Return a batch of one request."""
    valid: Any = jnp.ones(1, bool)
    return HostBatch(words[None], valid)
