"""Exclusive use of a folder by one process, by a lock of the operating system.

The system releases the lock of a process that dies, so that no lock is ever stale. The lock file names the
host, the process and the time of the start, and disappears at the end.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from absl import logging

from jaxrec.core.errors import InputError
from jaxrec.core.paths import AnyPath

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP)  # errors of file systems without locks


@contextlib.contextmanager
def exclusive(path: AnyPath, what: str, *, wait: bool) -> Iterator[None]:
    """Hold the lock of a file in a block.

    A bucket, and a file system without locks, has no lock, which is logged.

    Args:
        path: Lock file; its folder is created.
        what: Name of what is locked, for messages.
        wait: True: wait for the process that holds the lock. False: raise.

    Raises:
        InputError: Another process holds the lock and `wait` is False, or the file cannot be written.
    """
    if not isinstance(path, Path):
        logging.info("%s: no lock in a bucket; start one process only", what)
        yield
        return
    try:
        file = _acquire(path, what, wait)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise InputError(f"{what}: {path.parent} cannot be written: {error.strerror}") from error
        logging.warning("%s: the file system has no locks; start one process only", what)
        yield
        return
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the release: who waits looks whether it is still there
        file.close()


def _acquire(path: Path, what: str, wait: bool) -> IO[str]:
    """Return the open lock file, locked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(path)
            if not wait:
                file.close()
                raise InputError(f"{what}: is in use by {holder}; allowed: one process at a time") from None
            logging.warning("%s: waiting for %s", what, holder)
            fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            break
        file.close()  # the process before removed the file that was waited for
    file.truncate(0)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    json.dump({"host": socket.gethostname(), "pid": os.getpid(), "since": now}, file)
    file.flush()
    return file


def _holder(path: Path) -> str:
    """Return the process that holds a lock, in words."""
    try:
        content = json.loads(path.read_text())
        return f"process {content['pid']} on {content['host']} since {content['since']}"
    except (OSError, ValueError, KeyError):  # it has just started or ended
        return "another process"
