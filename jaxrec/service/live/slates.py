"""Slates of a folder for the service: payloads in memory, found by event, stage, region and segment."""

import random
from typing import Any

from jaxrec.core.errors import InputError
from jaxrec.live_events.slates.folder import payload_of, read_manifest, read_payload
from jaxrec.service.options import ServiceError

_JITTER = 0.2  # of max-age, drawn for each answer: devices that began together do not refresh together


class LiveSlates:
    """Slates of a folder that `python -m jaxrec.live slates` wrote.

    Args:
        folder: The folder.
        max_age: Seconds for which a device keeps a slate, on average.

    Raises:
        InputError: The folder is incomplete or damaged.
    """

    def __init__(self, folder: str, max_age: float) -> None:
        self.manifest, self._max_age = read_manifest(folder), max_age
        self._payloads = {p["hash"]: read_payload(folder, p["hash"]) for p in self.manifest["payloads"]}
        self._segments = {name: i for i, name in enumerate(self.manifest["segments"]["names"])}

    def find(self, segment: str, event: str, stage: str, region: str) -> tuple[str, bytes]:
        """Return the hash and the content of a payload.

        Args:
            segment: Number or name of a segment.
            event: Id of an event.
            stage: Stage of the event.
            region: Region of the device.

        Raises:
            ServiceError: There is no such slate.
        """
        number: Any = self._segments.get(segment)
        if number is None and segment.isdecimal() and len(segment) < 10:
            number = int(segment)
        if number is None:
            allowed = f"0 to {len(self._segments) - 1}, or the name of a segment, such as default"
            raise ServiceError(404, f"segment={segment!r:.60}; allowed: {allowed}")
        try:
            name = payload_of(self.manifest, event, stage, region, number)
        except InputError as error:
            raise ServiceError(404, str(error)) from None
        return name, self._payloads[name]

    def headers(self, name: str) -> dict[str, str]:
        """Return the headers of a payload: its hash, and for how long it may be kept."""
        seconds = round(self._max_age * random.uniform(1 - _JITTER, 1 + _JITTER))
        return {"ETag": f'"{name}"', "Cache-Control": f"public, max-age={seconds}"}
