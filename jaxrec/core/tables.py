"""Tables of a data source, and the ground truth of a simulator."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

REGION = "region"  # column of the users table that licences are read by
TIME = "time of the request"  # feature name of the column of the users table with the name of the plays' time

# ---------------------------------------------------------------- the tables of a source


class Lists(NamedTuple):
    """List-valued column: row i holds values[offsets[i]:offsets[i + 1]].

    Attributes:
        values: [sum of lengths] concatenated lists.
        offsets: [rows + 1] int64, ascending.
    """

    values: np.ndarray
    offsets: np.ndarray


@dataclass
class Titles:
    """Catalogue of titles.

    `features` holds the raw column of each title feature, with one entry per row of `key`. Raw columns of
    titles, users and context alike are of two kinds: numbers are float64, NaN where missing; categories are
    strings, "" where missing, or int64, MISSING where missing.

    Attributes:
        key: [V] the source's ids, unique whole numbers or strings.
        runtime: [V] float64 minutes; 0 or NaN where missing.
        features: Feature name -> raw column [V].
        launched: [V] int64 milliseconds since 1970 from which each title is in the catalogue; None: always.
        of_log: True if the titles are those of the log, so that a title exists from its first event on.
    """

    key: np.ndarray
    runtime: np.ndarray
    features: dict[str, np.ndarray | Lists] = field(default_factory=dict)
    launched: np.ndarray | None = None
    of_log: bool = False


@dataclass
class Users:
    """Chunk of users.

    A user absent from all chunks has unknown features and is assigned to a split by hash.

    Attributes:
        key: [U] whole numbers or strings, which may be UTF-8 bytes.
        features: Feature name -> raw column [U].
        split: [U] int8 index into SPLITS, -1 for "by hash"; None: all by hash.
        file: File that the chunk was read from, for error messages.
        row: [U] int64 row in `file`, counted from 1 without the header.
    """

    key: np.ndarray
    features: dict[str, np.ndarray] = field(default_factory=dict)
    split: np.ndarray | None = None
    file: str = "users table"
    row: np.ndarray | None = None


@dataclass
class Interactions:
    """Chunk of watch events, in any order.

    `seconds` is NaN throughout where the source has no watch time (ratings).

    Attributes:
        user: [N] same type as Users.key.
        title: [N] int64 row of Titles, -1 for a title missing from the catalogue.
        time: [N] int64 milliseconds since 1970, UTC.
        seconds: [N] float64 seconds viewed.
        context: Feature name -> raw column [N].
        file: File that the chunk was read from, for error messages.
        row: [N] int64 row in `file`, counted from 1 without the header.
        names: Role ("user", "title", "time", "seconds") -> column name.
        unknown: First key of the chunk that is missing from the catalogue.
    """

    user: np.ndarray
    title: np.ndarray
    time: np.ndarray
    seconds: np.ndarray
    context: dict[str, np.ndarray] = field(default_factory=dict)
    file: str = ""
    row: np.ndarray | None = None
    names: dict[str, str] = field(default_factory=dict)
    unknown: str = ""


@dataclass
class Signals:
    """Chunk of events beside plays, of one or several kinds, in any order.

    Attributes:
        user: [N] same type as Users.key.
        title: [N] int64 row of Titles; -1 for a title missing from the catalogue, and for events without one.
        time: [N] int64 milliseconds since 1970, UTC.
        kind: [N] int8 index into the config's `signals`.
        value: [N] float32; 1 for "event", seconds for "seconds", 0 for "text".
        text: [N] UTF-8 bytes or strings, "" for kinds without text; None: no kind of the chunk has text.
        file: File that the chunk was read from, for error messages.
        row: [N] int64 row in `file`, counted from 1 without the header.
        names: "user", "title", "time", or the name of a signal for its values -> column name.
        unknown: First key of the chunk that is missing from the catalogue.
        unreadable: Kind -> events that the reader could not parse, which are not among the N.
    """

    user: np.ndarray
    title: np.ndarray
    time: np.ndarray
    kind: np.ndarray
    value: np.ndarray
    text: np.ndarray | None = None
    file: str = ""
    row: np.ndarray | None = None
    names: dict[str, str] = field(default_factory=dict)
    unknown: str = ""
    unreadable: "dict[int, Drops]" = field(default_factory=dict)


@dataclass
class Drops:
    """Numbers of dropped rows by reason, with examples for error messages.

    Attributes:
        counts: Reason -> number of rows.
        examples: Reason -> file, row, column and value of the first row.
        kept: Property -> number of rows that have it and are kept, such as a watch time above the runtime.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)

    def add(self, reason: str, count: int, example: str) -> None:
        """Add `count` dropped rows.

        Args:
            reason: Key of `counts` and `examples`.
            count: Number of rows, 0 for none.
            example: File, row, column and value of one of the rows.
        """
        if count:
            self.counts[reason] = self.counts.get(reason, 0) + int(count)
            self.examples.setdefault(reason, example)

    def add_kept(self, name: str, count: int) -> None:
        """Add `count` kept rows that have the property `name`."""
        self.kept[name] = self.kept.get(name, 0) + int(count)

    def merge(self, other: "Drops") -> None:
        """Add the rows of another instance."""
        for reason, count in other.counts.items():
            self.add(reason, count, other.examples[reason])
        for name, count in other.kept.items():
            self.add_kept(name, count)


