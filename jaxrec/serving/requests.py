"""Requests of users: rows for the model, made from watch histories by a checkpoint's vocabulary."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxrec.config.rules.declared.availability import check_ranks_titles
from jaxrec.config.rules.declared.contexts import NULL
from jaxrec.config.rules.declared.signals import PLAY
from jaxrec.config.schema import Config, Tables, Tfds
from jaxrec.core.errors import InputError
from jaxrec.core.hashing import of_keys
from jaxrec.core.ids import FIRST_TITLE, MISSING, PAD
from jaxrec.core.row_format import Layout
from jaxrec.core.rows.sequence_fields import parse_kinds
from jaxrec.core.tables import REGION, TIME, Drops, Interactions, Signals, Titles, Users
from jaxrec.data.columns.context_values import context_values
from jaxrec.data.events.cleaning import COPY, UNKNOWN_TITLE, CleanChunk, clean, drop_copies
from jaxrec.data.events.event_log import Log, TitleStats
from jaxrec.data.events.stored_vocabulary import EncodedColumns, StoredVocabulary
from jaxrec.data.events.user_groups import GROUP_ROWS, Chunk, user_groups, user_keys
from jaxrec.data.examples import requests
from jaxrec.data.examples.histories import BesidePlays
from jaxrec.data.sessions.events import SessionEvents
from jaxrec.data.signals.cleaning import SignalTally, clean_signals
from jaxrec.data.signals.past_values import PastSignals, events_of_plays
from jaxrec.data.signals.records import record_dtype, sort_events
from jaxrec.data.storage.arrays import Arrays
from jaxrec.data.tokens.merging import TokenEvents
from jaxrec.serving.exclusions import Exclusions

LATER = "play at or after the time of the request"


class Requests(NamedTuple):
    """Requests of U users, in the order in which the users first appear."""

    key: np.ndarray  # [U] the caller's users, whole numbers or strings
    rows: np.ndarray  # [U] Layout.query_dtype()
    played: requests.PlayedTitles  # before the requests; `user` is an index into `key`
    region: np.ndarray  # [U] strings, "" where not known

    @property
    def is_empty(self) -> np.ndarray:
        """Mask [U] of users without a known title in their history."""
        return np.bincount(self.played.user, minlength=len(self.key)) == 0


class PastEvents(NamedTuple):
    """Plays of users with other events before their requests, for models that read sessions or signals.

    Attributes:
        plays: Histories, as for `sources.histories.Histories`.
        signals: Table of the events, as for `sources.tabular.past_events.read_past_events`.
    """

    plays: Any
    signals: Any


class TopTitles(NamedTuple):
    """Best titles of U requests, the best first."""

    id: np.ndarray  # [U, k] int32; 0 after the last eligible title
    score: np.ndarray  # [U, k] float32; -inf after the last eligible title
    completion: np.ndarray  # [U, k] float32 predicted completion; NaN without such a head


class Scorer(Protocol):
    """Scorer of requests over the whole catalogue."""

    titles: int  # that can be recommended

    def top(
        self, rows: np.ndarray, k: int, exclusions: Exclusions, by_popularity: np.ndarray | None = None
    ) -> TopTitles:
        """Return the k best eligible titles of each request."""

    def scores(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return the scores [U, N] of the titles `ids` [N] for each request."""

    def embed_users(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors [U, F] of the users of requests."""

    def embed_titles(self) -> np.ndarray:
        """Return the vectors [V, F] of all titles, by id."""

    def report(self) -> dict[str, Any]:
        """Return counts of the ranking as JSON values."""


@dataclass
class RequestCounts:
    """Counts over all requests."""

    users: int = 0
    plays: int = 0  # read, in rows
    skipped: Drops = field(default_factory=Drops)  # plays left out, by reason
    empty_histories: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the counts as values for JSON."""
        return {
            "users": self.users,
            "plays": self.plays,
            "plays_of_unknown_titles": self.skipped.counts.get(UNKNOWN_TITLE, 0),
            "plays_skipped": dict(sorted(self.skipped.counts.items())),
            "empty_histories": self.empty_histories,
        }


class RequestBuilder:
    """Builder of requests from tables of plays and users.

    Args:
        config: Config of the checkpoint.
        layout: Layout of the rows.
        arrays: Arrays of the catalogue.
        categories: Values of each categorical feature, in the order of their ids.

    Raises:
        InputError: The run is offline: a request lacks what its model reads.
    """

    def __init__(self, config: Config, layout: Layout, arrays: Arrays, categories: dict[str, list]) -> None:
        check_ranks_titles(config)
        self._config, self._layout, self._arrays = config, layout, arrays
        self._vocabulary = StoredVocabulary(layout, categories, arrays.title_key)
        names, keys = arrays.title_categories, arrays.title_key
        self._contexts = context_values(config.features, layout, names, {}, keys)
        # Of its own request alone: the values of the last play are not carried over.
        self._own = {f.name for f in config.features if f.kind in ("text", "title") or f.impute != NULL}
        self._titles = Titles(arrays.title_key, arrays.title_runtime)
        self._rank_of_row = arrays.rank_of_id[FIRST_TITLE : FIRST_TITLE + len(keys)].astype(np.int64)
        # Plays at one time are ordered by key: the order of the source's titles is not stored.
        self._order_of_row = np.argsort(np.argsort(arrays.title_key, kind="stable"), kind="stable")
        row_of_rank = arrays.id_of_rank - FIRST_TITLE
        self._catalogue = TitleStats(
            arrays.title_runtime[row_of_rank], arrays.id_of_rank, 0, of_keys(arrays.title_key)[row_of_rank]
        )
        self._has_completion = not isinstance(config.source, Tfds) and (
            not isinstance(config.source, Tables) or bool(config.source.columns.seconds)
        )

    def read(
        self, plays: Any, users: Any = None, now: int | None = None, counts: RequestCounts | None = None,
        group_rows: int = GROUP_ROWS,
    ) -> Iterator[Requests]:  # fmt: skip
        """Yield the requests of all users, in groups of bounded size.

        Args:
            plays: Histories, as for `sources.histories.Histories`; or `PastEvents`.
            users: Users table, or a sequence of users; users without plays are served too.
            now: Time of the requests in milliseconds, where the users table gives no time; plays at or after
                it are left out. None: just after the last play of each user.
            counts: Counts, changed in place.
            group_rows: Rows of plays and users in memory at a time.

        Raises:
            InputError: A table is invalid.
        """
        counts = RequestCounts() if counts is None else counts
        for group in user_groups(self._chunks(plays, users, counts), group_rows):
            built = self.build(group, now, counts)
            counts.users += len(built.key)
            counts.empty_histories += int(built.is_empty.sum())
            yield built

    def _chunks(self, plays: Any, users: Any, counts: RequestCounts) -> Iterator[Chunk]:
        """Yield the chunks of the tables, and count the plays that cannot be parsed."""
        from jaxrec.sources.histories import Histories

        config, arrays, events = self._config, self._arrays, None
        if isinstance(plays, PastEvents):
            plays, events = plays
        histories = Histories(
            config.source, config.stored_features, plays, users, arrays.title_key, arrays.title_runtime,
            config.signals,
        )  # fmt: skip
        yield from histories.interactions()
        counts.skipped.merge(histories.drops)
        counts.plays += sum(histories.drops.counts.values())
        yield from histories.users()
        if events is not None:
            yield from histories.past_events(events, config.signals)

    def build(self, group: Sequence[Chunk], now: int | None, counts: RequestCounts) -> Requests:
        """Build the requests of complete users.

        Args:
            group: All plays of the users, and their rows of the users table.
            now: As in `read`.
            counts: Counts of plays, changed in place.
        """
        plays = [chunk for chunk in group if isinstance(chunk, Interactions)]
        records = self._records(group, counts)
        counts.plays += sum(len(chunk.user) for chunk in plays)
        # A title that cannot be recommended any more is unknown, as it is in preparation.
        has_rank = np.append(self._rank_of_row < len(self._arrays.rank_of_id), False)
        plays = [replace(c, title=np.where(has_rank[c.title], c.title, -1)) for c in plays]
        cleaned = [
            clean(c, self._titles, self._config.data, counts.skipped, self._has_completion) for c in plays
        ]
        keys = np.concatenate([_as_text(user_keys(chunk)) for chunk in group])
        key_hash = np.concatenate([of_keys(user_keys(chunk)) for chunk in group])
        hashes, first = np.unique(key_hash, return_index=True)  # the users of the log are in order of hash
        appearance = np.argsort(first, kind="stable")
        declared = self._users(group, hashes)
        time = declared.time
        if now is not None:
            time = np.where(time == MISSING, now, time)
        log, context = self._log(cleaned, hashes, time, counts)
        first_event = np.searchsorted(log.user, np.arange(len(hashes)))
        last_event = np.searchsorted(log.user, np.arange(len(hashes)), side="right") - 1
        has_plays = last_event >= first_event
        after_last = np.zeros(len(hashes), np.int64)
        after_last[has_plays] = log.time[last_event[has_plays]] + 1
        time = np.where(time == MISSING, after_last, time)
        at_request = self._vocabulary.encode("context", {}, len(hashes))
        for target, source in zip(at_request, context, strict=True):
            target[has_plays] = source[last_event[has_plays]]
        at_request = at_request.replaced_by(declared.context)
        stored = self._contexts.imputed(at_request.categories, ~at_request.has_category)
        log = log._replace(
            user_categories=declared.features.categories, user_numbers=declared.features.numbers,
            context_categories=context.categories, context_numbers=context.numbers,
        )  # fmt: skip
        records, _ = sort_events(records, log.hash, len(self._config.signals))
        rows, played = requests.build(
            log, self._catalogue, self._layout, self._config.data, time,
            (stored, at_request.numbers), self._beside(records, log),
        )  # fmt: skip
        return reordered(Requests(keys[first], rows, played, declared.region), appearance)

    def _records(self, group: Sequence[Chunk], counts: RequestCounts) -> np.ndarray:
        """Return the events of signals, of tables and of columns of plays that the model reads."""
        signals, kinds = self._config.signals, parse_kinds(self._layout.token_kinds)
        names = (*self._layout.history_signals, *(kind.name for kind in kinds if kind.name != PLAY))
        tally, records = SignalTally(), [np.empty(0, record_dtype(signals))]
        for part, chunk in enumerate(group):
            if isinstance(chunk, Users) or (isinstance(chunk, Interactions) and not names):
                continue
            events = chunk if isinstance(chunk, Signals) else events_of_plays(chunk, signals, names)
            records.append(clean_signals(events, signals, self._config.data, tally, part))
        for kind, drops in sorted(tally.dropped().items()):
            for reason, count in drops.counts.items():
                counts.skipped.add(f"event of signal {signals[kind].name}: {reason}", count, "")
        return np.concatenate(records)

    def _beside(self, records: np.ndarray, log: Log) -> BesidePlays:
        """Return the signals of plays, the sessions and the events of tokens, each where rows hold it."""
        layout, declared, signals, sessions, tokens = self._layout, self._config.signals, None, None, None
        id_of_rank = self._catalogue.id_of_rank
        id_of_row = np.arange(len(self._arrays.title_key), dtype=np.int32) + FIRST_TITLE
        if layout.history_signals:
            signals = PastSignals(layout.history_signals, declared, records, log, id_of_rank - FIRST_TITLE)
        if layout.session:
            sessions = SessionEvents(log, records, declared, id_of_rank, id_of_row, self._config.data)
        if layout.token_kinds:
            id_of_row[self._rank_of_row >= len(self._arrays.rank_of_id)] = PAD  # unknown, as in preparation
            tokens = TokenEvents(records, declared, id_of_row, parse_kinds(layout.token_kinds))
        return BesidePlays(signals, None, sessions, tokens)

    def _log(
        self, chunks: list[CleanChunk], hashes: np.ndarray, time_of_user: np.ndarray, counts: RequestCounts
    ) -> tuple[Log, EncodedColumns]:
        """Return the sorted log without duplicates, and the encoded context of its plays."""
        user = np.searchsorted(hashes, _joined([c.user_hash for c in chunks], np.uint64))
        title, time, viewed = (
            _joined([getattr(c, name) for c in chunks], np.int64) for name in ("title", "time", "viewed")
        )
        names = {f.name for f in self._layout.of("context")} - self._own
        columns = [{name: c.context[name] for name in names & c.context.keys()} for c in chunks]
        encoded = [
            self._vocabulary.encode("context", x, len(c.time)) for x, c in zip(columns, chunks, strict=True)
        ]
        encoded = encoded or [self._vocabulary.encode("context", {}, 0)]
        context = EncodedColumns(*(np.concatenate(columns) for columns in zip(*encoded, strict=True)))
        order = drop_copies(
            user, self._order_of_row[title], time, viewed, context.categories, context.numbers
        )
        counts.skipped.add(COPY, len(user) - len(order), "")
        is_past = (time[order] < time_of_user[user[order]]) | (time_of_user[user[order]] == MISSING)
        counts.skipped.add(LATER, int((~is_past).sum()), "")
        order = order[is_past]
        log = Log(
            hashes, np.zeros(len(hashes), np.int8), user[order], self._rank_of_row[title[order]],
            time[order], viewed[order], *4 * [np.empty((0, 0))],
        )  # fmt: skip
        return log, context.select(order)

    def _users(self, group: Sequence[Chunk], hashes: np.ndarray) -> "_DeclaredUsers":
        """Return the values of the users table, in the order of `hashes`."""
        users = len(hashes)
        out = _DeclaredUsers(
            self._vocabulary.encode("user", {}, users),
            self._vocabulary.encode("context", {}, users),
            np.full(users, "", object),
            np.full(users, MISSING),
        )
        seen = np.zeros(users, bool)
        for chunk in group:
            if not isinstance(chunk, Users):
                continue
            at = np.searchsorted(hashes, of_keys(chunk.key))
            if seen[at].any() or len(np.unique(at)) < len(at):
                raise InputError("users: a user has two rows; allowed: one row per user")
            seen[at] = True
            for encoded, where in ((out.features, "user"), (out.context, "context")):
                columns = self._vocabulary.encode(where, chunk.features, len(at))
                for target, source in zip(encoded, columns, strict=True):
                    target[at] = source
            if REGION in chunk.features:
                out.region[at] = chunk.features[REGION].astype(str)
            if TIME in chunk.features:
                out.time[at] = chunk.features[TIME]
        return out._replace(region=out.region.astype(str))


class _DeclaredUsers(NamedTuple):
    """Values of the users table for U users."""

    features: EncodedColumns
    context: EncodedColumns  # of the request
    region: np.ndarray  # [U] strings, "" where missing
    time: np.ndarray  # [U] int64 milliseconds of the request, MISSING where not declared


def reordered(made: Requests, order: np.ndarray) -> Requests:
    """Return the requests in the order `order` [U] of their users."""
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    rows = made.rows[order]
    rows["user"] = np.arange(len(order))
    user = number[made.played.user]
    by_user = np.argsort(user, kind="stable")
    played = requests.PlayedTitles(user, *made.played[1:])
    return Requests(
        made.key[order], rows, requests.PlayedTitles(*(x[by_user] for x in played)), made.region[order]
    )


def _as_text(keys: np.ndarray) -> np.ndarray:
    return np.char.decode(keys, "utf-8") if keys.dtype.kind == "S" else keys


def _joined(columns: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *columns])
