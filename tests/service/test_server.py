"""The server as a process: reloads and a stop under load, tokens, the demo page."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from jaxrec.service import reloading, server

ROOT = Path(__file__).resolve().parents[2]
HISTORIES = 7


def change(folder, number):
    """Make another export of a folder: a new manifest, in one step."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "new").write_text(json.dumps(manifest | {"number": number}))
    os.replace(folder / "new", folder / "manifest.json")


@pytest.fixture
def copied(export_folder, tmp_path):
    return Path(shutil.copytree(export_folder, tmp_path / "export"))


async def send_all(address, bodies, events):
    """Send requests from eight clients, with an event before some; return the answers in order."""
    answers, numbers = [None] * len(bodies), iter(range(len(bodies)))

    async def one_client():
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            for number in numbers:
                if number in events:
                    await events[number](client)
                answers[number] = await client.post("/v1/recommend", json=bodies[number])

    await asyncio.gather(*(one_client() for _ in range(8)))
    return answers


def test_a_stop_while_the_model_is_compiled_is_no_crash(export_folder, start, tmp_path):
    process, address = start(
        export_folder, "--drain", 0, wait=False, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "empty")
    )
    assert httpx.get(f"{address}/readyz").json()["status"] == "compiling"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == ""


@pytest.mark.parametrize(
    "requests, reloads", [(200, 1), pytest.param(1000, 3, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_no_request_is_lost_in_reloads_and_a_stop(copied, start, plays, requests, reloads):
    process, address = start(copied, "--reload_every", 0, "--cache", 0, "--drain", 60)
    models, lock = [], asyncio.Lock()

    async def reload(client):  # seven clients go on meanwhile
        async with lock:
            models.append((await client.get("/readyz")).json()["model"])
            change(copied, len(models))
            process.send_signal(signal.SIGHUP)
            while (await client.get("/readyz")).json()["model"] == models[-1]:
                await asyncio.sleep(0.05)

    async def stop(client):
        process.send_signal(signal.SIGTERM)

    stopped = requests - 50
    events = {50 + i * stopped // reloads: reload for i in range(reloads)} | {stopped: stop}
    bodies = [{"history": plays(3, i % HISTORIES), "k": 5} for i in range(requests)]
    answers = asyncio.run(send_all(address, bodies, events))
    assert httpx.get(f"{address}/readyz").json()["status"] == "stopping"
    process.send_signal(signal.SIGTERM)  # the second one ends the wait for late clients
    process.wait(60)
    assert process.returncode == 0, process.communicate()[1]
    assert {answer.status_code for answer in answers} == {200}
    assert answers[-1].headers["connection"] == "close"
    assert len(set(models)) == reloads
    assert len({answer.json()["model"] for answer in answers}) == reloads + 1
    # The reloads changed the manifest alone, so that the scores of a history stay.
    best = [[] for _ in range(HISTORIES)]
    for i, answer in enumerate(answers):
        best[i % HISTORIES].append(answer.json()["titles"][0]["score"])
    assert all(max(scores) - min(scores) < 1e-5 for scores in best)
    assert len({scores[0] for scores in best}) == HISTORIES


def test_a_damaged_export_leaves_the_old_one(make_client, copied, monkeypatch):
    hidden = []  # models whose objects are hidden from the garbage collector
    monkeypatch.setattr(reloading, "freeze_live_objects", lambda: hidden.append(1))
    client = make_client(copied, max_batch=1)
    assert len(hidden) == 1
    holder, old = client.service.holder, client.service.holder.model
    assert not holder.reload() and holder.error is None
    vectors = copied / "arrays/title_vectors.npy"
    contents = vectors.read_bytes()
    vectors.write_bytes(contents[:-1] + b"\x01")
    change(copied, 1)
    assert not holder.reload() and holder.model is old
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert "arrays/title_vectors.npy is damaged" in ready.json()["reload_error"]
    assert 'jaxrec_reloads_total{result="failed"} 1.0' in client.get("/metrics").text
    assert client.post("/v1/recommend", {"k": 3}).status_code == 200
    vectors.write_bytes(contents)
    assert len(hidden) == 1
    assert holder.reload() and holder.model is not old and holder.error is None
    assert len(hidden) == 2
    assert client.post("/v1/recommend", {"k": 3}).json()["model"] == holder.model.fingerprint
    (copied / "manifest.json").unlink()
    assert not holder.reload() and holder.error is None  # a folder is being replaced
    assert not holder.reload(is_wanted=True) and "manifest.json" in holder.error


def test_a_token_is_needed_where_one_is_set(make_client, export_folder):
    client = make_client(export_folder, max_batch=1, token="secret")
    right = {"headers": {"Authorization": "Bearer secret"}}
    assert client.post("/v1/recommend", {"k": 3}, **right).status_code == 200
    for headers in ({}, {"Authorization": "Bearer secret2"}, {"Authorization": "secret"}):
        response = client.post("/v1/recommend", {"k": 3}, headers=headers)
        assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
        assert response.json() == {"error": "the token is missing or wrong; send Authorization: Bearer TOKEN"}
    assert [client.get(path).status_code for path in ("/healthz", "/readyz", "/metrics", "/")] == [200] * 4
    assert client.get("/openapi.json").json()["paths"]["/v1/score"]["post"]["security"] == [{"token": []}]


def test_requests_wait_for_the_compilation(make_client, export_folder):
    client = make_client(export_folder, max_batch=1)
    client.service.holder.is_compiled = False
    response = client.post("/v1/recommend", {})
    assert response.status_code == 503 and response.headers["retry-after"] == "5"
    assert client.get("/readyz").json()["status"] == "compiling"
    client.service.holder.is_compiled, client.service.is_stopping = True, True
    assert client.get("/readyz").status_code == 503
    response = client.post("/v1/recommend", {"k": 3})
    assert response.status_code == 200 and response.headers["connection"] == "close"


def test_wrong_flags_end_with_one_line(tmp_path, export_folder):
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    for arguments, message in (
        (["--export", tmp_path], "no manifest.json; allowed: a folder that python -m jaxrec.export wrote"),
        (["--export", export_folder, "--token_file", tmp_path / "none"], "No such file or directory"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "jaxrec.serve", *map(str, arguments)],
            env=env, cwd=ROOT, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_page_is_served_and_loads_nothing_else(make_client, export_folder):
    page = (ROOT / "jaxrec/service/page.html").read_text()
    assert make_client(export_folder, max_batch=1).get("/").text == page
    assert not re.search(r"https?://|<link|src=", page)


def test_a_picked_title_gives_reasons_and_leaves_the_list(start, export_folder, browser):
    _, address = start(export_folder, "--max_batch", 1)
    for width in (1280, 480):
        page = browser.new_page(viewport={"width": width, "height": 900})
        pick_and_remove(page, address)
        page.close()


def pick_and_remove(page, address):
    """Pick the first title, see that it is no recommendation any more, and remove it."""
    errors, requested = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    page.goto(address)
    page.wait_for_selector("#titles li")
    before = page.locator("#titles").inner_text()
    page.locator("#results button").first.click()
    page.wait_for_function("before => document.querySelector('#titles').innerText !== before", arg=before)
    picked = page.locator("#history span").first.inner_text()
    assert picked not in page.locator("#titles strong").all_inner_texts()
    assert "Popularity rank" in page.locator("#titles").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page is cut"
    page.locator("#history button").first.click()
    page.wait_for_function("before => document.querySelector('#titles').innerText === before", arg=before)
    assert page.locator("#none").is_visible() and page.locator("#manifest dt").count() > 5
    assert errors == [] and all(url.startswith(address) for url in requested)
    assert not page.locator("#error").is_visible()


def test_the_printed_address_takes_connections_before_the_server_runs():
    with server.listening_socket("127.0.0.1", 0) as listener:
        socket.create_connection(listener.getsockname(), timeout=10).close()
