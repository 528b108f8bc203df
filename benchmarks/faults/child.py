"""Training process with a fault inside: python -m benchmarks.faults.child FAULTS ARGUMENTS.

FAULTS is a JSON object: `raise_at` (the read of rows, counted from 1, that raises in its thread) with
`error` ("EIO" or "defect"), `nonfinite_at` (the batch whose completions are NaN), `clock` (seconds that the
clock is ahead). The rest are arguments of `python -m jaxrec.train`. Nothing in jaxrec is made for this.
"""

import errno
import itertools
import json
import os
import runpy
import sys
import time
from typing import Any

import numpy as np


def _raise_in_reader(number: int, error: str) -> None:
    from jaxrec.data.storage.dataset import Rows

    read_into, reads = Rows.read_into, itertools.count(1)

    def read_or_raise(self: Rows, *args: Any) -> None:
        if next(reads) == number:
            if error == "EIO":
                raise OSError(errno.EIO, os.strerror(errno.EIO), "train-00000.rows")
            raise RuntimeError("planted: a defect in a reading thread")
        return read_into(self, *args)

    Rows.read_into = read_or_raise  # type: ignore[method-assign, assignment]


def _write_nan(batch: int) -> None:
    from jaxrec.data.loading.batches import TrainBatches

    get_batch = TrainBatches.__getitem__

    def batch_with_nan(self: TrainBatches, t: int) -> Any:
        out = get_batch(self, t)
        if int(t) == batch:
            rows = out.words.view(self._rows.dtype)
            rows["history_completion"] = np.nan
            rows["target_completion"] = np.nan
        return out

    TrainBatches.__getitem__ = batch_with_nan  # type: ignore[method-assign]


def _set_clock(ahead: float) -> None:
    clock, clock_ns = time.time, time.time_ns
    time.time = lambda: clock() + ahead
    time.time_ns = lambda: clock_ns() + int(ahead * 1e9)


def main(faults: dict[str, Any]) -> None:
    """Plant the faults, and train."""
    if "clock" in faults:
        _set_clock(faults["clock"])
    if "raise_at" in faults:
        _raise_in_reader(faults["raise_at"], faults["error"])
    if "nonfinite_at" in faults:
        _write_nan(faults["nonfinite_at"])
    runpy.run_module("jaxrec.train", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(json.loads(sys.argv.pop(1)))
