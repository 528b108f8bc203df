"""File of TensorBoard events, written in the calling thread.

`tensorboardX.SummaryWriter` flushes in a thread of its own, and once more when Python exits. On a full disk
both print a traceback beside the error that the run reports.
"""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar


class EventFile:
    """New file of events in a folder.

    Args:
        folder: Folder of the files; it is created.
        first: Step from which on TensorBoard discards the events of earlier files.
    """

    def __init__(self, folder: Path, first: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=first, session_log=start))

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write and flush values by tag; "@", which tags cannot hold, becomes "_"."""
        for name, value in values.items():
            summary = scalar(name.replace("@", "_"), value)
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()
