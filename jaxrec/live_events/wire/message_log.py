"""Compacted log of messages in SQLite: what a device that missed everything has to receive.

Rows keep the order in which messages were appended. Rows that a newer message makes void for every device
are deleted in the transaction that appends it (`core.live.states.join_message`). Epoch and counter of the
producer are rows too, so that they survive a restart of the producer and of the machine.
"""

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import TracebackType

from jaxrec.core.errors import InputError
from jaxrec.core.json_io import dumps
from jaxrec.core.live.producer import Producer, take_over
from jaxrec.core.live.states import Message, join_all, message_of

# Returns the producer after a change, and the messages to send.
Change = Callable[[Producer], tuple[Producer, list[Message]]]

_TABLES = """
CREATE TABLE IF NOT EXISTS log (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY AUTOINCREMENT, message TEXT NOT NULL);
"""
_BUSY_SECONDS = 10.0  # that a writer waits for another one


class MessageLog:
    """Log of messages; several processes may read and append at a time.

    Args:
        path: SQLite file, which is made where it is missing; its folder must exist.

    Raises:
        InputError: The file cannot be opened, or is no log.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self._path = Path(path)
        try:
            self._db = sqlite3.connect(self._path, _BUSY_SECONDS, isolation_level=None)
            # Readers do not wait for the writer, and the writer does not wait for readers.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(_TABLES)
            own = ("name", os.urandom(8).hex())  # another file has other positions
            self._db.execute("INSERT OR IGNORE INTO log VALUES (?, ?)", own)
            self.name = self._value("name")
        except sqlite3.Error as error:
            raise self._unreadable(error) from None

    def __enter__(self) -> "MessageLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def change(self, change: Change) -> list[Message]:
        """Append the messages of a change, and return them; nothing is written where the change raises.

        Args:
            change: Called with the producer that the log holds.
        """
        with closing(self._db.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")  # no other producer reads the counter until the end
            try:
                producer, messages = change(self._producer())
                cursor.executemany(
                    "INSERT INTO messages (message) VALUES (?)", [(dumps(m.to_json()),) for m in messages]
                )
                kept = {m for of_event in producer.log.values() for m in of_event}
                void = [(id_,) for id_, message in self.since(0) if message not in kept]
                cursor.executemany("DELETE FROM messages WHERE id = ?", void)
                state = {"epoch": producer.epoch, "counter": producer.counter}
                cursor.executemany("INSERT OR REPLACE INTO log VALUES (?, ?)", state.items())
                cursor.execute("COMMIT")
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
        return messages

    def take_over(self) -> Producer:
        """Begin a new epoch, as a producer does that replaces one which may still send."""
        self.change(lambda old: (take_over([m for _, m in self.since(0)], old.epoch), []))
        return self._producer()

    def since(self, position: int) -> list[tuple[int, Message]]:
        """Return the messages after a position, in order, with their positions.

        Raises:
            InputError: The file was changed by something else.
        """
        try:
            rows = self._db.execute("SELECT id, message FROM messages WHERE id > ? ORDER BY id", (position,))
            return [(id_, message_of(json.loads(text))) for id_, text in rows]
        except (sqlite3.Error, ValueError) as error:
            raise self._unreadable(error) from None

    def _producer(self) -> Producer:
        log = join_all({}, (message for _, message in self.since(0)))
        return Producer(int(self._value("epoch", "1")), int(self._value("counter", "0")), log)

    def _value(self, name: str, default: str = "") -> str:
        row = self._db.execute("SELECT value FROM log WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else default

    def _unreadable(self, error: Exception) -> InputError:
        return InputError(f"log {self._path}: {error}; allowed: a log of live messages, or a new file")
