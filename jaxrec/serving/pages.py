"""Pages of recommendations: named rows, without a title twice on a page.

The rows are "top picks", "because you watched T", and one genre a row. All rows take titles from the user's
best candidates.

Axis letters: U users, N candidates, W titles of a row, G genres, F width of a title vector.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxrec.core.ids import FIRST_TITLE, TITLE_ID
from jaxrec.core.row_format import Layout
from jaxrec.data.examples.requests import PlayedTitles
from jaxrec.data.storage.arrays import Arrays

TOP_PICKS = "top picks"
_WATCHED = 0.5  # least completion of the title of "because you watched"
_SIMILAR = 3  # the row has the user's best titles out of this many times its width of similar titles
_CELLS = 2**25  # numbers of gathered title vectors in memory at a time


@dataclass(frozen=True)
class PageLayout:
    """Size of a page."""

    rows: int = 6
    width: int = 10


class PageRow(NamedTuple):
    """One row of the pages of U users."""

    reason: np.ndarray  # [U] strings, "" where the row is empty
    place: np.ndarray  # [U, W] index of the user's candidate, -1 for none


class Genres(NamedTuple):
    """Genre-like title feature; G values."""

    name: str  # of the feature
    of_id: np.ndarray  # [V, columns] int32 index of a value by title id, -1 for none
    values: np.ndarray  # [G] strings
    plays: np.ndarray  # [G] plays of training users


def find_genres(layout: Layout, arrays: Arrays, categories: dict[str, list]) -> Genres | None:
    """Return the first list-valued title feature, else the first other category; None without one."""
    column, candidates = 0, []
    for spec in layout.of("title"):
        if spec.kind not in ("number", "text", "codes") and spec.name != TITLE_ID:
            candidates.append((spec.kind != "categories", column, spec))
        column += spec.columns if spec.kind != "number" else 0
    if not candidates:
        return None
    _, first, spec = min(candidates, key=lambda c: c[:2])
    of_id = arrays.title_categories[:, first : first + spec.columns] - FIRST_TITLE  # values follow two ids
    of_id = np.where(of_id >= 0, of_id, -1)
    values = np.array([str(value) for value in categories[spec.name]])
    plays = np.zeros(len(values))
    np.add.at(plays, of_id[of_id >= 0], np.repeat(arrays.title_plays, spec.columns)[of_id.reshape(-1) >= 0])
    return Genres(spec.name, of_id, values, plays)


def page_rows(
    id_UxN: np.ndarray, played: PlayedTitles, arrays: Arrays, unit_VxF: np.ndarray, genres: Genres | None,
    page: PageLayout,
) -> Iterator[PageRow]:  # fmt: skip
    """Yield the rows of the pages of U users, the first row first.

    Args:
        id_UxN: Candidates of each user, the best first, 0 after the last one.
        played: Titles that the users have played.
        arrays: Arrays of the catalogue.
        unit_VxF: Vectors of length 1 of all titles.
        genres: Genre-like feature; None for pages without rows of genres.
        page: Size of the page.
    """
    users = len(id_UxN)
    free = id_UxN > 0

    def take(reason: np.ndarray, place: np.ndarray) -> PageRow:
        row, column = np.nonzero(place >= 0)
        free[row, place[row, column]] = False
        return PageRow(np.where((place >= 0).any(axis=1), reason, ""), place)

    yield take(np.full(users, TOP_PICKS), _first_places(free, page.width))
    if page.rows > 1:
        watched = _last_watched(played, users, arrays)
        near = _most_similar(id_UxN, free, unit_VxF, watched, _SIMILAR * page.width)
        key = arrays.title_key[np.maximum(watched - FIRST_TITLE, 0)].astype(str)
        yield take(np.char.add("because you watched ", key), _first_places(near, page.width))
    if genres is None:
        return
    of_candidate = genres.of_id[id_UxN]
    for genre in _favourites(played, users, arrays, genres)[:, : max(page.rows - 2, 0)].T:
        has_genre = (of_candidate == genre[:, None, None]).any(axis=2)
        reason = np.char.add(f"{genres.name}: ", genres.values[genre])
        yield take(reason, _first_places(free & has_genre, page.width))


def _first_places(mask_UxN: np.ndarray, width: int) -> np.ndarray:
    """Return the indices [U, width] of the first True values of each user, -1 after the last."""
    place = np.argsort(~mask_UxN, axis=1, kind="stable")[:, :width]
    return np.where(np.take_along_axis(mask_UxN, place, axis=1), place, -1)


def _last_watched(played: PlayedTitles, users: int, arrays: Arrays) -> np.ndarray:
    """Return the id [U] of the title that each user watched last, 0 for none."""
    out = np.zeros(users, np.int64)
    watched = played.completion >= _WATCHED
    out[played.user[watched]] = arrays.id_of_rank[played.rank[watched]]  # the last of a user stays
    return out


def _most_similar(
    id_UxN: np.ndarray, free_UxN: np.ndarray, unit_VxF: np.ndarray, watched: np.ndarray, number: int
) -> np.ndarray:
    """Return a mask [U, N] of the free candidates that are most similar to a title of each user."""
    near = np.zeros(id_UxN.shape, bool)
    step = max(_CELLS // (id_UxN.shape[1] * unit_VxF.shape[1]), 1)
    for i in range(0, len(id_UxN), step):
        part = slice(i, i + step)
        cosine = np.einsum("unf,uf->un", unit_VxF[id_UxN[part]], unit_VxF[watched[part]])
        cosine = np.where(free_UxN[part], cosine, -np.inf)
        best = np.argsort(-cosine, axis=1, kind="stable")[:, :number]
        np.put_along_axis(near[part], best, True, axis=1)
    return near & free_UxN & (watched > 0)[:, None]


def _favourites(played: PlayedTitles, users: int, arrays: Arrays, genres: Genres) -> np.ndarray:
    """Return genres [U, G] by the user's watched titles, ties by the plays of all users."""
    count = np.zeros((users, len(genres.values)))
    watched = played.completion >= _WATCHED
    genre = genres.of_id[arrays.id_of_rank[played.rank[watched]]]
    user = np.broadcast_to(played.user[watched][:, None], genre.shape)
    np.add.at(count, (user[genre >= 0], genre[genre >= 0]), 1.0)
    share = genres.plays / max(genres.plays.sum(), 1.0) / 2.0  # below 1, so that it decides ties alone
    return np.argsort(-(count + share), axis=1, kind="stable")
