"""Mirror of a local checkpoint directory in a bucket that Orbax cannot write.

Orbax writes only to file systems and gs://, because it does not use the s3 driver of TensorStore. Orbax
therefore writes its steps to a temporary directory on this machine, and the mirror copies them to the bucket.
A step in the bucket counts as complete once its last file has arrived, which is Orbax's own commit marker.
Large items of a step are downloaded only on request.
"""

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from jaxrec.core.paths import Remote, fetch_folder, files, remove_folder, send_folder

COMMIT_FILE = "commit_success.txt"


class BucketMirror:
    """Local directory `folder` with the complete steps of a bucket.

    The large items of a step are absent from `folder` until `fetch` downloads them. `close` deletes `folder`.

    Args:
        remote: The directory of the checkpoints in the bucket.
        large: Names of the items that only `fetch` downloads.
        writable: Delete incomplete steps, which a killed process left in the bucket, and allow `send`.
    """

    def __init__(self, remote: Remote, large: tuple[str, ...], writable: bool) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="jaxrec-checkpoints-"))
        self._remote, self._large = remote, large
        self._not_fetched: set[tuple[str, str]] = set()
        self._transfer: Future | None = None
        self._pool = ThreadPoolExecutor(1)
        names = files(remote)
        steps = {name.partition("/")[0] for name in names}
        self._remote_steps = {step for step in steps if f"{step}/{COMMIT_FILE}" in names}
        for step in sorted(steps):
            if step in self._remote_steps:
                fetch_folder(remote / step, self.folder / step, without=large)
                self._not_fetched |= {(step, item) for item in large}
            elif writable:
                (remote / step).rmtree()

    def fetch(self, step: int, item: str) -> None:
        """Download an item of a step, unless the item is already in `folder`."""
        key = (str(step), item)
        if key in self._not_fetched:
            fetch_folder(self._remote / key[0] / item, self.folder / key[0] / item)
            self._not_fetched.discard(key)

    def delete(self, step: int) -> None:
        """Delete a step from the bucket.

        Call this method after Orbax has deleted the step in `folder` and before Orbax writes it again.
        """
        self.wait()
        if str(step) in self._remote_steps:
            remove_folder(self._remote / str(step), first=COMMIT_FILE)
        self._remote_steps.discard(str(step))
        self._not_fetched -= {(str(step), item) for item in self._large}

    def send(self, wait_until_written: Callable[[], None]) -> None:
        """Synchronize the bucket with `folder` in the background.

        New steps are uploaded, and then the steps that Orbax has deleted are deleted from the bucket. Call
        `wait` before Orbax writes again, because Orbax may then delete a step whose upload is in progress.

        Args:
            wait_until_written: Called first in the background thread; returns once Orbax has written all
                steps.
        """
        self._transfer = self._pool.submit(self._synchronize, wait_until_written)

    def _synchronize(self, wait_until_written: Callable[[], None]) -> None:
        wait_until_written()
        local_steps = {path.name for path in self.folder.iterdir() if path.name.isdigit()}
        for step in sorted(local_steps - self._remote_steps):
            send_folder(self.folder / step, self._remote / step, last=COMMIT_FILE)
            self._remote_steps.add(step)
        for step in sorted(self._remote_steps - local_steps):  # only after the new step is complete
            remove_folder(self._remote / step, first=COMMIT_FILE)
            self._remote_steps.discard(step)

    def wait(self) -> None:
        """Wait until the synchronization has finished, and raise its error if it failed."""
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            transfer.result()

    def close(self) -> None:
        """Wait as `wait` does, then delete `folder`."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()
            shutil.rmtree(self.folder, ignore_errors=True)
