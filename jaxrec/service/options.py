"""Options of the service: limits of a request, of a batch and of the queue."""

from dataclasses import dataclass


class ServiceError(Exception):
    """Answer to a request that is not served.

    Args:
        status: HTTP status.
        message: One line: the value and what is allowed.
        retry_after: Seconds of the header Retry-After; 0: no such header.
    """

    def __init__(self, status: int, message: str, retry_after: int = 0) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


@dataclass(frozen=True)
class ServiceOptions:
    """Options of the service.

    Attributes:
        max_batch: Most requests of a batch; rounded down to a power of two.
        batch_deadline: Seconds that a request waits for others of its batch, at most.
        timeout: Seconds until a request is answered with an error; also for the arrival of its body.
        max_queue: Most requests that wait.
        max_body: Most bytes of a body.
        max_k: Most titles of a list; the export may allow fewer.
        max_plays: Most plays of a history.
        max_titles: Most titles of `score`, `allow` and `deny`.
        cache_entries: Most answers in the cache; 0: no cache.
        drain: Seconds between a stop signal and the end of new connections.
        reload_every: Seconds between two looks at the manifest; 0: only on SIGHUP.
        token: Bearer token of /v1; empty: open.
        slates: Folder of slates of live events; empty: none are served.
        slate_max_age: Seconds for which devices keep a slate, on average.
        live_log: SQLite file of the messages of live events; empty: there is no stream.
        heartbeat: Seconds between two signs of life of a stream without messages.
        max_streams: Most devices that are connected to the stream.
    """

    max_batch: int = 16
    batch_deadline: float = 0.002
    timeout: float = 5.0
    max_queue: int = 256
    max_body: int = 2**21
    max_k: int = 100
    max_plays: int = 10_000
    max_titles: int = 1000
    cache_entries: int = 10_000
    drain: float = 1.0
    reload_every: float = 5.0
    token: str = ""
    slates: str = ""
    slate_max_age: float = 300.0
    live_log: str = ""
    heartbeat: float = 15.0
    max_streams: int = 10_000
    explained_titles: int = 20  # most titles of a list with reasons
    explained_plays: int = 20  # latest titles of a history whose weight is measured
