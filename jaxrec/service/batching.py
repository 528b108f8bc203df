"""Dynamic batching: one computing thread answers the requests that wait, together.

A batch starts when it is full, or when its first request has waited for the deadline. A request that arrives
while the thread computes joins the next batch. One thread computes, because XLA gives every call all threads
that it has: calls from many threads take turns on them, and every call waits for all others.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jaxrec.service.answers.model import AnswerJob
from jaxrec.service.metrics import Metrics
from jaxrec.service.options import ServiceError, ServiceOptions

_LOG = logging.getLogger(__name__)
BUSY = "the queue is full; send the request again"


@dataclass(eq=False)
class _Waiting:
    """Work that waits: a job of a batch, or a call of its own."""

    work: AnswerJob | Callable[[], Any]
    future: asyncio.Future
    loop: asyncio.AbstractEventLoop
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """Queue of requests and the thread that computes their answers.

    Args:
        options: Limits.
        metrics: Metrics, changed in place.
    """

    def __init__(self, options: ServiceOptions, metrics: Metrics) -> None:
        self._options, self._metrics = options, metrics
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._compute, name="compute", daemon=True)

    def start(self) -> None:
        """Start the computing thread."""
        self._thread.start()

    def stop(self) -> None:
        """Answer what waits, then end the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    async def submit(self, work: AnswerJob | Callable[[], Any]) -> Any:
        """Return the answer to a job of a batch, or the result of a call on the computing thread.

        Raises:
            ServiceError: The queue is full, or the time is over.
        """
        loop = asyncio.get_running_loop()
        one = _Waiting(work, loop.create_future(), loop)
        with self._changed:
            if len(self._waiting) >= self._options.max_queue:
                raise ServiceError(503, f"{len(self._waiting)} requests wait; {BUSY}", retry_after=1)
            self._waiting.append(one)
            self._metrics.queue.set(len(self._waiting))
            self._changed.notify()
        try:
            return await asyncio.wait_for(one.future, self._options.timeout)
        except TimeoutError:
            raise ServiceError(
                504, f"no answer within {self._options.timeout:g} s; send the request again", retry_after=1
            ) from None

    def _compute(self) -> None:
        while (batch := self._take()) is not None:
            started = time.perf_counter()
            results = self._results(batch)
            self._metrics.batch.observe(len(batch))
            self._metrics.compute.observe(time.perf_counter() - started)
            for one, result in zip(batch, results, strict=True):
                one.loop.call_soon_threadsafe(_resolve, one.future, result)

    def _take(self) -> list[_Waiting] | None:
        """Return the next batch of one model, or one call; None after the stop."""
        with self._changed:
            while True:
                while self._waiting and self._waiting[0].future.cancelled():  # its time is over
                    self._waiting.popleft()
                if not self._waiting:
                    if self._stopped:
                        return None
                    self._changed.wait()
                    continue
                first = self._waiting[0]
                most = first.work.model.max_batch if isinstance(first.work, AnswerJob) else 1
                left = first.arrived + self._options.batch_deadline - time.monotonic()
                if len(self._waiting) >= most or left <= 0 or self._stopped:
                    break
                self._changed.wait(left)
            batch = [self._waiting.popleft()]
            while self._waiting and len(batch) < most and _can_join(first, self._waiting[0]):
                batch.append(self._waiting.popleft())
            self._metrics.queue.set(len(self._waiting))
            return batch

    def _results(self, batch: list[_Waiting]) -> list[Any]:
        """Return the result of each, an exception where it failed."""
        try:
            first = batch[0].work
            if not isinstance(first, AnswerJob):
                return [first()]
            return first.model.answer([one.work for one in batch if isinstance(one.work, AnswerJob)])
        except Exception as error:
            if len(batch) == 1:
                if not isinstance(error, ServiceError):
                    _LOG.exception("a request failed")
                return [error]
            # One request must not fail the others of its batch.
            return [result for one in batch for result in self._results([one])]


def _can_join(first: _Waiting, other: _Waiting) -> bool:
    return (
        isinstance(first.work, AnswerJob)
        and isinstance(other.work, AnswerJob)
        and first.work.model is other.work.model
    )


def _resolve(future: asyncio.Future, result: Any) -> None:
    """Give a result to a future that still waits."""
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
