"""Cache of answers by user, history and settings, bounded in entries, the least recent out first."""

import hashlib
from collections import OrderedDict


def cache_key(model: str, route: str, request: bytes) -> bytes:
    """Return the key of an answer.

    Args:
        model: Fingerprint of the export.
        route: Route of the request.
        request: Canonical JSON of the parsed request: user, history, features, time and settings.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in (model.encode(), route.encode(), request):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


class AnswerCache:
    """Cache of the least recently used kind; used by one thread.

    Args:
        entries: Most answers; 0: nothing is kept.
    """

    def __init__(self, entries: int) -> None:
        self._entries, self._answers = entries, OrderedDict[bytes, bytes]()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: bytes) -> bytes | None:
        """Return an answer and mark it as the most recent; None without one."""
        if key in self._answers:
            self._answers.move_to_end(key)
        return self._answers.get(key)

    def put(self, key: bytes, answer: bytes) -> None:
        """Keep an answer, and drop the least recent above the bound."""
        self._answers[key] = answer
        self._answers.move_to_end(key)
        while len(self._answers) > self._entries:
            self._answers.popitem(last=False)

    def clear(self) -> None:
        """Drop all answers."""
        self._answers.clear()
