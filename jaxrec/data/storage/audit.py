"""Audit of a prepared dataset: facts that must hold in every row, and held-out queries that training has.

The rows are read back from the files, so that an audit covers what was written, not what was meant to be.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from absl import logging

from jaxrec.core.hashing import mix
from jaxrec.core.ids import FIRST_TITLE, LISTS, POOLS, SPLITS
from jaxrec.core.paths import AnyPath
from jaxrec.core.row_format import Layout
from jaxrec.data.storage.dataset import PREPARE_AGAIN, Dataset
from jaxrec.data.storage.evaluation_arrays import SeenTitles
from jaxrec.data.storage.plausibility import time_notes, title_notes
from jaxrec.data.storage.row_blocks import row_blocks
from jaxrec.runtime.checksums import DamagedFileError

SAMPLE_ROWS = 1 << 15  # rows of a split that are read after a preparation
_CONTEXT = 5  # last titles of a history that identify a query; shorter histories are equal by chance


class Audit(NamedTuple):
    """Result of an audit.

    Attributes:
        rows: Split -> number of rows read.
        problems: Facts that do not hold, each with a number of rows and the first one; no dataset that
            jaxrec wrote has any.
        notes: What is well formed and probably wrong in the log.
    """

    rows: dict[str, int]
    problems: list[str]
    notes: list[str]


def audit(dataset: Dataset, max_rows: int | None = None) -> Audit:
    """Read the rows of a dataset and check them.

    Args:
        dataset: The dataset.
        max_rows: Rows to read of each split, about; None: all.

    Raises:
        DamagedFileError: A file is missing or damaged.
    """
    checker = _Checker(dataset)
    rows, repeated = {}, Counter[tuple[str, str]]()
    queries = {s: np.empty(0, np.uint64) for s in SPLITS[1:]}
    for split in SPLITS[::-1]:  # held-out rows first
        rows[split], hashes = 0, [np.empty(0, np.uint64)]
        for block in _blocks(dataset, split, max_rows):
            checker.check(split, rows[split], block)
            rows[split] += len(block)
            hashed = query_hashes(block, dataset.layout)
            hashes.append(hashed[hashed != 0])
            for held_out, known in queries.items():
                repeated[held_out, split] += np.isin(hashes[-1], known).sum() if held_out != split else 0
        if split != SPLITS[0]:
            queries[split] = np.unique(np.concatenate(hashes))
    daily = dataset.daily_plays()
    notes = title_notes(dataset.arrays, dataset.layout) + (time_notes(daily) if daily else [])
    notes += [
        f"{count:,} {split} examples have the target and the last {_CONTEXT} titles, with their times, of a "
        f"{held_out} query: the log holds users twice, or held-out plays are in training"
        for (held_out, split), count in repeated.items()
        if count
    ]
    return Audit(rows, checker.problems(), notes)


def verify_dataset(dataset: Dataset) -> Audit:
    """Read a whole dataset: each array is compared with its checksum, each block with its hash, and all rows
    are checked.

    Raises:
        DamagedFileError: A file is missing or damaged, or a fact does not hold.
    """
    dataset.load_all()
    result = audit(dataset)
    if result.problems:
        more = f"; and {len(result.problems) - 1} more" if len(result.problems) > 1 else ""
        raise DamagedFileError(f"dataset {dataset.directory}: {result.problems[0]}{more}; {PREPARE_AGAIN}")
    return result


def log_verified(directory: str | AnyPath) -> None:
    """Verify the dataset of a folder, and log the rows read and the notes."""
    result = verify_dataset(Dataset(directory))
    logging.info(
        "dataset %s: all files are as written, and %s rows hold", directory, f"{sum(result.rows.values()):,}"
    )
    for note in result.notes:
        logging.warning("note on %s: %s", directory, note)


def _blocks(dataset: Dataset, split: str, max_rows: int | None) -> Iterator[np.ndarray]:
    """Yield the first `max_rows` rows of a split, or all, some blocks at a time."""
    rows = dataset.rows(split)
    rows = rows if max_rows is None else rows.head(max_rows)
    return row_blocks(rows)


def query_hashes(rows: np.ndarray, layout: Layout) -> np.ndarray:
    """Return a hash [N] of each row's target and last titles, with their times or completions.

    Args:
        rows: [N] rows of a split.
        layout: Layout of the dataset.

    Returns:
        uint64; 0 for a history shorter than `_CONTEXT`. A sequence of training has a hash for each of its
        positions, as [N * positions].
    """
    if layout.rows == "ranking":
        columns = [rows["target"][:, :1]]
        for name in ("history_title", "history_completion", "history_age"):
            columns.append(rows[name][:, -_CONTEXT:].astype(np.float32).view(np.uint32))
        known = rows["history_title"][:, -_CONTEXT:].min(axis=1) > 0
    elif "target" in _names(rows):
        columns = [rows["history_title"][:, -_CONTEXT:], rows["history_time"][:, -_CONTEXT:]]
        columns += [rows["target"][:, :1], rows["target_time"][:, None]]
        known = rows["history_title"][:, -_CONTEXT:].min(axis=1) > 0
    else:
        titles, times = (_windows(rows[name]) for name in ("title", "time"))
        columns = [titles[:, :-1], times[:, :-1], titles[:, -1:], times[:, -1:]]
        known = titles.min(axis=1) > 0
    words = (column for group in columns for column in group.T)
    return np.where(known, mix(*words), np.uint64(0))


def _windows(values: np.ndarray) -> np.ndarray:
    """Return all runs of `_CONTEXT` + 1 neighbours of [N, P] as [N * runs, _CONTEXT + 1]."""
    width = min(_CONTEXT + 1, values.shape[1])
    return np.lib.stride_tricks.sliding_window_view(values, width, axis=1).reshape(-1, width)


def _names(rows: np.ndarray) -> tuple[str, ...]:
    return rows.dtype.names or ()


class _Checker:
    """Facts of the rows, counted over blocks."""

    def __init__(self, dataset: Dataset) -> None:
        self._layout = dataset.layout
        self._users = {s: dataset.manifest["splits"][s]["users"] for s in SPLITS}
        self._seen = {s: dataset.seen_titles(s) for s in SPLITS[1:]}
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def problems(self) -> list[str]:
        """Return what does not hold, with the number of rows and the first one."""
        return [f"{what}: {n:,} rows, the first is {self._first[what]}" for what, n in self._counts.items()]

    def check(self, split: str, start: int, rows: np.ndarray) -> None:
        """Check rows [N] of a split whose first has the index `start`."""
        self._no(rows["user"] >= self._users[split], "user out of range", split, start)
        prefix = "history_" if "history_title" in _names(rows) else ""
        history = rows[f"{prefix}title"]
        self._ids(history, f"{prefix}title", split, start)
        gaps = (history[:, :-1] > 0) & (history[:, 1:] == 0)
        self._no(gaps.any(axis=1), "padding between titles of a history", split, start)
        if "target" in _names(rows):
            self._ids(rows["target"], "target", split, start)
            self._no(rows["target"][:, 0] < FIRST_TITLE, "no target", split, start)
            self._fraction(rows["target_completion"], "target_completion", split, start)
        if self._layout.rows == "ranking":
            self._check_example(split, start, rows)
        else:
            self._check_sequence(split, start, rows, prefix)

    def _check_example(self, split: str, start: int, rows: np.ndarray) -> None:
        """Check what a row of examples has beside its titles."""
        played, age = rows["history_title"] > 0, rows["history_age"].astype(np.float32)
        self._fraction(rows["history_completion"], "history_completion", split, start)
        wrong = ~np.isfinite(age) | (age < 0)
        self._no((wrong & played).any(axis=1), "history after its target (history_age below 0)", split, start)
        if self._layout.history_signals:
            infinite = np.isinf(rows["history_signals"]).any(axis=(1, 2))  # NaN is a title without an event
            self._no(infinite, "history_signals not finite", split, start)
        if self._layout.session:
            self._check_session(split, start, rows)
        target = rows["target"]
        candidates = [*(f"pool_{name}" for name in (*POOLS, "matching")), *(f"list_{name}" for name in LISTS)]
        for name in (name for name in candidates if name in _names(rows)):
            titles = rows[name]
            self._ids(titles.reshape(len(rows), -1), name, split, start)
            if titles.ndim == 3:  # a list for each next title, in which that title is no negative
                same = (titles == target[:, :, None]) & (target[:, :, None] > 0)
            else:
                same = (titles == target[:, :1]) & (titles > 0)
            self._no(same.reshape(len(rows), -1).any(axis=1), f"{name} holds the target", split, start)
        seen = self._seen.get(split)
        has_list = "list_disabled" in _names(rows)
        if seen is not None and has_list and (rows["user"] < self._users[split]).all():
            self._check_unseen(split, start, rows, seen)

    def _check_session(self, split: str, start: int, rows: np.ndarray) -> None:
        """Check the events of a session: known kinds and titles, at the end, before the request."""
        kind, age = rows["session_kind"], rows["session_age"].astype(np.float32)
        self._ids(rows["session_title"], "session_title", split, start)
        wrong = (kind > len(self._layout.session_kinds)).any(axis=1)
        self._no(wrong, "session_kind is no event", split, start)
        gaps = (kind[:, :-1] > 0) & (kind[:, 1:] == 0)
        self._no(gaps.any(axis=1), "padding between events of a session", split, start)
        late = (~np.isfinite(age) | (age < 0)) & (kind > 0)
        self._no(late.any(axis=1), "session after its target (session_age below 0)", split, start)

    def _check_unseen(self, split: str, start: int, rows: np.ndarray, seen: SeenTitles) -> None:
        """Check that the disabled list holds no title that the user played before the query."""
        index = np.arange(start, start + len(rows))
        lengths = seen.num_titles[index].astype(np.int64)
        owner = np.repeat(np.arange(len(rows)), lengths)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        titles = seen.title[seen.start[rows["user"].astype(np.int64)][owner] + place]
        size = np.int64(self._layout.num_titles)
        listed = rows["list_disabled"].reshape(len(rows), -1).astype(np.int64)
        keys = np.arange(len(rows))[:, None] * size + listed
        played = np.append(np.sort(owner * size + titles), np.iinfo(np.int64).max)
        known = (played[np.searchsorted(played, keys)] == keys) & (listed > 0)
        self._no(known.any(axis=1), "list_disabled holds a title that the user played", split, start)

    def _check_sequence(self, split: str, start: int, rows: np.ndarray, prefix: str) -> None:
        """Check the times of a sequence of plays, and the titles that were shown with them."""
        played, time = rows[f"{prefix}title"] > 0, rows[f"{prefix}time"].astype(np.int64)
        back = (np.diff(time, axis=1) < 0) & played[:, :-1]
        self._no(back.any(axis=1), "plays out of order", split, start)
        if "target_time" in _names(rows):
            late = (time > rows["target_time"].astype(np.int64)[:, None]) & played
            self._no(late.any(axis=1), "history after its target", split, start)
        else:
            self._fraction(rows["completion"], "completion", split, start)
        if "shown" in _names(rows):
            shown, title = rows["shown"], rows["title"][..., None]
            self._ids(shown.reshape(len(rows), -1), "shown", split, start)
            same = ((shown == title) & (title > 0)).any(axis=(1, 2))
            self._no(same, "shown holds the title that was played", split, start)

    def _ids(self, titles: np.ndarray, name: str, split: str, start: int) -> None:
        wrong = (titles < 0) | (titles >= self._layout.num_titles)
        self._no(wrong.any(axis=1), f"{name} is no title", split, start)

    def _fraction(self, values: np.ndarray, name: str, split: str, start: int) -> None:
        wrong = ~((values >= 0) & (values <= 1))
        self._no(wrong.any(axis=1), f"{name} outside [0, 1]", split, start)

    def _no(self, wrong: np.ndarray | np.bool, what: str, split: str, start: int) -> None:
        """Count the rows in which a fact does not hold."""
        wrong = np.atleast_1d(wrong)
        if wrong.any():
            what = f"{split}: {what}"
            self._first.setdefault(what, f"row {start + int(np.flatnonzero(wrong)[0]):,}")
            self._counts[what] += int(wrong.sum())
