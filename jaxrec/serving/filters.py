"""Filters of recommendations: watched and abandoned titles, lists, availability and licences."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, MISSING
from jaxrec.core.tables import REGION
from jaxrec.data.events.history_columns import title_rows
from jaxrec.data.storage.arrays import Arrays
from jaxrec.serving.exclusions import Exclusions
from jaxrec.serving.requests import Requests

_FROM, _UNTIL = "from", "until"
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Filters:
    """Titles that may be recommended.

    A table is a CSV or Parquet file, or a table in memory, with the column of titles of the config.

    Args:
        watched: Leave out the titles that the user has played and not abandoned.
        abandoned: Leave out the titles that the user has abandoned.
        allow: Sequence of titles, or a table: the only titles that may be recommended. None: all titles.
        deny: Sequence of titles, or a table, to leave out.
        available: Table with the columns "from" and "until": a title may be recommended within one of its
            windows, at the time `now`. An empty value is an open end. A title without a row is not available.
        licences: Table with the column "region": a title may be recommended in its regions.
        region: Region of users for whom the users table has none.
    """

    watched: bool = True
    abandoned: bool = True
    allow: Any = None
    deny: Any = ()
    available: Any = None
    licences: Any = None
    region: str = ""


class TitleFilter:
    """Filters applied to a catalogue at one time.

    Args:
        filters: Filters.
        config: Config of the checkpoint.
        arrays: Arrays of the catalogue.
        now: Milliseconds since 1970 of the availability windows; None without such windows.

    Raises:
        InputError: A table is invalid, or a setting is missing.
    """

    def __init__(self, filters: Filters, config: Config, arrays: Arrays, now: int | None) -> None:
        self._filters, self._config, self._key = filters, config, arrays.title_key
        eligible = np.ones(len(arrays.title_key), bool)  # by row, which is the id without the reserved ids
        if filters.allow is not None:
            eligible &= self._listed("allow", filters.allow)
        eligible &= ~self._listed("deny", filters.deny)
        if filters.available is not None:
            if now is None:
                raise InputError("available: needs the time of the recommendations; give now")
            eligible &= self._available(filters.available, now)
        # Group 0 is for a region without a licence.
        self._regions = np.empty(0, str)
        by_group = eligible[None]
        if filters.licences is not None:
            by_group = np.concatenate([np.zeros_like(by_group), eligible & self._licensed(filters.licences)])
        self._eligible_GxV = by_group[:, arrays.id_of_rank - FIRST_TITLE]

    def exclusions(self, made: Requests) -> Exclusions:
        """Return the titles to leave out for each request."""
        group = np.zeros(len(made.key), np.int32)
        if self._filters.licences is not None:
            region = np.where(made.region == "", self._filters.region, made.region)
            at = np.minimum(np.searchsorted(self._regions, region), len(self._regions) - 1)
            group = np.where(self._regions[at] == region, 1 + at, 0).astype(np.int32)
        abandoned = made.played.completion < self._config.data.abandon_threshold
        left_out = np.where(abandoned, self._filters.abandoned, self._filters.watched)
        return Exclusions(made.played.user[left_out], made.played.rank[left_out], group, self._eligible_GxV)

    @property
    def regions(self) -> list[str]:
        """Regions of the licences, in order; none without licences."""
        return self._regions.tolist()

    def eligible(self, region: str) -> np.ndarray:
        """Return the mask [V] by popularity rank of the titles that may be recommended in a region."""
        if self._filters.licences is None:
            return self._eligible_GxV[0]
        return self._eligible_GxV[1 + self.regions.index(region) if region in self.regions else 0]

    def _listed(self, name: str, titles: Any) -> np.ndarray:
        """Return a mask [V] of the titles of a list."""
        if isinstance(titles, list | tuple | set | frozenset | np.ndarray):
            rows = title_rows(list(titles), self._key)
        else:
            rows = self._read(name, titles, {})[0]
        mask = np.zeros(len(self._key), bool)
        mask[rows[rows >= 0]] = True
        return mask

    def _available(self, table: Any, now: int) -> np.ndarray:
        """Return a mask [V] of the titles that are available now."""
        rows, columns = self._read("available", table, {_FROM: "time", _UNTIL: "time"})
        until = np.where(columns[_UNTIL] == MISSING, _NEVER, columns[_UNTIL])
        is_open = (rows >= 0) & (columns[_FROM] <= now) & (now < until)  # MISSING is the least number
        mask = np.zeros(len(self._key), bool)
        mask[rows[is_open]] = True
        return mask

    def _licensed(self, table: Any) -> np.ndarray:
        """Return a mask [regions, V] of the titles with a licence, and set the regions."""
        rows, columns = self._read("licences", table, {REGION: "category"})
        self._regions, region = np.unique(columns[REGION].astype(str), return_inverse=True)
        mask = np.zeros((len(self._regions), len(self._key)), bool)
        mask[region[rows >= 0], rows[rows >= 0]] = True
        return mask

    def _read(self, name: str, table: Any, kinds: dict[str, str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the row of each title of a table, and further columns; needs polars."""
        from jaxrec.sources.histories import read_title_table

        return read_title_table(name, table, self._config.source, self._key, kinds)
