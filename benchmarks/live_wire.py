"""Live events over real connections: one machine, loopback, the service as a process.

    python -m benchmarks.live_wire --export EXPORT --slates SLATES --devices 2000 --runs 5

Devices connect to GET /v1/live and apply messages by the states of `core.live`. The event goes through pre,
live, a delay, a drop of all connections, a restart of the service and its end. Before each run another
event, with a quarter and with half of the devices, gives the parameters of the wire: messages a second of one
process, latency, connections a second, and the time of a start. With these the simulator of the fleet
predicts the run. Each run is a line of JSON: measured and predicted seconds from each message to 50%, 99% and
all of the devices, messages that a device lacks at the end, and spoilers: times at which a device displayed a
state that no message had stated yet. The table compares the medians of the runs.
"""

import argparse
import asyncio
import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.live_devices import RETRIES, SHARES, Wire, rate_of, seconds_of
from jaxrec.core.live.states import LIVE, Message, Seq
from jaxrec.live_events import equations as eq
from jaxrec.live_events.fleet.broadcast import DROP_S, deliver
from jaxrec.live_events.fleet.timeline import EPOCH_S, EVENT, EventTimeline, Sent
from jaxrec.live_events.scenario import Faults, LiveConfig, Region

Seconds = dict[str, dict[str, float]]  # message -> share of SHARES -> seconds

PRE, START, DELAY = "pre", "start", "delay"
PLANNED = "start as planned, after the delay"
DROPPED = "cancelled by mistake, all connections dropped"
REVOKE, RESTARTED = "revoke", "end, during a restart"
_DROPS = 3  # of which the median is the rate of connections
_ROUNDS = 3  # of starts and delays, of which the median is the time of a message
_REHEARSAL = "rehearsal"  # event of the parameters
_LEAST = 0.25  # share of the time of a message that counts as sending
_BACKLOG = 2048  # connections that wait at the listening socket
_SEEDS = 20  # simulations, whose median is the prediction
_NEAR = 0.2  # difference that counts as equal


class WireFigures(NamedTuple):
    """Parameters of the wire.

    Attributes:
        messages: Messages that one process of the service delivers in a second.
        latency_s: Time of a message that does not depend on the number of devices.
        connections: Connections that the process accepts in a second.
        cold_connections: The same while the process compiles its programs, after its start.
        start_s: Time from the start of the process until it accepts connections.
    """

    messages: float
    latency_s: float
    connections: float
    cold_connections: float
    start_s: float


async def calibrate(wire: Wire, devices: int) -> WireFigures:
    """Start the service, and return the parameters of the wire, measured on devices of their own.

    Args:
        wire: Wire whose service does not run.
        devices: Number of devices.
    """
    started = time.time()
    await asyncio.to_thread(wire.start)
    start_s = time.time() - started
    sizes = devices // 2, devices
    seconds: list[float] = []
    for number in sizes:
        await wire.connect(number - len(wire.devices), _REHEARSAL)
        if not seconds:
            cold = rate_of(np.sort([device.connected_at for device in wire.devices]))
            await asyncio.to_thread(wire.wait_until_ready)
            await wire.send(_REHEARSAL, PRE)
        sent = [(await wire.send(_REHEARSAL, action))[0] for action in (START, DELAY) * _ROUNDS]
        seconds.append(float(np.median([of_message[-1] for of_message in sent])))
    # Time is the latency, and the devices over the rate. Too close together, the sizes give no rate.
    slope = max((seconds[1] - seconds[0]) / (sizes[1] - sizes[0]), _LEAST * seconds[1] / sizes[1])
    latency = max(seconds[1] - sizes[1] * slope, 0.001)
    rates = []
    for _ in range(_DROPS):
        before, dropped = {device: device.connections for device in wire.devices}, time.time()
        wire.drop()
        await wire.until(lambda device, before=before: device.connections > before[device])
        rates.append(devices / (max(device.connected_at for device in wire.devices) - dropped))
    await wire.disconnect()
    return WireFigures(1 / slope, latency, float(np.median(rates)), cold, start_s)


def scenario_of(figures: WireFigures, devices: int) -> LiveConfig:
    """Return a scenario of the fleet with the parameters of the wire: one node, all devices online."""
    config = LiveConfig(retries=RETRIES)
    config.audience.devices, config.audience.online = devices, 1.0
    config.audience.regions = (Region("all", 1.0),)
    config.capacity.node_messages = figures.messages
    config.capacity.latency_s = figures.latency_s
    config.capacity.reconnections = figures.connections / devices
    config.capacity.queue_s = _BACKLOG / figures.connections
    return config


