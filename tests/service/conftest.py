"""Share one small export, and a service of it that is compiled once."""

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from jaxrec.config.loading import load_config
from jaxrec.models.outputs import Correction
from jaxrec.service.app import Service, make_app
from jaxrec.service.options import ServiceOptions
from jaxrec.serving import export
from jaxrec.serving.recommender import Recommender

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


class Client:
    """Synchronous calls of an application, on the event loop of its lifespan."""

    def __init__(self, service, runner, app):
        self.service, self._runner, self._app = service, runner, app

    def request(self, method, path, **options):
        async def call():
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return await client.request(method, path, **options)

        return self._runner.run(call())

    def gather(self, *calls):
        async def all_calls():
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return await asyncio.gather(*(client.request(m, p, **o) for m, p, o in calls))

        return self._runner.run(all_calls())

    def post(self, path, body, **options):
        return self.request("POST", path, json=body, **options)

    def get(self, path):
        return self.request("GET", path)


@pytest.fixture(scope="session")
def make_client():
    """Return a function that starts a service of a folder and returns its client."""
    with contextlib.ExitStack() as stack:

        def make(folder, **options):
            runner = stack.enter_context(asyncio.Runner())
            service = Service(str(folder), ServiceOptions(**({"reload_every": 0, "max_batch": 4} | options)))
            app = make_app(service)
            lifespan = app.router.lifespan_context(app)
            runner.run(lifespan.__aenter__())
            stack.callback(lambda: runner.run(lifespan.__aexit__(None, None, None)))
            client = Client(service, runner, app)
            while client.get("/readyz").status_code != 200:
                assert service.holder.failure is None
                time.sleep(0.05)
            return client

        yield make


@pytest.fixture(scope="session")
def client(make_client, export_folder):
    return make_client(export_folder)


@pytest.fixture(scope="session")
def plays(export_folder):
    """Return a function that gives N plays of known titles, by a seed."""
    keys = np.load(export_folder / "arrays/title_key.npy")

    def make(number, seed=0):
        rng = np.random.default_rng(seed)
        return [
            {
                "title_id": int(rng.choice(keys)),
                "time": int(1_735_689_600_000 + 60_000 * i),
                "seconds_viewed": float(rng.integers(1, 6000)),
                "device": str(rng.choice(["tv", "phone"])),
            }
            for i in range(number)
        ]

    return make


@pytest.fixture(scope="session")
def searching(once):
    """An export of a model with canvases after a few steps of training."""
    from jaxrec.data.runners.run import ensure_dataset
    from jaxrec.data.storage.dataset import Dataset
    from jaxrec.runtime.preemption import PreemptionHandler
    from jaxrec.tasks.loading import default_checkpoint, load_checkpoint
    from jaxrec.training.trainer import train

    def make(folder):
        config = load_config(str(ROOT / "configs/unicorn.py:tiny"))
        config.source.search = config.source.similar = 0.3
        config.train.duration, config.evaluate.report, config.model.cross = "20 steps", False, 1
        config.model.experts = config.model.experts[:1]
        ensure_dataset(config, folder / "data")
        train(config, Dataset(str(folder / "data")), folder / "run", PreemptionHandler())
        loaded = load_checkpoint(folder / "run", default_checkpoint(folder / "run"))
        log_q = np.zeros(loaded.task.layout.num_titles, np.float32)
        export.write(Recommender(loaded, Correction("ranking", 1.0, log_q)), folder / "export", ("cpu",), 20)

    return once("searching", make) / "export"


@pytest.fixture
def start():
    """Return a function that starts the command and returns its process and address, ready to serve.

    With wait=False it is returned while the model is compiled.
    """
    processes = []

    def start(folder, *arguments, wait=True, **variables):
        words = ["-m", "jaxrec.serve", "--export", folder, "--port", 0, "--max_batch", 2, "--max_k", 10]
        env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | variables
        process = subprocess.Popen(
            [sys.executable, *map(str, words), *map(str, arguments)],
            env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
        line = process.stdout.readline()
        assert "serving" in line, process.communicate()[1]
        address = re.search(r"http://\S+", line)[0]
        while wait and httpx.get(f"{address}/readyz").status_code != 200:
            assert process.poll() is None
        return process, address

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")  # an event loop runs as long, and `make_client` has one of its own
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()
