"""Orders of searches by the text itself, lists of titles that match, and names that hash alike.

Rows store the n-grams of a text and not the text, so the text comes from the source of the dataset. A query
of the simulated service is for a title that the user has not played, so that user and title give the query.

- prefix: names that begin with the query, then shared n-grams as in the order `lexical`.
- prefix_or_genre: also titles of which a genre is the query.
- names_then_model: as the service lists them, by the level of `data.text.name_matches`, then by the model.

Popularity breaks ties.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxrec.config.schema import Config
from jaxrec.core.batch import HostBatch
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.tables import Lists, Source
from jaxrec.data.loading.left_out import LeftOutTitles
from jaxrec.data.storage.arrays import as_words
from jaxrec.data.storage.dataset import Arrays, Dataset, SelectedRows
from jaxrec.data.text.name_matches import NAME, NameMatches, name_matches
from jaxrec.data.text.named_titles import NamedTitles, named_titles
from jaxrec.data.text.ngrams import ngram_ids
from jaxrec.evaluation.correction import load_or_fit_correction
from jaxrec.evaluation.references.orders import target_ranks
from jaxrec.evaluation.results import model_ranks
from jaxrec.evaluation.scorers import ListScorer
from jaxrec.runtime.mesh import replicate
from jaxrec.sources import open_source
from jaxrec.tasks.loading import LoadedCheckpoint

MATCHING, POOLS = "matching", ("enabled", "disabled")  # lists by kind of negative
_FIRST = 1e6  # above every sum of weights of n-grams, and every difference of scores
_SCORED = 512  # queries that the model scores at a time
SERVED = "names_then_model"


class Searches(NamedTuple):
    """Test queries that are searches.

    Attributes:
        row: [S] rows of the split.
        text: [S] their text, in lower case.
        rows: The rows of the split.
        left_out: Titles that do not compete with the target.
    """

    row: np.ndarray
    text: np.ndarray
    rows: np.ndarray
    left_out: LeftOutTitles


def searches(
    source: Source, query: str, dataset: Dataset, row: np.ndarray, left_out: LeftOutTitles
) -> Searches:
    """Return the searches among the test rows, with their text.

    Args:
        source: Source of the dataset.
        query: Name of the context with the text.
        dataset: The dataset.
        row: [S] the test rows that are searches; other rows may have an imputed text.
        left_out: Titles that do not compete with the targets.

    Raises:
        ValueError: A search has no text in the source.
    """
    rows, user, key = dataset.rows("test").all(), dataset.user_keys("test"), source.titles().key
    wanted = _pairs(user[rows["user"][row]], dataset.arrays.title_key[rows["target"][row, 0] - FIRST_TITLE])
    pairs, texts = [], []
    for chunk in source.interactions():
        own = (chunk.context[query] != "") & np.isin(chunk.user, user)
        pairs.append(_pairs(chunk.user[own], key[chunk.title[own]]))
        texts.append(chunk.context[query][own])
    stored, first = np.unique(np.concatenate(pairs), return_index=True)
    at = np.minimum(np.searchsorted(stored, wanted), len(stored) - 1)
    if not np.array_equal(stored[at], wanted):
        raise ValueError("a search of the dataset has no text in its source")
    text = np.concatenate(texts)[first][at]
    return Searches(row, np.char.lower(text.astype(str)), rows, left_out)


def _pairs(user: np.ndarray, title: np.ndarray) -> np.ndarray:
    """Return users and titles [N] as one array of pairs."""
    out = np.empty(len(user), [("user", user.dtype), ("title", title.dtype)])
    out["user"], out["title"] = user, title
    return out


def search_orders(queries: Searches, source: Source, dataset: Dataset) -> dict[str, np.ndarray]:
    """Return the ranks [Q] of the targets by each order, from 1; NaN for queries that are no search."""
    arrays = dataset.arrays
    named = named_titles(dataset.layout, arrays.title_categories[arrays.id_of_rank])
    either = _names_of(source, arrays)
    by_name = either._replace(genre_VxG=np.full_like(either.genre_VxG, -1))
    out = {}
    for name, matches in (("prefix", by_name), ("prefix_or_genre", either)):
        ranks = np.full(len(queries.rows), np.nan)
        first = _levels(matches, queries.text) == NAME
        ranks[queries.row] = _ranks(queries, named, first, arrays)
        out[name] = ranks
    return out


def _levels(matches: NameMatches, text: np.ndarray) -> np.ndarray:
    """Return the levels [S, V] of the titles' matches with texts [S]."""
    texts, index = np.unique(text, return_inverse=True)
    return np.stack([matches.levels(one) for one in texts.tolist()])[index]


