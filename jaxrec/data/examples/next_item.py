"""Next-item examples: rows of sequences, built without a loop over users.

The input is the sorted log of a partition's users.

The sequence of a user is the user's targets in order of time. A target is defined as in
`examples/ranking.py`, except that no earlier event is required: the final completion is at least
data.abandon_threshold, and with data.targets="new" the event is the first play of its title. With "every" the
sequence has the first plays of all titles, abandoned or not. Without watch time every play is a target. The
final completion, and hence the set of abandoned titles, may depend on later sessions, including those of
held-out days.

With several kinds of `data.tokens` a sequence is of tokens: all plays, and events of signals
(`data.tokens.merging`). The targets are the same plays, which `selected` marks in training rows.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jaxrec.config.schema import Data
from jaxrec.core.hashing import mix
from jaxrec.core.ids import SPLITS
from jaxrec.core.row_format import Layout
from jaxrec.data.events import splits
from jaxrec.data.events.event_log import EventState, Log, TitleStats, event_states, ranges
from jaxrec.data.examples.ranking import Examples
from jaxrec.data.examples.user_pools import ShownTitles, served_pool
from jaxrec.data.increments.selection import TargetSelection
from jaxrec.data.labels.of_targets import PartitionLabels, check_half
from jaxrec.data.tokens.merging import REQUEST, TokenEvents, Tokens, merged_tokens

MIN_TITLES = 2  # titles of a training row: one of history, one to predict
_CELLS = 4_000_000  # plays copied at once, which bounds memory
_SHOWN_DRAW = 1  # salt of the draws of shown titles
_COLUMNS = ("title", "time", "completion", "label", "label_known", "selected", "shown")  # of rows


class BesideTargets(NamedTuple):
    """Labels, shown titles and events of signals of a partition's targets; None for none."""

    labels: PartitionLabels | None = None
    shown: ShownTitles | None = None
    tokens: TokenEvents | None = None


_ALONE = BesideTargets()


class Sequences(NamedTuple):
    """Targets of all users, sorted by user, then time, or their tokens. T of them, U users."""

    user: np.ndarray  # [T] int64, ascending
    first: np.ndarray  # [U] index of each user's first target
    split: np.ndarray  # [T] int8; -1 for a token that is no target
    title: np.ndarray  # [T] int32 ids
    time: np.ndarray  # [T] uint32 seconds
    completion: np.ndarray  # [T] float32, final
    event: np.ndarray  # [T] int64 index in the log; -1 for a token without a play
    label: np.ndarray = np.empty(0)  # [T, labels], where there are some
    label_known: np.ndarray = np.empty(0)  # [T] uint32, a bit for each label
    selected: np.ndarray = np.empty(0)  # [T] bool, targets that become targets of rows
    shown: np.ndarray = np.empty(0)  # [T, n] int32 ids shown and not chosen, then 0; 0 outside training
    tokens: Mapping[str, np.ndarray] = MappingProxyType({})  # field of tokens -> values [T, ...]


def targets(log: Log, states: EventState, key_hash: np.ndarray, data: Data) -> np.ndarray:
    """Return the events that are targets, sorted by user, then time.

    Ties are ordered by `splits.sort_order`.

    Args:
        log: Log of the partition.
        states: States of its events.
        key_hash: [V] uint64 hash of the key of the title that `log.rank` indexes.
        data: Settings of the targets.

    Returns:
        [T] indices of events.
    """
    event = np.flatnonzero(states.may_be_target(data))
    user, time = log.user[event], log.time[event]
    return event[splits.sort_order(data, log.hash, user, time, key_hash[log.rank[event]])]


