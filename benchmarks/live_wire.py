"""Live events over real connections: one machine, loopback, the service as a process.

    python -m benchmarks.live_wire --export EXPORT --slates SLATES --devices 2000

Devices connect to GET /v1/live and apply messages by the states of `core.live`. The event goes through pre,
live, a delay, a drop of all connections, a restart of the service and its end. Printed as JSON: seconds from
each message to 50%, 99% and all of the devices, messages that a device lacks at the end, and spoilers: times
at which a device displayed a state that no message had stated yet.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
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
from jaxrec.live_events.wire.command import publish_action
from jaxrec.live_events.wire.message_log import MessageLog

_EVERY = 0.02  # seconds between two looks at all devices
_LONGEST = 60.0  # seconds until all devices must have a message


class Device:
    """Device with one connection, which reconnects when it ends.

    Args:
        port: Port of the service.
        events: Ids of events whose slates it has already.
    """

    def __init__(self, port: int, events: tuple[str, ...]) -> None:
        self.state, self.last_id, self.connections, self.received = DeviceState(), "", 0, 0
        self.changed: dict[tuple[str, Any], float] = {}  # (event, seq) -> time when displayed first
        self._port, self._events = port, events
        self._writer: asyncio.StreamWriter | None = None
        for event in events:
            for stage in STATES:
                self.state = store_content(self.state, event, stage)

    async def run(self) -> None:
        """Receive messages until the task is cancelled."""
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._connect()
            # A tenth of a second to one: the devices of a dropped service do not come back together.
            await asyncio.sleep(np.random.default_rng().uniform(0.1, 1.0))

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
            self.connections += 1
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

    def stop(self) -> int:
        """Stop the service, and return its status."""
        assert self._process is not None
        # XLA ends a process with an abort whose programs are being compiled.
        while self._process.poll() is None and not self._is_ready():
            time.sleep(_EVERY)
        self._process.terminate()
        try:
            return self._process.wait(30)
        finally:
            self._process.kill()
            assert self._process.stdout is not None
            self._process.stdout.close()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz") as answer:
                return answer.status == 200
        except urllib.error.HTTPError as error:
            error.close()
            return False

    async def connect(self, number: int, event: str) -> None:
        """Connect devices, and wait until all are."""
        self.devices = [Device(self.port, (event,)) for _ in range(number)]
        for i, device in enumerate(self.devices):
            self._tasks.append(asyncio.create_task(device.run()))
            if i % 100 == 99:
                await asyncio.sleep(0.05)  # the backlog of a listening socket is 2,048
        await self.until(lambda d: d.connections > 0)

    async def until(self, done: Any, looks: bool = False) -> None:
        """Wait until a condition holds for every device; with `looks` their clocks run meanwhile."""
        end = time.time() + _LONGEST
        while not all(done(device) for device in self.devices):
            assert time.time() < end, "some devices did not get there"
            await asyncio.sleep(_EVERY)
            if looks:
                now = time.time()
                for device in self.devices:
                    device.look(now)

    async def send(self, event: str, action: str, delay: float = 0.0) -> dict[str, float]:
        """Publish an action, and return the seconds until shares of the devices display its last message.

        Args:
            event: Id of the event.
            action: One of `producer.ACTIONS`.
            delay: Seconds until the new start of "delay"; counted from then.
        """
        now = time.time()
        times = (now + delay,) if delay else ()
        messages = publish_action(self.log, event, action, now, *times)
        self._sent += messages
        last = messages[-1]
        key = event, last.seq
        await self.until(lambda device: key in device.changed, looks=bool(delay))
        seconds = np.sort([device.changed[key] for device in self.devices]) - max(now, last.not_before)
        at = {"50%": 0.5, "99%": 0.99, "all": 1.0}
        return {name: float(seconds[int(np.ceil(share * len(seconds))) - 1]) for name, share in at.items()}

    def result(self, event: str) -> dict[str, Any]:
        """Return the messages that devices lack, and the spoilers, over all devices."""
        kept = {message for _, message in self.log.since(0)}
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

    async def close(self) -> None:
        """Disconnect the devices."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.log.close()


async def run_scenario(wire: Wire, devices: int, event: str, delay: float) -> dict[str, Any]:
    """Run the scenario of the module's docstring, and return its measurements.

    Args:
        wire: Wire whose service runs.
        devices: Number of devices.
        event: Id of an event of the slates.
        delay: Seconds by which the event is delayed.
    """
    await wire.connect(devices, event)
    seconds = {"pre": await wire.send(event, "pre"), "start": await wire.send(event, "start")}
    seconds["delay"] = await wire.send(event, "delay", delay)
    before = [device.connections for device in wire.devices]
    for device in wire.devices:
        device.drop()
    seconds["cancelled by mistake, all connections dropped"] = await wire.send(event, "cancel")
    seconds["revoke"] = await wire.send(event, "revoke")
    status = await asyncio.to_thread(wire.stop)
    await asyncio.to_thread(wire.start)
    seconds["end, after a restart"] = await wire.send(event, "end")
    again = [d.connections - n for d, n in zip(wire.devices, before, strict=True)]
    return {"seconds": seconds, "status": status, "reconnected": min(again), **wire.result(event)}


def main() -> None:
    """Run the scenario some times, and print each run as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--export", required=True, help="folder of an export")
    parser.add_argument("--slates", required=True, help="folder of slates")
    parser.add_argument("--event", default="fight", help="id of an event of the slates")
    parser.add_argument("--devices", type=int, default=2000)
    parser.add_argument("--delay", type=float, default=20.0, help="seconds")
    parser.add_argument("--runs", type=int, default=1)
    args = parser.parse_args()

    async def one_run(folder: str) -> dict[str, Any]:
        wire = Wire(args.export, args.slates, folder)
        wire.start()
        try:
            return await run_scenario(wire, args.devices, args.event, args.delay)
        finally:
            await wire.close()
            wire.stop()

    for _ in range(args.runs):
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(asyncio.run(one_run(folder))), flush=True)


if __name__ == "__main__":
    main()