def predict(figures: WireFigures, devices: int) -> Seconds:
    """Return the seconds that the simulator of the fleet gives for the messages of the scenario."""
    config = scenario_of(figures, devices)
    plain, drop = _simulated(config), Faults(drop="all")
    down = dataclasses.replace(drop, gateway_down_s=figures.start_s)
    # A process that compiles its programs accepts fewer connections; the window is that of a warm one.
    cold = scenario_of(figures._replace(connections=figures.cold_connections), devices)
    cold.retries = dataclasses.replace(RETRIES, window_s=eq.reconnection_seconds(config))
    return {
        PRE: plain, START: plain, DELAY: plain, PLANNED: dict.fromkeys(SHARES, 0.0),
        DROPPED: _simulated(dataclasses.replace(config, faults=drop)), REVOKE: plain,
        RESTARTED: _simulated(dataclasses.replace(cold, faults=down)),
    }  # fmt: skip


def _simulated(config: LiveConfig) -> dict[str, float]:
    """Return the median seconds over seeds from a message until shares of the devices have it.

    A drop comes with the message.
    """
    devices = np.arange(config.audience.devices)
    message = Message(EVENT, Seq(1, 1), EPOCH_S, LIVE)
    timeline = EventTimeline((Sent(message, 0.0),), -DROP_S, 3_600.0)
    runs = []
    for seed in range(_SEEDS):
        arrival = deliver(dataclasses.replace(config, seed=seed), timeline, 1, devices).arrival[0]
        runs.append(seconds_of(np.sort(arrival)))
    return {name: float(np.median([run[name] for run in runs])) for name in SHARES}


async def run_scenario(wire: Wire, devices: int, event: str, delay: float, window: float) -> dict[str, Any]:
    """Run the scenario of the module's docstring, and return its measurements.

    Args:
        wire: Wire whose service runs.
        devices: Number of devices.
        event: Id of an event of the slates.
        delay: Seconds by which the event is delayed.
        window: Seconds over which devices spread their first attempt to connect again.
    """
    await wire.connect(devices, event)
    await asyncio.to_thread(wire.wait_until_ready)
    wire.spread(window)
    times = {PRE: (await wire.send(event, PRE))[0], START: (await wire.send(event, START))[0]}
    times[DELAY], times[PLANNED] = await wire.send(event, DELAY, delay)
    before = [device.connections for device in wire.devices]
    wire.drop()
    (times[DROPPED],) = await wire.send(event, "cancel")
    (times[REVOKE],) = await wire.send(event, REVOKE)
    status = await asyncio.to_thread(wire.stop)
    restart = asyncio.create_task(asyncio.to_thread(wire.start))
    (times[RESTARTED],) = await wire.send(event, "end")
    await restart
    again = [d.connections - n for d, n in zip(wire.devices, before, strict=True)]
    seconds = {name: seconds_of(of_message) for name, of_message in times.items()}
    return {"seconds": seconds, "status": status, "reconnected": min(again), **wire.result(event)}


async def run_once(export: str, slates: str, event: str, devices: int, delay: float) -> dict[str, Any]:
    """Measure the wire on fewer devices, then run the scenario, and predict it from what was measured.

    Args:
        export: Folder of an export.
        slates: Folder of slates.
        event: Id of an event of the slates.
        devices: Number of devices.
        delay: Seconds by which the event is delayed.
    """
    with tempfile.TemporaryDirectory() as folder:
        wire = Wire(export, slates, folder)
        try:
            figures = await calibrate(wire, max(devices // 2, 20))
            window = eq.reconnection_seconds(scenario_of(figures, devices))
            results = await run_scenario(wire, devices, event, delay, window)
        finally:
            await wire.close()
            wire.stop()
    return {"wire": figures._asdict(), "predicted": predict(figures, devices), **results}


def comparison(runs: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table of measured beside predicted seconds: medians, and runs within 20%."""
    lines = ["| message | share | predicted | measured | ratio | within 20% |", "|---" * 6 + "|"]
    for message in runs[0]["seconds"]:
        for share in ("99%", "all"):
            pairs = np.array([[run[key][message][share] for key in ("predicted", "seconds")] for run in runs])
            predicted, measured = np.median(pairs, axis=0)
            near = int((np.abs(pairs[:, 1] - pairs[:, 0]) <= _NEAR * pairs[:, 0]).sum())
            ratio = f"{measured / predicted:.2f} | {near} of {len(runs)}" if predicted else "- | -"
            lines.append(f"| {message} | {share} | {predicted:.2f} | {measured:.2f} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    """Run the scenario some times; print each run as a line of JSON, and the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--export", required=True, help="folder of an export")
    parser.add_argument("--slates", required=True, help="folder of slates")
    parser.add_argument("--event", default="fight", help="id of an event of the slates")
    parser.add_argument("--devices", type=int, default=2000)
    parser.add_argument("--delay", type=float, default=20.0, help="seconds")
    parser.add_argument("--runs", type=int, default=1)
    args = parser.parse_args()
    runs = []
    for _ in range(args.runs):
        runs.append(asyncio.run(run_once(args.export, args.slates, args.event, args.devices, args.delay)))
        print(json.dumps(runs[-1]), flush=True)
    print(comparison(runs))


if __name__ == "__main__":
    main()