def build(
    log: Log, catalogue: TitleStats, layout: Layout, data: Data, beside: BesideTargets = _ALONE,
    selection: TargetSelection | None = None,
) -> Examples:  # fmt: skip
    """Build all rows of a partition's users.

    Rows are training pieces of sequences, and one query for each held-out target that has an earlier title.
    A user with too few titles gives no row and is counted in `Examples.counts`.

    Args:
        log: Log of the partition.
        catalogue: Titles in the order of rank.
        layout: Layout of the rows.
        data: Settings of the targets and of the split.
        beside: Labels of the partition, titles that were shown, and events, where the layout has some.
        selection: Targets that become targets of rows; None: all. A row still holds the plays before them.

    Returns:
        Rows of `layout.row_dtype()` for training, and of `layout.query_dtype()` for the held-out splits.
    """
    states = event_states(log, catalogue.runtime)
    sequences = sequences_of(log, states, catalogue, data)
    if beside.shown:
        ids = _shown_ids(
            beside.shown, log, states, sequences, (catalogue.id_of_rank, layout.shown, data.seed)
        )
        sequences = sequences._replace(shown=ids)
    if beside.labels:
        values = beside.labels.at(sequences.event, sequences.split)
        check_half(values, layout.labels)
        sequences = sequences._replace(label=values.y, label_known=values.known)
    if selection is not None:
        event = sequences.event
        title_hash, context = catalogue.hash[log.rank[event]], log.context_categories[event]
        kept = selection.targets(log, sequences.user, log.time[event], sequences.split, title_hash, context)
        sequences = sequences._replace(selected=kept)
        log = log._replace(split=np.where(selection.users(log), log.split, -1))  # -1: no rows
    if beside.tokens is not None:
        sequences = with_tokens(sequences, merged_tokens(log, states, catalogue, beside.tokens, data))
    out = Examples({}, {}, {})
    _add_training_rows(out, sequences, log, layout, data)
    for split in range(1, len(SPLITS)):
        _add_queries(out, sequences, log, layout, data, split)
    return out


