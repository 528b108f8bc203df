"""Titles that a retrieval head selects, in place of titles that were shown: a dataset rewritten by blocks.

The second stage of a two-stage ranking orders what the first one retrieves. Trained on such titles, it learns
from what it will order (hard negatives from the retriever: Huang et al., Embedding-based Retrieval in
Facebook Search, KDD 2020, section 6). A next title that is not retrieved is never shown, so that its row has
no retrieved titles: with them a model would learn that what the retriever dislikes is played. Axis letters:
B rows, V titles, K next titles, N retrieved titles.
"""

import dataclasses
import hashlib
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.analysis.rewritten.rewriting import (
    Rewritten,
    content_digest,
    copied_manifest,
    evaluation_of,
    rewrite,
)
from jaxrec.core.batch import HostBatch
from jaxrec.core.errors import InputError
from jaxrec.core.hashing import mix
from jaxrec.core.ids import FIRST_TITLE, RETRIEVAL_HEAD, SERVED, SPLITS
from jaxrec.core.paths import AnyPath
from jaxrec.core.row_format import Layout
from jaxrec.data.events.event_log import ranges
from jaxrec.data.examples.user_pools import shuffle_hard
from jaxrec.data.runners.manifest import fingerprint_of
from jaxrec.data.storage.arrays import as_words
from jaxrec.data.storage.dataset import BLOCK_ROWS, Dataset, Rows
from jaxrec.data.storage.row_blocks import row_blocks
from jaxrec.data.storage.writer import DatasetWriter
from jaxrec.models.two_stage import top_titles
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.loading import LoadedCheckpoint, check_same_catalogue, default_checkpoint, load_checkpoint

_RETRIEVED = "retrieved"  # entry of the manifest
_POOL, _LIST = f"pool_{SERVED}", f"list_{SERVED}"
_DRAW = 0x4E7213  # first number of the salts of the draws among retrieved titles
_PAIRS = 2**22  # (row, title) pairs that are scored at a time


class TrainingPlays:
    """Titles of the training rows of each user, as targets or in histories.

    Args:
        training: Training rows.
        titles: Number of title ids V.
    """

    def __init__(self, training: Rows, titles: int) -> None:
        pairs = [np.zeros(0, np.int64)]
        for rows in row_blocks(training):
            played = np.concatenate([rows["target"], rows["history_title"]], axis=1).astype(np.int64)
            pairs.append(np.unique(rows["user"][:, None].astype(np.int64) * titles + played))
        self._user, self._title = np.divmod(np.unique(np.concatenate(pairs)), titles)
        self._titles = titles

    def mask(self, user: np.ndarray) -> np.ndarray:
        """Return bool [B, V], True for the titles that each user [B] played."""
        users, of_row = np.unique(user, return_inverse=True)
        first, last = (np.searchsorted(self._user, users, side) for side in ("left", "right"))
        out = np.zeros((len(users), self._titles), bool)
        index, at = ranges(first, last - first)
        out[index, self._title[at]] = True
        return out[of_row]


