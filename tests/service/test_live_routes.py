"""Live events of the service: slates by content, the stream and its replay, and real connections."""

import asyncio
import json
import time

import numpy as np
import pytest

from benchmarks.live_devices import Wire
from benchmarks.live_wire import RESTARTED, comparison, run_once, run_scenario
from jaxrec.core.errors import InputError
from jaxrec.core.live.states import message_of
from jaxrec.live_events.slates.folder import write_slates
from jaxrec.live_events.slates.payloads import RULE
from jaxrec.live_events.wire.command import publish_action
from jaxrec.live_events.wire.message_log import MessageLog
from jaxrec.service.live.stream import LiveStream
from jaxrec.service.options import ServiceError

STAGES = ("pre", "live", "delayed", "ended", "cancelled")


def slate(*titles):
    return {"format": 1, "titles": [*titles], "spare": ["s"], "slots": [], "rule": RULE}


@pytest.fixture(scope="session")
def slates(once):
    """Slates of two segments and the default one, of one event in two regions."""

    def make(folder):
        folder.mkdir()
        record = {
            "model": "m", "dataset": "d", "step": 1, "titles": 2, "spare": 1, "order": "probability",
            "rule": RULE,
            "segments": {"by": "kmeans:2", "names": ["left", "right", "default"]}, "regions": ["de", "us"],
            "events": [{"id": "fight", "title": "F", "priority": 0, "schedule": {}, "stages": [*STAGES]}],
        }  # fmt: skip
        documents = {
            ("fight", stage, region): [slate(stage, region, s) for s in "lrd"]
            for stage in STAGES
            for region in ("de", "us")
        }
        write_slates(folder, documents, record, {"user": np.arange(3), "segment": np.arange(3)})

    return once("hand-slates", make)


@pytest.fixture(scope="module")
def wired(make_client, export_folder, slates, tmp_path_factory):
    """A client of a service with slates and a log, and the log."""
    path = tmp_path_factory.mktemp("log") / "live.sqlite"
    client = make_client(export_folder, slates=str(slates), live_log=str(path))
    with MessageLog(path) as log:
        yield client, log


def test_a_slate_has_its_hash_as_etag_and_a_jittered_age(wired):
    client, _ = wired
    path = "/v1/slates/1?event=fight&stage=live&region=us"
    answers = [client.get(path) for _ in range(40)]
    assert {a.status_code for a in answers} == {200}
    assert answers[0].json() == slate("live", "us", "r")
    (etag,) = {a.headers["etag"] for a in answers}
    ages = [int(a.headers["cache-control"].removeprefix("public, max-age=")) for a in answers]
    assert 240 <= min(ages) < max(ages) <= 360 and len({*ages}) > 10
    same = client.request("GET", path, headers={"If-None-Match": etag})
    assert same.status_code == 304 and same.content == b"" and same.headers["etag"] == etag
    assert client.request("GET", path, headers={"If-None-Match": '"0"'}).status_code == 200
    by_name = client.get("/v1/slates/right?event=fight&stage=live&region=us")
    assert by_name.content == answers[0].content
    assert client.get("/v1/slates/default?event=fight&stage=pre&region=de").json()["titles"] == [
        "pre",
        "de",
        "d",
    ]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("7?event=fight&stage=live&region=us", 404, "segment=7; allowed: 0 to 2"),
        ("top?event=fight&stage=live&region=us", 404, "segment='top'; allowed: 0 to 2, or the name"),
        ("1?event=match&stage=live&region=us", 404, "event='match' has no slates; allowed: fight"),
        ("1?event=fight&stage=half&region=us", 404, "stage='half' has no slates; allowed: "),
        ("1?event=fight&stage=live&region=fr", 404, "region='fr' has no slates; allowed: de, us"),
        ("1?event=fight", 422, "stage: Field required"),
    ],
)
def test_a_slate_that_is_not_there(wired, path, status, message):
    answer = wired[0].get(f"/v1/slates/{path}")
    assert answer.status_code == status and message in answer.json()["error"]


def test_events_are_listed_with_their_stages(wired):
    answer = wired[0].get("/v1/slates").json()
    assert answer["regions"] == ["de", "us"] and answer["segments"] == "kmeans:2"
    assert [(e["id"], e["stages"]) for e in answer["events"]] == [("fight", [*STAGES])]


def read_stream(client, number, last_id=""):
    """Return the first messages of the stream with their ids."""

    async def read():
        stream = client.service.stream.events(last_id)
        rows = []
        try:
            async with asyncio.timeout(10):
                async for content in stream:
                    for block in content.decode().split("\n\n"):
                        if block.startswith("id: "):
                            id_, data = block.split("\n")
                            rows.append((id_.removeprefix("id: "), json.loads(data.removeprefix("data: "))))
                    if len(rows) >= number:
                        return rows
        finally:
            await stream.aclose()
        return rows

    return client._runner.run(read())


