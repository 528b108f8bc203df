"""Per-partition processing: sorting of events and building of rows.

All functions are pure.

All events of a user are in one partition, so that results do not depend on the number of partitions or on
the machine.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxrec.config.rules.declared.tokens import token_kinds
from jaxrec.config.rules.sessions import PLAY
from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, SPLITS, UNKNOWN
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.core.rows.sequence_fields import parse_kinds
from jaxrec.core.tables import Truth
from jaxrec.data.columns.context_values import ContextValues
from jaxrec.data.events import splits
from jaxrec.data.events.cleaning import drop_copies
from jaxrec.data.events.event_log import Log, TitleStats, event_states
from jaxrec.data.events.users import UserKeys, UserTable
from jaxrec.data.events.vocabulary import FeatureColumns
from jaxrec.data.examples import impressions, next_item, ranking, seen_titles, truth_queries
from jaxrec.data.examples.histories import BesidePlays
from jaxrec.data.examples.ranking import Examples
from jaxrec.data.examples.truth_queries import PartitionEvaluation
from jaxrec.data.examples.user_pools import ShownTitles
from jaxrec.data.increments.catalogue import num_ids
from jaxrec.data.increments.selection import TargetSelection
from jaxrec.data.labels.counts import counts_of as counts_of_labels
from jaxrec.data.labels.of_targets import LabelInputs, PartitionLabels, label_titles
from jaxrec.data.sessions.events import SessionEvents
from jaxrec.data.signals.past_values import PastSignals
from jaxrec.data.signals.records import counts_of, sort_events
from jaxrec.data.storage.dataset import Arrays
from jaxrec.data.storage.evaluation_arrays import DailyPlays
from jaxrec.data.text.named_titles import NamedTitles
from jaxrec.data.tokens.merging import TokenEvents

# Counts for the notes; ONLY_NOTED do not enter the manifest and its fingerprint.
KNOWN_USERS = "users of the log in the users table"
BUSIEST_USER = "plays of the busiest user"
PLAYS = "plays of all users"
ONLY_NOTED = (KNOWN_USERS, BUSIEST_USER, PLAYS)
NO_PLAYS = int(np.iinfo(np.int64).min)  # end of a log without plays


class PreparationInputs(NamedTuple):
    """Inputs known before plays are counted.

    V titles, by their rows in the source's catalogue.

    Attributes:
        runtime: [V] minutes.
        key_hash: [V] uint64 hash of each title's key.
        context: Finished columns of the context.
        users: Table that contains the partition's users.
    """

    config: Config
    runtime: np.ndarray
    key_hash: np.ndarray
    context: FeatureColumns
    users: UserTable


class RankedTitles(NamedTuple):
    """Titles by popularity, and the layout of rows, known after counting plays.

    Attributes:
        order: [V] row of the catalogue at each rank.
        rank_of_row: [rows] rank of each row; -1 for a title that is not in the catalogue yet.
        rank_of_id: [ids] rank of each id; the number of ids for an id without a title.
        labels: Inputs of the labels; None where rows have neither labels nor impressions.
        selection: Targets that become rows; None: all.
        contexts: Conversion of the ids of contexts; None where rows store those of the vocabularies.
        names: Titles by the n-grams of their names; None where rows hold no titles that match a text.
    """

    order: np.ndarray
    rank_of_row: np.ndarray
    rank_of_id: np.ndarray
    catalogue: TitleStats
    layout: Layout
    labels: LabelInputs | None = None
    selection: TargetSelection | None = None
    contexts: ContextValues | None = None
    names: NamedTitles | None = None

    def row_of_id(self) -> np.ndarray:
        """Return the row [V] of the catalogue of each title id from FIRST_TITLE on; -1: it has none."""
        rank = self.rank_of_id[FIRST_TITLE:]
        return np.where(
            rank < len(self.order), np.append(self.order, -1)[np.minimum(rank, len(self.order))], -1
        )

    def id_of_row(self) -> np.ndarray:
        """Return the title id of each row [T] of the catalogue; 0 for a title that is not in it yet."""
        return np.append(self.catalogue.id_of_rank, 0)[self.rank_of_row]


class PartitionEvents(NamedTuple):
    """Events of a partition's users.

    Attributes:
        plays: [N] of `partitions.record_dtype`; after `sort` by user, time and title.
        signals: [M] of `signals.records.record_dtype`; after `sort` by user, title and time.
    """

    plays: np.ndarray
    signals: np.ndarray


class SortedPartition(NamedTuple):
    """A sorted partition without duplicates.

    Attributes:
        events: Sorted plays and events of signals.
        plays: Rows of the titles played, one for each (user, title) that training may count.
        copies: Number of duplicates dropped.
        daily_plays: Plays by day, of rows of titles.
        signal_copies: [signals] number of duplicates dropped of each signal.
        end: Time after the last play, in milliseconds; the least int64 without plays.
    """

    events: PartitionEvents
    plays: np.ndarray
    copies: int
    daily_plays: DailyPlays
    signal_copies: np.ndarray
    end: int


def sort(events: PartitionEvents, tables: PreparationInputs) -> SortedPartition:
    """Sort a partition's events, and drop duplicates and the signals of users without plays.

    Args:
        events: Events in any order.
        tables: Inputs of the preparation.
    """
    records = events.plays
    # Ties use final ids: provisional codes depend on the order of rows.
    ties = tables.context.encode(records["categories"], records["numbers"])
    kept = drop_copies(*(records[name] for name in ("user", "title", "time", "viewed")), *ties)
    copies, records = len(records) - len(kept), records[kept]
    log = _events(records, np.arange(len(tables.runtime)), tables)
    counted = _training_events(log, tables)
    # With a split by time, a day's plays are known on the next day, also after the training events.
    daily = np.arange(len(counted)) if tables.config.data.split == "time" else np.flatnonzero(counted)
    pairs, index = np.unique(log.user[daily] * np.int64(2**31) + log.rank[daily], return_index=True)
    first = daily[index]  # the earliest play: the log is sorted by time
    plays = pairs[counted[first]] % 2**31
    days = DailyPlays.of_plays(log.time[first], log.rank[first])
    signals, signal_copies = sort_events(events.signals, log.hash, len(tables.config.signals))
    end = int(log.time.max()) + 1 if len(log.time) else NO_PLAYS
    return SortedPartition(PartitionEvents(records, signals), plays, copies, days, signal_copies, end)


def build(
    events: PartitionEvents,
    tables: PreparationInputs,
    ranked: RankedTitles,
    user_keys: UserKeys,
    truth: Truth | None,
) -> tuple[Examples, PartitionEvaluation]:
    """Build all rows of a partition, and what evaluation reads beside them.

    Args:
        events: Events from `sort`.
        tables: Inputs of the preparation.
        ranked: Titles by popularity, and the layout.
        user_keys: Keys of the partition's held-out users at least.
        truth: Truth of a simulated source, or None.
    """
    log, data = _log(events.plays, tables, ranked), tables.config.data
    noted = {
        KNOWN_USERS: int(np.count_nonzero(tables.users.locate(log.hash)[1])),
        PLAYS: len(log.user),
        BUSIEST_USER: int(np.bincount(log.user, minlength=1).max()),
        **counts_of(events.signals, tables.config.signals, tables.key_hash),
    }
    labels = PartitionLabels(tables.config, log, events.signals, ranked.labels) if ranked.labels else None
    catalogue, layout = ranked.catalogue, ranked.layout
    is_ranking, signals, shown = layout.rows == "ranking", None, None
    if layout.history_signals:
        declared = tables.config.signals
        signals = PastSignals(layout.history_signals, declared, events.signals, log, ranked.order)
    if labels and data.served:
        shown = ShownTitles.of_partition(tables.config, log, events.signals, labels.inputs.rank_of_row)
    if not is_ranking:
        of_tokens = None
        if layout.token_kinds:
            kinds, declared = parse_kinds(layout.token_kinds), tables.config.signals
            of_tokens = TokenEvents(events.signals, declared, ranked.id_of_row(), kinds)
        of_targets = next_item.BesideTargets(labels if layout.labels else None, shown, of_tokens)
        examples = next_item.build(log, catalogue, layout, data, of_targets, ranked.selection)
    elif labels and data.examples == "impressions":
        examples = impressions.build(log, catalogue, layout, labels, signals, ranked.selection)
    else:
        sessions = None
        if layout.session:
            title_ids = catalogue.id_of_rank, ranked.id_of_row()
            sessions = SessionEvents(log, events.signals, tables.config.signals, *title_ids, data)
        beside = BesidePlays(signals, shown, sessions, names=ranked.names)
        examples, universe = ranking.build(log, catalogue, layout, data, labels, beside, ranked.selection)
        titles = truth_queries.ListedTitles(ranked.order, ranked.rank_of_id, layout)
        truth_queries.fill_oracle(examples, log, universe, user_keys, titles, truth, data.targets == "every")
    examples.counts |= noted | counts_of_labels(examples.rows[SPLITS[splits.TRAIN]], layout)
    seen = seen_titles.build(log, examples, catalogue, data, strictly_earlier=is_ranking)
    stored = truth_queries.select(tables.config, truth, log, examples, user_keys)
    return examples, PartitionEvaluation(seen, stored)


def popularity(plays: np.ndarray, present: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """Rank titles by plays.

    Args:
        plays: [rows] plays by row of the catalogue.
        present: [rows] bool, titles in the catalogue; None: all.

    Returns:
        The row [V] at each rank, and the number of first ranks that make up half of all plays.

    Raises:
        InputError: There are no plays.
    """
    if not plays.sum():
        raise InputError("source: no play of a training user remains; allowed: at least one")
    order = np.argsort(-plays, kind="stable")
    if present is not None:
        order = order[present[order]]
    running = np.cumsum(plays[order])
    return order, int(np.searchsorted(running, running[-1] / 2) + 1)


def rank(
    order: np.ndarray,
    trending: int,
    arrays: Arrays,
    key_hash: np.ndarray,
    layout: Layout,
    config: Config,
    log_end: int,
    selection: TargetSelection | None = None,
) -> RankedTitles:
    """Collect the inputs of row building.

    Args:
        order: [V] row at each rank, from `popularity`.
        trending: Number of trending titles, from `popularity`.
        arrays: Arrays of the catalogue.
        key_hash: [V] uint64 hash of the titles' keys, by row.
        layout: Layout of the rows.
        config: Config of the dataset.
        log_end: Time after the last play of all partitions, in milliseconds.
        selection: Targets that become rows; None: all.
    """
    rank_of_row = np.full(len(key_hash), -1)
    rank_of_row[order] = np.arange(len(order))
    runtime = arrays.title_runtime[arrays.id_of_rank - FIRST_TITLE]  # from order of ids to order of ranks
    catalogue = TitleStats(runtime, arrays.id_of_rank, trending, key_hash[order])
    labels = None
    if config.labels or config.data.examples == "impressions" or config.data.served:
        labels = LabelInputs(label_titles(config, arrays, layout.of("title")), rank_of_row, log_end)
    return RankedTitles(order, rank_of_row, arrays.rank_of_id, catalogue, layout, labels, selection)


def layout_of(config: Config, titles: int, *groups: tuple[FeatureSpec, ...]) -> Layout:
    """Return the layout of rows, with the features in declared order.

    Args:
        config: Config of the dataset.
        titles: Number of titles with an id.
        *groups: Feature specs of each table.
    """
    data, features = config.data, config.stored_features
    interaction_specs = tuple(
        FeatureSpec(f.name, f.kind, f.where, f.width) for f in features if f.where == "interaction"
    )
    spec_of = {(s.where, s.name): s for specs in (*groups, interaction_specs) for s in specs}
    ids, declared = num_ids(titles, data.capacity), tuple(spec_of[f.where, f.name] for f in features)
    labels = tuple(label.name for label in config.labels)
    has_gaps = data.capacity > 1 or bool(data.continues)
    if config.rows == "next_item" or data.examples == "impressions":
        kinds = token_kinds(config)
        selects = config.rows == "next_item" and (bool(data.since) or bool(kinds))
        layout = Layout(ids, data.max_history, 1, (0, 0, 0, 0), 0, declared, config.rows, labels)
        layout = replace(layout, has_gaps=has_gaps, selects_targets=selects)
        return replace(layout, token_kinds=kinds, shown=data.served)
    pools = (data.hard, data.trending, data.tailing, data.random, *([data.served] if data.served else []))
    kinds = (PLAY, *(signal.name for signal in config.signals)) if data.session else ()
    layout = Layout(ids, data.max_history, data.num_targets, pools, data.negatives, declared, labels=labels)
    layout = replace(layout, has_gaps=has_gaps, session=data.session, session_kinds=kinds)
    return replace(layout, matching=data.matching)


def _training_events(log: Log, tables: PreparationInputs) -> np.ndarray:
    """Return a mask [N] of the events that training may count.

    `log.rank` is a row of the catalogue here, because ranks are not known yet.
    """
    data = tables.config.data
    target = split = np.empty(0, np.int64)
    if data.split == "last":
        states = event_states(log, tables.runtime)
        if tables.config.rows == "next_item":
            target = next_item.targets(log, states, tables.key_hash, data)
            user, time = log.user[target], log.time[target]
            split = splits.target_splits(data, log.split, log.hash, user, time, next_item.MIN_TITLES)
        else:
            target = ranking.targets(log, states, data)
            split = ranking.target_splits(log, target, tables.key_hash, data)
    return splits.training_events(data, log.split, log.user, log.time, target, split)


def _events(records: np.ndarray, rank_of_row: np.ndarray, tables: PreparationInputs) -> Log:
    """Return the log of sorted records, without features."""
    starts = np.diff(records["user"], prepend=~records["user"][:1]) != 0
    hashes, empty = records["user"][starts], np.empty((0, 0))
    return Log(
        hashes,
        tables.users.splits(hashes, tables.config),
        np.cumsum(starts) - 1,
        rank_of_row[records["title"]],
        records["time"],
        records["viewed"],
        *(empty, empty, empty, empty),
    )


def _log(records: np.ndarray, tables: PreparationInputs, ranked: RankedTitles) -> Log:
    """Return the log of sorted records, with features of users and context."""
    log, layout, users = _events(records, ranked.rank_of_row, tables), ranked.layout, tables.users
    at, known = users.locate(log.hash)
    categories = np.full((len(log.hash), layout.columns("user", "category")), UNKNOWN, np.int32)
    numbers = np.zeros((len(log.hash), layout.columns("user", "number")), np.float32)
    categories[known], numbers[known] = users.categories[at[known]], users.numbers[at[known]]
    context = tables.context.encode(records["categories"], records["numbers"])
    stored = context[0] if ranked.contexts is None else ranked.contexts.stored(context[0])
    return log._replace(
        context_categories=stored,
        context_numbers=context[1],
        user_categories=categories,
        user_numbers=numbers,
    )
