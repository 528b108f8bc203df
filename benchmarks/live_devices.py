"""Devices with real connections, and the service as a process, for `benchmarks.live_wire`."""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.core.live.states import (
    STATES,
    DeviceState,
    Message,
    advance,
    apply,
    message_of,
    store_content,
    view,
)
from jaxrec.live_events.fleet.requests import backoff_bounds
from jaxrec.live_events.scenario import Retries
from jaxrec.live_events.wire.command import publish_action
from jaxrec.live_events.wire.message_log import MessageLog

SHARES = {"50%": 0.5, "99%": 0.99, "all": 1.0}
RETRIES = Retries()
_EVERY = 0.02  # seconds between two looks at all devices
_LONGEST = 300.0  # seconds until all devices must have a message


class Device:
    """Device with one connection, which reconnects as the devices of the simulation do.

    Attributes:
        window: Seconds over which devices spread their first attempt after a connection has ended.
        connected_at: Time of the last connection.
        connections: Number of connections.
        received: Number of messages that came, those that were there already included.
        changed: (event, seq) -> time when the message was displayed first.

    Args:
        port: Port of the service.
        events: Ids of events whose slates it has already.
    """

    def __init__(self, port: int, events: tuple[str, ...]) -> None:
        self.state, self.last_id, self.connections, self.received = DeviceState(), "", 0, 0
        self.changed: dict[tuple[str, Any], float] = {}
        self.window, self.connected_at = 0.0, 0.0
        self._port, self._events, self._rng = port, events, np.random.default_rng()
        self._writer: asyncio.StreamWriter | None = None
        for event in events:
            for stage in STATES:
                self.state = store_content(self.state, event, stage)

    async def run(self) -> None:
        """Receive messages until the task is cancelled."""
        attempt = 0
        while True:
            before = self.connections
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._connect()
            # The service refused, or it has ended a connection.
            attempt = attempt + 1 if self.connections == before else 0
            bound = float(backoff_bounds(RETRIES, np.array([attempt - 1]))[0]) if attempt else self.window
            await asyncio.sleep(self._rng.uniform(0, bound))

    def drop(self) -> None:
        """Break the connection."""
        if self._writer is not None:
            self._writer.transport.abort()

    async def _connect(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer = writer
        try:
            lines = f"GET /v1/live HTTP/1.1\r\nHost: device\r\nLast-Event-ID: {self.last_id}\r\n\r\n"
            writer.write(lines.encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.split(b"\r\n", 1)[0]:
                return
            self.connections, self.connected_at = self.connections + 1, time.time()
            while size := int(await reader.readuntil(b"\r\n"), 16):  # chunks of whole events
                self._read((await reader.readexactly(size + 2)).decode())
        finally:
            writer.close()

    def _read(self, text: str) -> None:
        for id_, data in re.findall(r"id: (\S+)\ndata: (.*)\n\n", text):
            self.last_id, self.received = id_, self.received + 1
            self.state = apply(self.state, message_of(json.loads(data)))
            self.look(time.time())

    def look(self, now: float) -> None:
        """Read the clock, and note what is displayed."""
        self.state = advance(self.state, now)
        for event in self._events:
            shown = view(self.state, event)
            self.changed.setdefault((event, shown.seq), now)


class Wire:
    """Service as a process, with its log, and devices that are connected to it.

    Args:
        export: Folder of an export.
        slates: Folder of slates.
        folder: Folder for the log.
    """

    def __init__(self, export: str, slates: str, folder: str) -> None:
        self.export, self.slates, self.log_path = export, slates, Path(folder) / "live.sqlite"
        self.log, self.port, self.devices = MessageLog(self.log_path), 0, list[Device]()
        self._process: subprocess.Popen | None = None
        self._tasks: list[asyncio.Task] = []
        self._sent: list[Message] = []

    def start(self) -> None:
        """Start the service, on the same port each time."""
        words = [
            "-m", "jaxrec.serve", "--export", self.export, "--slates", self.slates, "--live_log",
            self.log_path, "--port", self.port, "--max_batch", 1, "--drain", 0, "--heartbeat", 5,
        ]  # fmt: skip
        env = os.environ | {"JAX_PLATFORMS": "cpu"}
        command = [sys.executable, *map(str, words)]
        self._process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        address = re.search(r"http://\S+:(\d+)", line)
        assert address, f"the service ended with status {self._process.wait()}"
        self.port = int(address[1])
        while self._process.poll() is None and self._status() is None:  # it prints the address, then listens
            time.sleep(_EVERY)

    def wait_until_ready(self) -> None:
        """Wait until the service has compiled its programs: XLA ends a process with an abort meanwhile."""
        assert self._process is not None
        while self._process.poll() is None and self._status() != 200:
            time.sleep(_EVERY)

    def stop(self) -> int:
        """Stop the service, and return its status."""
        assert self._process is not None
        try:
            self.wait_until_ready()
            self._process.terminate()
            return self._process.wait(30)
        finally:
            self._process.kill()
            assert self._process.stdout is not None
            self._process.stdout.close()

    def _status(self) -> int | None:
        """Return the status of /readyz; None where no service answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz") as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except urllib.error.URLError:
            return None

    async def connect(self, number: int, event: str) -> None:
        """Connect further devices, and wait until all are."""
        new = [Device(self.port, (event,)) for _ in range(number)]
        self.devices += new
        for i, device in enumerate(new):
            self._tasks.append(asyncio.create_task(device.run()))
            if i % 100 == 99:
                await asyncio.sleep(0.05)  # the backlog of a listening socket is 2,048
        await self.until(lambda d: d.connections > 0)

    async def until(self, done: Any, looks_from: float = np.inf) -> None:
        """Wait until a condition holds for every device; from a time on, all read their clocks meanwhile."""
        end = time.time() + _LONGEST
        while not all(done(device) for device in self.devices):
            assert time.time() < end, "some devices did not get there"
            await asyncio.sleep(_EVERY)
            now = time.time()
            if now >= looks_from:  # a look of 2,000 devices takes some 40 ms
                for device in self.devices:
                    device.look(now)

    def spread(self, window: float) -> None:
        """Set the window of the first attempts of all devices, seconds."""
        for device in self.devices:
            device.window = window

    def drop(self) -> None:
        """Break all connections."""
        for device in self.devices:
            device.drop()

    async def send(self, event: str, action: str, delay: float = 0.0) -> list[np.ndarray]:
        """Publish an action, and return the ascending seconds until devices display each of its messages.

        Args:
            event: Id of the event.
            action: One of `producer.ACTIONS`, or "revoke".
            delay: Seconds until the new start of "delay"; the seconds of that start are counted from then.
        """
        now = time.time()
        messages = publish_action(self.log, event, action, now, *((now + delay,) if delay else ()))
        self._sent += messages
        keys = [(event, message.seq) for message in messages]
        looks_from = messages[-1].not_before if delay else np.inf
        await self.until(lambda device: all(key in device.changed for key in keys), looks_from)
        return [
            np.sort([device.changed[key] for device in self.devices]) - max(now, message.not_before)
            for key, message in zip(keys, messages, strict=True)
        ]

    def result(self, event: str) -> dict[str, Any]:
        """Return the messages that devices lack, and the spoilers, over all devices."""
        kept = {message for _, message in self.log.since(0) if message.event == event}
        lost = sum(len(kept - {*device.state.messages.get(event, ())}) for device in self.devices)
        written = {m.seq: max(m.ts, m.not_before) for m in self._sent}
        early = sum(
            seq is not None and at < written[seq]
            for device in self.devices
            for (_, seq), at in device.changed.items()
        )
        return {
            "devices": len(self.devices), "lost": lost, "spoilers": early,
            "connections": sum(device.connections for device in self.devices),
            "received": sum(device.received for device in self.devices),
        }  # fmt: skip

    async def disconnect(self) -> None:
        """Disconnect the devices, and forget them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.devices, self._tasks = [], []

    async def close(self) -> None:
        """Disconnect the devices, and close the log."""
        await self.disconnect()
        self.log.close()


def seconds_of(times: np.ndarray) -> dict[str, float]:
    """Return the seconds after which each of SHARES has happened, of ascending seconds."""
    return {name: float(times[int(np.ceil(share * len(times))) - 1]) for name, share in SHARES.items()}


def rate_of(times: np.ndarray) -> float:
    """Return the rate, 1/s, at which the middle four fifths of ascending times follow one another."""
    low, high = int(0.1 * len(times)), int(0.9 * len(times))
    return float((high - low) / (times[high] - times[low]))