def test_what_is_after_the_end_is_withheld_until_a_message_states_it(wired):
    client, log = wired
    path = "/v1/slates/0?event=fight&stage=ended&region=us"
    refused = client.get(path)
    assert refused.status_code == 404 and "withheld until a message that states" in refused.json()["error"]
    assert client.get(path.replace("ended", "live")).status_code == 200
    sent = [publish_action(log, "fight", action, 100.0)[0] for action in ("pre", "start")]
    publish_action(log, "fight", "end", 100.0, time.time() + 3_600)
    client._runner.run(asyncio.sleep(0.2))  # the stream looks every 0.05 s
    assert client.get(path).status_code == 404  # the end is planned, and not in force
    sent += publish_action(log, "fight", "end", 100.0)
    client._runner.run(asyncio.sleep(0.2))
    assert client.get(path).status_code == 200
    rows = read_stream(client, 3)
    assert [message_of(document) for _, document in rows] == sent
    # A device that reconnects receives what it missed; with the id of another log, everything.
    assert [d["state"] for _, d in read_stream(client, 1, rows[1][0])] == ["ended"]
    assert len(read_stream(client, 3, "0123456789abcdef:2")) == 3
    assert len(read_stream(client, 3, "nonsense")) == 3 and len(client.service.stream) == 0


def test_a_message_reaches_connected_devices_once_and_in_order(wired):
    client, log = wired

    async def later():
        await asyncio.sleep(0.1)
        for action in ("start", "delay", "cancel"):
            publish_action(log, "other", action, 100.0)

    before = len(log.since(0))
    task = client._runner.get_loop().create_task(later())
    rows = read_stream(client, before + 3)
    assert task.done()
    assert [d["state"] for _, d in rows[before:]] == ["live", "delayed", "cancelled"]
    positions = [int(id_.split(":")[1]) for id_, _ in rows]
    assert positions == sorted({*positions})


def test_a_silent_stream_has_heartbeats_and_a_slow_device_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxrec.service.live.stream._MOST_WAITING", 3)
    stopping = []

    async def scenario():
        stream = LiveStream(str(tmp_path / "live.sqlite"), 1, 0.05, lambda: bool(stopping))
        device = stream.events("")
        assert (await anext(device)).startswith(b"retry: ")
        assert await anext(device) == b": heartbeat\n\n"
        with pytest.raises(ServiceError, match="too many devices are connected"):
            stream.check_room()
        for _ in range(4):
            stream._send(b"x")
        assert len(stream) == 0  # it waits for nothing, and replays after a reconnection
        assert [content async for content in device] == []
        stream.start()
        again = stream.events("")
        await anext(again)
        stopping.append(1)
        assert [c async for c in again if c != b": heartbeat\n\n"] == []
        with pytest.raises(ServiceError, match="the service is stopping"):
            stream.check_room()
        await stream.stop()

    asyncio.run(scenario())


def test_messages_of_one_look_come_in_one_piece(tmp_path):
    """A delay and its new start: the second message would cost a device as much as the first."""

    async def scenario():
        path = tmp_path / "live.sqlite"
        stream = LiveStream(str(path), 1, 5.0, lambda: False)
        device = stream.events("")
        await anext(device)
        with MessageLog(path) as log:
            publish_action(log, "fight", "delay", 100.0, 200.0)
        stream.start()
        piece = (await anext(device)).decode()
        await device.aclose()
        await stream.stop()
        return piece

    piece = asyncio.run(scenario())
    assert piece.count("\ndata: ") == 2 and piece.index("delayed") < piece.index('"live"')


def test_a_service_without_live_events_has_no_such_routes(client):
    assert client.get("/v1/live").status_code == 404 and client.get("/v1/slates/0").status_code == 404


def test_a_folder_without_slates_is_refused(make_client, export_folder, tmp_path):
    with pytest.raises(InputError, match=r"manifest\.json: No such file or directory; make the slates again"):
        make_client(export_folder, slates=str(tmp_path))


async def scenario_on_a_wire(folder, export, slates, devices, delay):
    wire = Wire(str(export), str(slates), str(folder))
    wire.start()
    try:
        return await run_scenario(wire, devices, "fight", delay, window=0.5)
    finally:
        await wire.close()
        wire.stop()


def check_the_wire(result, devices):
    """Check that each device reconnected twice and got every message, none of them early."""
    assert result["lost"] == result["spoilers"] == result["status"] == 0
    assert result["devices"] == devices and result["reconnected"] == 2
    assert result["received"] >= 7 * devices
    assert min(min(times.values()) for times in result["seconds"].values()) >= 0


def test_no_message_is_lost_and_nothing_is_shown_early_on_real_connections(export_folder, slates, tmp_path):
    """A delay, a mistake while all connections are dropped, a restart of the service, and the end."""
    check_the_wire(asyncio.run(scenario_on_a_wire(tmp_path, export_folder, slates, 30, 0.5)), 30)


@pytest.mark.slow
def test_the_wire_of_two_thousand_devices_beside_its_prediction(export_folder, slates):
    result = asyncio.run(run_once(str(export_folder), str(slates), "fight", 2_000, 20.0))
    check_the_wire(result, 2_000)
    assert result["predicted"][RESTARTED]["99%"] > result["wire"]["start_s"] > 0
    assert len(comparison([result]).splitlines()) == 2 + 2 * len(result["seconds"])