def sequences_of(log: Log, states: EventState, catalogue: TitleStats, data: Data) -> Sequences:
    """Return the sequences of all users of a log."""
    event = targets(log, states, catalogue.hash, data)
    user = log.user[event]
    return Sequences(
        user,
        np.searchsorted(user, np.arange(len(log.hash))),
        splits.target_splits(data, log.split, log.hash, user, log.time[event], MIN_TITLES),
        catalogue.id_of_rank[log.rank[event]],
        (log.time[event] // 1000).astype(np.uint32),
        states.total[event].astype(np.float32),
        event,
        selected=np.ones(len(event), bool),
    )


def _shown_ids(
    shown: ShownTitles, log: Log, states: EventState, sequences: Sequences,
    settings: tuple[np.ndarray, int, int],
) -> np.ndarray:  # fmt: skip
    """Return the ids [T, width] that were shown with training targets and not chosen, then 0.

    Args:
        shown: Impressions of the partition.
        log: Log of the partition.
        states: States of its events.
        sequences: Targets.
        settings: Id of each rank, the width, and the seed of the draws.
    """
    id_of_rank, width, seed = settings
    trained = np.flatnonzero(sequences.split == splits.TRAIN)
    out = np.zeros((len(sequences.title), width), np.int32)
    place = np.arange(len(sequences.title)) - sequences.first[sequences.user]
    step = max(_CELLS // width, 1)
    for i in range(0, len(trained), step):
        target = trained[i : i + step]
        event = sequences.event[target]
        key = mix(seed, log.hash[sequences.user[target]], place[target], _SHOWN_DRAW)
        rank = served_pool(shown, log, states, event, log.rank[event][:, None], key, width)
        out[target] = np.where(rank >= 0, id_of_rank[rank], 0)
    return out


def with_tokens(targets: Sequences, tokens: Tokens) -> Sequences:
    """Return sequences of tokens, of which those that begin with a target have its columns.

    Args:
        targets: Sequences of targets.
        tokens: Tokens of the same users, whose plays are in the order of the targets.
    """
    is_target = np.isin(tokens.play, targets.event)
    columns = {}
    for name in ("split", "completion", "label", "label_known", "selected", "shown"):
        values = getattr(targets, name)
        fill = -1 if name == "split" else 0
        columns[name] = np.full((len(is_target), *values.shape[1:]), fill, values.dtype)
        if len(values):
            columns[name][is_target] = values
    first, time = np.searchsorted(tokens.user, np.arange(len(targets.first))), tokens.time // 1000
    return Sequences(
        tokens.user, first, columns["split"], tokens.title, time.astype(np.uint32), columns["completion"],
        tokens.play, columns["label"], columns["label_known"], columns["selected"], columns["shown"],
        tokens.columns,
    )  # fmt: skip


def _add_training_rows(out: Examples, sequences: Sequences, log: Log, layout: Layout, data: Data) -> None:
    """Add one training row per user to `out`: the user's latest plays.

    A position reads at most `history` earlier titles, so the last history + 1 plays contain `history` titles
    to predict.
    """
    trained = sequences.split == splits.TRAIN  # the first targets of each user
    count = np.bincount(sequences.user[trained], minlength=len(log.hash))
    index = np.arange(len(sequences.user))
    predicted = trained & (index > sequences.first[sequences.user]) & sequences.selected
    end = sequences.first.copy()
    np.maximum.at(end, sequences.user[trained], index[trained] + 1)  # after the last training target
    width = layout.row_dtype()["title"].shape[0]
    in_row = predicted & (index >= (end - width)[sequences.user])
    enough = (count >= MIN_TITLES) & (np.bincount(sequences.user[in_row], minlength=len(count)) > 0)
    user = np.flatnonzero(enough)
    rows = np.zeros(len(user), layout.row_dtype())
    copy_plays(rows, "", sequences, sequences.first[user], end[user])
    in_split = log.split == splits.TRAIN if data.split == "users" else enough
    rows["user"] = _user_numbers(in_split)[user]
    exact = sequences.completion[predicted] * 2.0**32  # exact: a power of two
    name = SPLITS[splits.TRAIN]
    out.rows[name], out.users[name] = rows, log.hash[in_split]
    out.completion_sum = int(np.rint(exact).astype(np.int64).sum())
    out.completions = int(predicted.sum())
    out.counts["users with one training title, which gives no row"] = int((count == 1).sum())


def _add_queries(
    out: Examples, sequences: Sequences, log: Log, layout: Layout, data: Data, split: int
) -> None:
    """Add a split's queries to `out`: targets with their latest earlier titles.

    A target without an earlier title gives no query and is counted.
    """
    held_out = sequences.split == split
    is_target = sequences.split >= 0
    before: np.ndarray = np.cumsum(is_target) - is_target
    has_past = before > np.append(before, 0)[sequences.first][sequences.user]
    at = np.flatnonzero(held_out & has_past & sequences.selected)
    user = sequences.user[at]
    rows = np.zeros(len(at), layout.query_dtype())
    copy_plays(rows, "history_", sequences, sequences.first[user], at)
    if data.split == "users":
        in_split = log.split == split
    else:
        in_split = np.zeros(len(log.hash), bool)
        in_split[user] = True
    rows["user"] = _user_numbers(in_split)[user]
    rows["position"] = np.arange(len(at)) - np.searchsorted(user, user)
    rows["target"][:, 0], rows["target_time"] = sequences.title[at], sequences.time[at]
    rows["target_completion"][:, 0] = sequences.completion[at]
    for column in (n for n in REQUEST if f"target_{n}" in (rows.dtype.names or ())):
        rows[f"target_{column}"] = sequences.tokens[column][at]
    if layout.labels:
        rows["label"][:, 0], rows["label_known"][:, 0] = sequences.label[at], sequences.label_known[at]
    name = SPLITS[split]
    out.rows[name], out.users[name], out.query[name] = rows, log.hash[in_split], sequences.event[at]
    out.user_time[name] = (user, log.time[sequences.event[at]])
    out.counts[f"{name} targets with no title before them"] = int((held_out & ~has_past).sum())


def _user_numbers(in_split: np.ndarray) -> np.ndarray:
    """Return the number [U] of each user among the users for which `in_split` is True."""
    return np.cumsum(in_split) - 1


def copy_plays(
    rows: np.ndarray, prefix: str, sequences: Sequences, first: np.ndarray, end: np.ndarray
) -> None:
    """Fill the sequences of `rows` with the latest of elements first[i] to end[i] - 1.

    The rows are initially zero.
    """
    columns = {n: getattr(sequences, n) for n in _COLUMNS} | dict(sequences.tokens)
    names = [n for n in columns if f"{prefix}{n}" in (rows.dtype.names or ())]
    width = rows.dtype[f"{prefix}title"].shape[0]
    step = max(_CELLS // width, 1)
    for i in range(0, len(rows), step):
        length = np.minimum(end[i : i + step] - first[i : i + step], width)
        row, at = ranges(end[i : i + step] - length, length)
        column = width - (end[i : i + step][row] - at)
        for name in names:
            rows[f"{prefix}{name}"][i + row, column] = columns[name][at]