def ranks_of_service(
    queries: Searches, source: Source, loaded: LoadedCheckpoint, dataset: Dataset, workdir: Path
) -> np.ndarray:
    """Return the ranks [S] of the targets by the order of the service: by the match, then by the model."""
    arrays, task, rows = dataset.arrays, loaded.task, queries.rows
    table = replicate(loaded.arrays.title_table())
    correction = load_or_fit_correction(workdir, loaded, table, dataset)
    score = jax.jit(
        lambda words: correction(
            task.score_all_titles(
                loaded.params, HostBatch(words, np.ones(len(words), bool)), table, (correction.head,)
            ).by_head[correction.head]
        )
    )
    matches, place = _names_of(source, arrays), np.empty(len(rows), np.int64)
    place[queries.row] = np.arange(len(queries.row))

    def scores(row: np.ndarray) -> np.ndarray:
        """Return the scores [N, V] of queries: those of the model in levels."""
        out = np.empty((len(row), len(arrays.id_of_rank)))
        for first in range(0, len(row), _SCORED):
            part = row[first : first + _SCORED]
            words = np.pad(as_words(rows[part]), ((0, _SCORED - len(part)), (0, 0)))
            out[first : first + len(part)] = np.asarray(score(words))[: len(part), arrays.id_of_rank]
        return _levels(matches, queries.text[place[row]]) * _FIRST + out

    return target_ranks(scores, queries.row, rows["target"][:, 0], arrays, queries.left_out)


def _names_of(source: Source, arrays: Arrays) -> NameMatches:
    """Return the names and genres of a source's titles, by popularity rank."""
    titles = source.titles()
    row_of = {key: row for row, key in enumerate(titles.key.tolist())}
    of_rank = np.array([row_of[key] for key in arrays.title_key[arrays.id_of_rank - FIRST_TITLE].tolist()])
    names, genres = titles.features["name"], titles.features["genres"]
    assert isinstance(names, np.ndarray) and isinstance(genres, Lists)
    values, index = np.unique(genres.values.astype(str), return_inverse=True)
    count = np.diff(genres.offsets)
    of_title = np.full((len(count), max(int(count.max(initial=0)), 1)), -1)
    of_title[np.arange(of_title.shape[1]) < count[:, None]] = index
    return name_matches(names[of_rank], values, of_title[of_rank])


def _ranks(queries: Searches, named: NamedTitles, first: np.ndarray, arrays: Arrays) -> np.ndarray:
    """Return the ranks [S] of the targets by the titles of `first` [S, V], then by shared n-grams."""
    place = np.empty(len(queries.rows), np.int64)
    place[queries.row] = np.arange(len(queries.row))

    def scores(row: np.ndarray) -> np.ndarray:
        return first[place[row]] * _FIRST + named.matches(queries.rows["context_categories"][row])

    return target_ranks(scores, queries.row, queries.rows["target"][:, 0], arrays, queries.left_out)


def ranks_by_negatives(
    queries: Searches, loaded: LoadedCheckpoint, dataset: Dataset
) -> dict[str, np.ndarray]:
    """Return the ranks [S] of the targets of searches by a model, by kind of the list's negatives.

    The pools are those of the frozen lists, which do not match the query. The negatives of `matching` are the
    titles that match the query best and were not played; popular titles fill the list.
    """
    arrays, rows = dataset.arrays, queries.rows[queries.row].copy()
    named = named_titles(dataset.layout, arrays.title_categories[arrays.id_of_rank])
    scorer = ListScorer(loaded.task, replicate(loaded.arrays.title_table()), False, 1)
    out = model_ranks(scorer(loaded.params, SelectedRows(rows)).scores, rows, POOLS)
    score = named.matches(rows["context_categories"])
    score[np.arange(len(rows)), arrays.rank_of_id[rows["target"][:, 0]]] = -1.0
    row, title = queries.left_out.pairs(queries.row)
    rank = arrays.rank_of_id[title]
    kept = rank < len(arrays.id_of_rank)
    score[row[kept], rank[kept]] = -1.0
    best = np.argsort(-score, axis=1, kind="stable")
    lists = rows[f"list_{POOLS[0]}"]
    lists[:, 0] = arrays.id_of_rank[best[:, : lists.shape[-1]]]
    rows[f"list_{POOLS[0]}"] = lists
    out[MATCHING] = model_ranks(scorer(loaded.params, SelectedRows(rows)).scores, rows, POOLS[:1])[POOLS[0]]
    return out


def collisions(names: np.ndarray) -> dict[str, float]:
    """Return the number of different names, and the shares of those that n-grams do not tell from another.

    Args:
        names: [N] names of titles.

    Returns:
        `same`: share of the names whose hashed n-grams are exactly those of another name. `within`: share of
        those whose n-grams are all among those of another name, as of "up" among those of "up all night".
    """
    names = np.unique(np.char.lower(names.astype(str)))
    ids = np.sort(ngram_ids(names), axis=1)
    _, inverse, counts = np.unique(ids, axis=0, return_inverse=True, return_counts=True)
    has = np.zeros((len(names), int(ids.max(initial=0)) + 1), bool)
    has[np.arange(len(names))[:, None], ids] = True
    used = np.flatnonzero(has[:, 1:].any(axis=0)) + 1
    some = has[:, used].astype(np.float32)
    shared = some @ some.T
    np.fill_diagonal(shared, 0)
    within = (shared >= some.sum(axis=1)[:, None]).any(axis=1)
    return {"names": len(names), "same": float((counts[inverse] > 1).mean()), "within": float(within.mean())}


def source_of(config: Config) -> Source:
    """Return the source of a config's dataset."""
    return open_source(config.source, config.stored_features)
