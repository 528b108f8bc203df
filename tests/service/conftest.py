"""Share one small export, and a service of it that is compiled once."""

import asyncio
import contextlib
import time

import httpx
import numpy as np
import pytest

from jaxrec.service.app import Service, make_app
from jaxrec.service.options import ServiceOptions


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