class Retriever:
    """Best titles of rows by the retrieval head of a checkpoint, and draws among them.

    Args:
        loaded: Checkpoint with a retrieval head.
        layout: Layout of the rows.
        top: Number N of titles that are retrieved.
        drawn: Number of titles that are drawn uniformly from them, without replacement; at most N.
    """

    def __init__(self, loaded: LoadedCheckpoint, layout: Layout, top: int, drawn: int) -> None:
        # The row of one target without candidates, which training and evaluation rows have in common.
        self._alone = dataclasses.replace(layout, num_targets=1, pools=(0, 0, 0, 0), negatives=0, matching=0)
        self._task = dataclasses.replace(loaded.task, layout=self._alone)
        self._table = replicate(loaded.task.title_table(loaded.arrays))
        self._params, self._seed = loaded.params, loaded.config.train.seed
        self._top, self._drawn = top, drawn
        self._rows = max(min(BLOCK_ROWS, _PAIRS // layout.num_titles), 1)
        self._retrieve = jax.jit(self._best)

    def _best(
        self, params: Any, table: Any, words: jax.Array, left_out_BxV: jax.Array, target_BxK: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return the ids [B, N] of the best titles, 0 where fewer remain, and where targets are among them.

        A target [B, K] is retrieved where fewer than N of the titles that are not left out score as high.
        """
        host: Any = HostBatch(cast(Any, words), np.ones(len(words), bool))
        by_head = self._task.score_all_titles(params, host, table, (RETRIEVAL_HEAD,)).by_head
        title_1xV = jnp.arange(self._alone.num_titles)[None]
        titles_V = self._task.candidates(table)
        allowed_1xV = title_1xV >= FIRST_TITLE if titles_V is None else titles_V
        scores_BxV = jnp.where(allowed_1xV & ~left_out_BxV, by_head[RETRIEVAL_HEAD], -jnp.inf)
        best_BxN, id_BxN = top_titles(scores_BxV, self._top, table.rank)
        own_BxK = jnp.take_along_axis(by_head[RETRIEVAL_HEAD], target_BxK, axis=1)
        is_retrieved_BxK = ((best_BxN[:, None] < own_BxK[..., None]) & (target_BxK > 0)[..., None]).any(-1)
        return jnp.where(best_BxN > -jnp.inf, id_BxN, 0), is_retrieved_BxK

    def __call__(self, rows: np.ndarray, played: TrainingPlays | None, salt: int) -> np.ndarray:
        """Return ids [B, K, drawn] of retrieved titles in an order by hash, then 0 where there are fewer.

        Args:
            rows: [B] rows of a split.
            played: Titles to leave out by user; None: those of the row's history alone.
            salt: Salt of the draws of the split.

        Returns:
            Title ids, none of them a target or a title of the history of the row; 0 throughout for a target
            that is not retrieved.
        """
        out = np.zeros((*rows["target"].shape, self._drawn), np.int32)
        for start in range(0, len(rows), self._rows):
            block = rows[start : start + self._rows]
            alone = np.zeros(self._rows, self._alone.row_dtype())
            for name in alone.dtype.names or ():
                of_targets = name in ("target", "target_completion", "label", "label_known", "label_filled")
                alone[name][: len(block)] = block[name][:, :1] if of_targets else block[name]
            left_out = np.zeros((self._rows, self._alone.num_titles), bool)
            if played is not None:
                left_out[: len(block)] = played.mask(block["user"])
            for name in ("target", "history_title"):
                left_out[np.arange(len(block))[:, None], block[name]] = True
            target = np.zeros((self._rows, block["target"].shape[1]), np.int32)
            target[: len(block)] = block["target"]
            made = self._retrieve(self._params, self._table, as_words(alone), left_out, target)
            ids, is_retrieved = (np.asarray(x)[: len(block)] for x in made)
            key = mix(self._seed, block["user"], block["position"])
            drawn = shuffle_hard(ids, (ids > 0).sum(axis=1), key, np.asarray(salt))[:, : self._drawn]
            out[start : start + len(block)] = np.where(is_retrieved[..., None], drawn[:, None], 0)
        return out


def check_model(loaded: LoadedCheckpoint, dataset: Dataset, top: int, drawn: int) -> None:
    """Check that a checkpoint can retrieve titles for the rows of a dataset.

    Raises:
        InputError: The run has no retrieval head, the rows have no candidates, the titles or categories are
            not those of the run, the dataset has retrieved titles, or a number is out of range.
    """
    if not loaded.config.model.retrieval_dim:
        raise InputError(
            f"the run {loaded.config.name!r} has no retrieval head: model.retrieval_dim=0; allowed: a run "
            "with model.retrieval_dim and objective.retrieval above 0"
        )
    if not dataset.layout.has_candidates:
        raise InputError(
            f"dataset {dataset.directory}: its rows have no negatives; allowed: a dataset of requests "
            "(data.examples='requests')"
        )
    if _RETRIEVED in dataset.manifest:
        raise InputError(
            f"dataset {dataset.directory}: has retrieved titles already; allowed: the dataset that it was "
            "made from"
        )
    titles = dataset.layout.num_titles - FIRST_TITLE
    if not 1 <= top <= titles:
        raise InputError(f"--top={top}; allowed: 1 to the {titles:,} titles of the dataset")
    if not 1 <= drawn <= top:
        raise InputError(f"--titles={drawn}; allowed: 1 to --top={top}")
    check_same_catalogue(dataset, loaded)


def write_retrieved(
    workdir: str | AnyPath, data: str | AnyPath, out: str | AnyPath, top: int, drawn: int,
    which: str | None = None,
) -> Rewritten:  # fmt: skip
    """Write a dataset whose served titles are drawn from those that a retrieval head selects.

    A row whose next title is not among the N titles that are retrieved has none. Training rows leave out all
    titles that their user played in the training rows, as the drawn pools do; held-out rows leave out those
    of the history. Served titles that the dataset may have are replaced, and the truth of the served list is
    unknown.

    Args:
        workdir: Folder of the run with the retrieval head.
        data: Folder of the dataset.
        out: Folder of the dataset with retrieved titles.
        top: Number N of titles that are retrieved.
        drawn: Number of titles that are drawn from them for each row.
        which: "best" or "last" checkpoint. None: the value of the config.

    Raises:
        InputError: As `check_model`, or `out` holds something else.
    """
    loaded = load_checkpoint(workdir, which or default_checkpoint(workdir))
    dataset = Dataset(data, loaded.config.data.verify)
    check_model(loaded, dataset, top, drawn)
    made_from = {
        "dataset": dataset.fingerprint,
        "digest": dataset.manifest["digest"],
        "checkpoint": content_digest(loaded),
        "top": top,
        "titles": drawn,
    }
    own = hashlib.sha256(" ".join(map(str, made_from.values())).encode()).hexdigest()
    what = f"{data} with titles that {workdir} retrieves and these settings"
    retriever = Retriever(loaded, dataset.layout, top, drawn)
    return rewrite(out, own, what, lambda folder: _write(dataset, retriever, folder, own, made_from))


def _write(
    dataset: Dataset, retriever: Retriever, folder: AnyPath, own: str, made_from: dict[str, Any]
) -> None:
    """Write the dataset with retrieved titles."""
    drawn = made_from["titles"]
    layout = dataclasses.replace(dataset.layout, pools=(*dataset.layout.drawn_pools, drawn))
    width = min(drawn, layout.negatives)
    retrieved: dict[str, int] = {}
    played = TrainingPlays(dataset.rows(SPLITS[0]), layout.num_titles)
    with DatasetWriter(folder) as writer:
        writer.begin(layout)
        for salt, split in enumerate(SPLITS, _DRAW):
            is_training = split == SPLITS[0]
            dtype = layout.row_dtype() if is_training else layout.query_dtype()
            for rows in row_blocks(dataset.rows(split)):
                out = np.zeros(len(rows), dtype)
                for name in {*(rows.dtype.names or ())} & {*(dtype.names or ())} - {_POOL, _LIST}:
                    out[name] = rows[name]
                ids = retriever(rows, played if is_training else None, salt)
                retrieved[split] = retrieved.get(split, 0) + int((ids[:, 0, 0] > 0).sum())
                if is_training:
                    out[_POOL] = ids[:, 0]
                else:
                    out[_LIST][..., :width] = ids[..., :width]
                    out[f"oracle_{SERVED}"], out[f"truth_{SERVED}"] = np.nan, np.nan
                writer.add(split, out)
        manifest = copied_manifest(dataset) | {
            "digest": own, "layout": layout.to_json(), _RETRIEVED: made_from | {"rows": retrieved},
        }  # fmt: skip
        manifest["fingerprint"] = fingerprint_of(manifest, writer.row_sums())
        users = {split: dataset.user_keys(split) for split in SPLITS[1:]}
        writer.finish(dataset.arrays, users, manifest, evaluation_of(dataset), audited=True)