class Truth(Protocol):
    """Ground truth of a simulator, for the oracle fields of the evaluation rows."""

    def densities(
        self, user: np.ndarray, time: np.ndarray, title: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return two densities over titles for each example.

        Both densities are conditioned on the user's latent state.

        Args:
            user: [N] keys of users.
            time: [N] milliseconds.
            title: [N, C] rows of Titles.

        Returns:
            p: [N, C] probability density of the title as the next one played and not abandoned; the
                normaliser may be any constant of the example.
            a: [N, C] probability that a title drawn uniformly from the titles abandoned by the user before
                `time` is this one, without knowledge of the abandoned titles; sums to 1 over the catalogue.
        """

    def mood(self, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return the influence of the user's current mood on the next choice.

        Args:
            user: [N] keys of users.
            time: [N] milliseconds.

        Returns:
            [N] in [0, 1]: total variation between the densities of the next play with and without the mood.
        """

    def choice(self, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return the probability of each title as the next play, whatever becomes of it.

        The plays before are known, those of abandoned titles too.

        Args:
            user: [N] keys of users.
            time: [N] milliseconds.

        Returns:
            [N, V] by rows of Titles; sums to 1.
        """

    def shown(
        self, user: np.ndarray, time: np.ndarray, title: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return three densities of titles at requests with a slate; the plays before are known.

        Args:
            user: [N] keys of users.
            time: [N] milliseconds.
            title: [N, C] rows of Titles that were not played before.

        Returns:
            [N, C] each: as the next play if it is not abandoned, as the next play, and the expected number of
            times that an impression of the slate shows the title without its being chosen.
        """

    def reward(self, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return the reward [N, V] in [0, 1] of each title, if it is played; arguments as of `choice`."""

    def labels(
        self, user: np.ndarray, time: np.ndarray, title: np.ndarray, labels: Sequence[Any]
    ) -> np.ndarray:
        """Return the expectations of labels.

        Args:
            user: [N] keys of users.
            time: [N] milliseconds.
            title: [N, C] rows of Titles.
            labels: Declared labels of the config.

        Returns:
            [N, C, labels]; NaN where a label has no closed form.
        """


class WithoutSignals:
    """Methods of a source that has no signals, to inherit from."""

    def signal_parts(self) -> tuple[Any, ...]:
        """Return no part."""
        return ()

    def signals(self, part: Any = None) -> Iterator[Signals]:
        """Yield nothing."""
        return iter(())


class Source(Protocol):
    """Reader of interaction logs.

    Two iterations give the same rows. A source is pickled, together with the titles already read, to be sent
    to the workers that read its parts.

    Attributes:
        has_completion: False: no watch time, hence no hard negatives and no personalised loss.
        drops: Rows that the reader could not parse; filled while `interactions` is iterated.
    """

    has_completion: bool
    drops: Drops

    def titles(self) -> Titles:
        """Return the catalogue."""
        ...

    def users(self) -> Iterator[Users]:
        """Yield the users in chunks; nothing without a users table."""
        ...

    def parts(self) -> tuple[Any, ...]:
        """Return descriptions of the parts of the log that can be read independently.

        The descriptions are plain values, in the order of the log. No interaction is read.
        """

    def interactions(self, part: Any = None) -> Iterator[Interactions]:
        """Yield the interactions of one part, or of all parts in order.

        Both ways give the same chunks.
        """

    def signal_parts(self) -> tuple[Any, ...]:
        """Return descriptions of the parts of the signals that can be read independently, as `parts`."""
        ...

    def signals(self, part: Any = None) -> Iterator[Signals]:
        """Yield the events of one part of `signal_parts`, or of all parts in order.

        Both ways give the same chunks.
        """
        ...

    def truth(self) -> Truth | None:
        """Return the ground truth, or None for a real log."""
        ...

    def files(self) -> list[str]:
        """Return the files that the rows come from; none for a simulator."""
        ...
