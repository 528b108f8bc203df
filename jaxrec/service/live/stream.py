"""Stream of live messages to devices: server-sent events, replayed from the log after a position.

The id of an event of the stream is LOG:POSITION. A device that reconnects sends the last one as
Last-Event-ID, and receives the messages after it that are not void. With the id of another log it receives
all of them. Delivery is at least once; `core.live.states.apply` makes duplicates and any order harmless.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable

from jaxrec.core.errors import InputError
from jaxrec.core.json_io import dumps
from jaxrec.core.live.states import ENDED, Message, Messages, in_force, join_all
from jaxrec.live_events.wire.message_log import MessageLog
from jaxrec.service.options import ServiceError

_POLL = 0.05  # seconds between two looks at the log, which take some 20 microseconds
_MOST_WAITING = 256  # pieces for a slow device, which is then cut off and replays
_RETRY = (1000, 5000)  # milliseconds until a device reconnects: spread, so that no storm of them follows
_log = logging.getLogger(__name__)


class LiveStream:
    """Messages of a log, sent to all connected devices by the event loop's thread.

    Args:
        path: SQLite file of the log.
        most: Most devices at a time.
        heartbeat: Seconds without a message after which a comment is sent, so that dead connections end.
        is_stopping: Returns True after a stop signal; streams end then.

    Raises:
        InputError: The file is no log.
    """

    def __init__(self, path: str, most: int, heartbeat: float, is_stopping: Callable[[], bool]) -> None:
        self._log, self._most, self._heartbeat = MessageLog(path), most, heartbeat
        self._is_stopping = is_stopping
        self._devices: set[asyncio.Queue[bytes | None]] = set()
        self._position = 0
        self._messages: Messages = {}
        self._task: asyncio.Task | None = None
        self._read()

    def __len__(self) -> int:
        return len(self._devices)

    def start(self) -> None:
        """Start to read the log; called on the event loop."""
        self._task = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """End all streams, and close the log."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._end_streams()
        self._log.close()

    def is_withheld(self, event: str, stage: str) -> bool:
        """Return True for what no message in force has revealed: the content after the end of an event."""
        message = in_force(self._messages.get(event, ()), time.time())
        return stage == ENDED and (message is None or message.state != ENDED)

    async def events(self, last_id: str) -> AsyncIterator[bytes]:
        """Yield the bytes of a stream for one device.

        Args:
            last_id: Header Last-Event-ID; "" for none.
        """
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_MOST_WAITING)
        # No await between both: the messages after the replay come by the queue.
        replay = [(i, m) for i, m in self._log.since(self._after(last_id)) if i <= self._position]
        self._devices.add(queue)
        try:
            yield f"retry: {random.randint(*_RETRY)}\n\n".encode() + b"".join(
                self._encode(i, message) for i, message in replay
            )
            while True:
                try:
                    async with asyncio.timeout(self._heartbeat):
                        content = await queue.get()
                except TimeoutError:
                    content = b": heartbeat\n\n"
                if content is None:
                    return
                yield content
        finally:
            self._devices.discard(queue)

    def check_room(self) -> None:
        """Raise ServiceError where no further device is served."""
        if self._is_stopping() or len(self._devices) >= self._most:
            reason = "the service is stopping" if self._is_stopping() else "too many devices are connected"
            raise ServiceError(503, f"{reason}; connect again", retry_after=random.randint(1, 5))

    def _after(self, last_id: str) -> int:
        """Return the position of an id; 0 for one of another log, and for a text that is no id."""
        name, _, position = last_id.rpartition(":")
        known = name == self._log.name and position.isdecimal() and len(position) < 19
        return min(int(position), self._position) if known else 0

    def _encode(self, position: int, message: Message) -> bytes:
        return f"id: {self._log.name}:{position}\ndata: {dumps(message.to_json())}\n\n".encode()

    def _read(self) -> list[tuple[int, Message]]:
        """Return the messages since the last call."""
        rows = self._log.since(self._position)
        if rows:
            self._position = rows[-1][0]
            self._messages = join_all(self._messages, (message for _, message in rows))
        return rows

    async def _poll(self) -> None:
        while not self._is_stopping():
            await asyncio.sleep(_POLL)
            try:
                rows = self._read()
            except InputError as error:  # devices stay connected, and the next look may do
                _log.warning("live messages: %s", error)
                continue
            if rows:  # in one piece: a device costs as much for two messages as for one
                self._send(b"".join(self._encode(position, message) for position, message in rows))
        self._end_streams()

    def _send(self, content: bytes) -> None:
        for queue in [*self._devices]:
            try:
                queue.put_nowait(content)
            except asyncio.QueueFull:
                self._cut_off(queue)

    def _cut_off(self, queue: asyncio.Queue[bytes | None]) -> None:
        """End the stream of a device; what waits for it is in the log."""
        self._devices.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)

    def _end_streams(self) -> None:
        for queue in [*self._devices]:
            self._cut_off(queue)
