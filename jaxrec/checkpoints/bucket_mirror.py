"""Checkpoints in a bucket that Orbax cannot write: written and read on this machine, and copied whole.

Orbax writes to file systems and gs:// alone: TensorStore's s3 driver is not among what it asks for. So its
steps lie in a temporary folder here, and the bucket holds the same steps, each of which counts once its last
file, Orbax's own sign that a step is complete, has come. What is large in a step is fetched when asked for.
"""

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from jaxrec.core.paths import Remote, fetch_folder, files, remove_folder, send_folder

SIGN = "commit_success.txt"


class BucketMirror:
    """The complete steps of `remote`, in `folder`, without their items `large` until `fetch` is called.

    With `sending`, what a killed process left half there goes first, and `send` may be called. `close` it:
    the folder goes.
    """

    def __init__(self, remote: Remote, large: tuple[str, ...], sending: bool) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="jaxrec-checkpoints-"))
        self._remote, self._large = remote, large
        self._lacking: set[tuple[str, str]] = set()
        self._under_way: Future | None = None
        self._pool = ThreadPoolExecutor(1)
        names = files(remote)
        steps = {name.partition("/")[0] for name in names}
        self._there = {step for step in steps if f"{step}/{SIGN}" in names}
        for step in sorted(steps):
            if step in self._there:
                fetch_folder(remote / step, self.folder / step, without=large)
                self._lacking |= {(step, item) for item in large}
            elif sending:
                (remote / step).rmtree()

    def fetch(self, step: int, item: str) -> None:
        """Copies an item of a step here, unless it is here."""
        key = (str(step), item)
        if key in self._lacking:
            fetch_folder(self._remote / key[0] / item, self.folder / key[0] / item)
            self._lacking.discard(key)

    def delete(self, step: int) -> None:
        """Takes a step out of the bucket that Orbax has removed here and is about to write again."""
        self.wait()
        if str(step) in self._there:
            remove_folder(self._remote / str(step), first=SIGN)
        self._there.discard(str(step))
        self._lacking -= {(str(step), item) for item in self._large}

    def send(self, written: Callable[[], None]) -> None:
        """Once `written` returns, which waits for Orbax, makes the bucket hold the folder's steps: copies
        what is new, and takes away what Orbax has removed. Returns at once: `wait` before Orbax writes again,
        for it may then remove what is on its way."""
        self._under_way = self._pool.submit(self._send, written)

    def _send(self, written: Callable[[], None]) -> None:
        written()
        here = {path.name for path in self.folder.iterdir() if path.name.isdigit()}
        for step in sorted(here - self._there):
            send_folder(self.folder / step, self._remote / step, last=SIGN)
            self._there.add(step)
        for step in sorted(self._there - here):  # only once the new one is complete
            remove_folder(self._remote / step, first=SIGN)
            self._there.discard(step)

    def wait(self) -> None:
        """Until all is sent; raises the error of what failed."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._pool.shutdown()
            shutil.rmtree(self.folder, ignore_errors=True)
