"""Latency of the service at fixed rates, beside an unbatched handler of the same export.

    python -m benchmarks.serve --export DIR,... [--plays 20,200] [--peer_python ENV/bin/python] [--json F]

An open-loop client sends requests at Poisson arrivals of a fixed rate, from a process of its own: a slow
answer does not delay the next request. Each request is a user never seen, so that the cache has no answer.
The peer is a plain FastAPI `def` endpoint that calls the same exported function for one request, compiled at
its start, with the defaults of jax and of FastAPI. The servers of an export run all the time; each rate is
measured on every server in turn. The goodput is the number of answers within the limit per second.

Exports of several catalogue sizes and several lengths of histories are measured one after another. RecTools
has no service: its row is `recommend` for one user in a loop, by a SASRec of width 48 with its first weights
on as many titles.
"""

import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from absl import flags

from benchmarks.command import Report, run
from benchmarks.recommend import PEER
from benchmarks.sequences import peer
from jaxrec.core.json_io import write_json

_LIMIT = 0.050  # seconds of an answer that counts
_LATE = 10.0  # seconds until the client gives up
_PROCESSOR_SECONDS = 20.0  # of the batches whose processor time is measured
_PEER_CALLS = 50  # calls of RecTools' `recommend`
_PEER = """
import sys
from fastapi import FastAPI, Body
import uvicorn, jaxrec.serving
served = jaxrec.serving.load(sys.argv[1])
served.scorer.limit_batches(1, 1)
app = FastAPI()

@app.post("/v1/recommend")
def recommend(body: dict = Body()):
    plays = body["history"]
    table = {name: [play[name] for play in plays] for name in plays[0]}
    result = served.recommend(table | {sys.argv[3]: ["u"] * len(plays)}, body["k"])
    columns = {name: column.tolist() for name, column in result.columns.items()}
    return {"titles": columns["title"], "scores": columns["score"]}

@app.get("/readyz")
def ready():
    return {"status": "ready"}

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
"""


def _flags() -> None:
    flags.DEFINE_list("export", None, "folders that python -m jaxrec.export wrote", required=True)
    flags.DEFINE_list("rates", ["10", "20", "50", "100", "200"], "requests per second")
    flags.DEFINE_list("deadlines_ms", ["0", "2", "5"], "deadlines of a batch; one service each")
    flags.DEFINE_float("seconds", 5.0, "seconds of each rate and round", lower_bound=0.5)
    flags.DEFINE_integer("rounds", 2, "rounds; each measures all rates of all servers", lower_bound=1)
    flags.DEFINE_list("plays", ["20"], "plays of a history")
    flags.DEFINE_string("peer_python", "", "Python interpreter with rectools[torch]; empty: without the peer")
    flags.DEFINE_integer("port", 8870, "first port of the servers")


def summary(seconds: np.ndarray, failed: int, duration: float) -> dict[str, float]:
    """Return percentiles in milliseconds, failures, and the goodput within the limit.

    Args:
        seconds: Latencies of the answers with status 200.
        failed: Number of other requests, which count as later than any answer.
        duration: Seconds of the arrivals.
    """
    ordered = np.sort(np.concatenate([seconds, np.full(failed, np.inf)]))
    at = {p: ordered[min(int(np.ceil(p / 100 * len(ordered))), len(ordered)) - 1] for p in (50, 90, 99)}
    return {
        **{f"p{p}_ms": 1000 * min(float(value), _LATE) for p, value in at.items()},
        "failed": failed,
        "requests": len(ordered),
        "goodput": float((ordered <= _LIMIT).sum() / duration),
    }


def bodies(folder: str, plays: int, number: int, seed: int) -> list[bytes]:
    """Return requests of users never seen, with random plays of the titles of an export."""
    keys = np.load(Path(folder) / "arrays/title_key.npy")
    columns = json.loads((Path(folder) / "manifest.json").read_text())["columns"]["plays"]
    names = {role: spec["column"].split("|")[0] for role, spec in columns.items()}
    rng = np.random.default_rng(seed)
    out = []
    for i in range(number):
        history = [
            {
                names["title"]: key,
                names["time"]: 1_735_689_600_000 + 60_000 * j,
                **({names["seconds"]: float(rng.integers(1, 6000))} if "seconds" in names else {}),
            }
            for j, key in enumerate(rng.choice(keys, plays).tolist())
        ]
        out.append(json.dumps({"user": f"{seed}-{i}", "history": history, "k": 20}).encode())
    return out


class Connections:
    """Connections that are kept open: a client whose own time is a fraction of a millisecond a request."""

    def __init__(self, port: int, path: str) -> None:
        self._path, self._port, self._idle = (
            path,
            port,
            list[tuple[asyncio.StreamReader, asyncio.StreamWriter]](),
        )
        self._opened: list[asyncio.StreamWriter] = []

    async def post(self, body: bytes) -> int:
        """Send a request, read its answer and return the status."""
        # A server closes a connection that is idle for seconds, which happens at low rates.
        self._idle = [idle for idle in self._idle if not idle[0].at_eof()]
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            self._opened.append(writer)
        head = (
            f"POST {self._path} HTTP/1.1", "Host: a", "Content-Type: application/json",
            f"Content-Length: {len(body)}", "", "",
        )  # fmt: skip
        writer.write("\r\n".join(head).encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in answer.split(b"\r\n")[1:] if line)
        length = int(fields[b"content-length"])
        await reader.readexactly(length)
        self._idle.append((reader, writer))
        return int(answer.split(b" ", 2)[1])

    def close(self) -> None:
        """Close all connections."""
        for writer in self._opened:
            writer.close()


async def send(
    port: int, requests: list[bytes], rate: float, seed: int, path: str = "/v1/recommend"
) -> tuple[list[float], int]:
    """Send requests at Poisson arrivals; return the seconds of the answers, and the number of failures.

    The time of a request starts at its arrival, also where the client is late.
    """
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, len(requests)))
    connections, start = Connections(port, path), time.perf_counter() + 0.1

    async def one(body: bytes, arrival: float) -> float | None:
        await asyncio.sleep(start + arrival - time.perf_counter())
        try:
            status = await asyncio.wait_for(connections.post(body), _LATE)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            return None
        return time.perf_counter() - start - arrival if status == 200 else None

    results = await asyncio.gather(*map(one, requests, arrivals.tolist()))
    connections.close()
    seconds = [value for value in results if value is not None]
    return seconds, len(results) - len(seconds)


def client(arguments: list[str]) -> None:
    """Run the client of one measurement, and print its latencies as JSON."""
    folder, port, rate, duration, plays, seed = arguments
    number = max(int(float(rate) * float(duration)), 1)
    requests = bodies(folder, int(plays), number, int(seed))
    seconds, failed = asyncio.run(send(int(port), requests, float(rate), int(seed)))
    print(json.dumps({"seconds": seconds, "failed": failed}))


def processor_seconds(folder: str, plays: int, size: int, calls: int) -> float:
    """Return the median seconds of processor time an answer, in batches of `size` requests.

    No HTTP is in it: requests are parsed before, and answers are not written. At most `calls` batches are
    measured, and fewer where they take more than `_PROCESSOR_SECONDS`.
    """
    from jaxrec.service.answers.model import ServedModel
    from jaxrec.service.options import ServiceOptions

    model = ServedModel.load(folder, ServiceOptions())
    model.compile()
    parse = model.schemas.recommend.model_validate_json
    jobs = [model.recommend_job(parse(body)) for body in bodies(folder, plays, size, 0)]
    seconds = []
    for _ in range(calls):
        start = time.process_time()
        model.answer(jobs)
        seconds.append(time.process_time() - start)
        if sum(seconds) > _PROCESSOR_SECONDS:
            break
    return float(np.median(seconds)) / size


def _processor_row(export: str, plays: str, size: int) -> tuple[str, str, str]:
    """Measure the processor time in a process of its own, with the threads of the service."""
    code = (
        "import sys; from benchmarks.serve import processor_seconds as f; "
        "print(f(sys.argv[1], *map(int, sys.argv[2:])))"
    )
    words = [export, plays, str(size), "60"]
    environment = os.environ | {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, env=environment
    )
    return f"processor time of an answer, batch of {size}", f"{1000 * float(done.stdout):.2f} ms", ""


def start_server(command: list[str], port: int, log: Path) -> subprocess.Popen:
    """Start a server and wait until it is ready."""
    import httpx

    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, *command], stdout=output, stderr=output)
    while process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                return process
        except httpx.HTTPError:
            time.sleep(0.2)
        time.sleep(0.2)
    raise RuntimeError(f"a server ended: {log.read_text()[-2000:]}")


def _measure(
    args: flags.FlagValues, export: str, plays: str, port: int, rate: str, seed: int
) -> dict[str, Any]:
    code = "import sys; from benchmarks.serve import client; client(sys.argv[1:])"
    words = [export, port, rate, args.seconds, plays, seed]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def rectools_seconds(python: str, titles: int, plays: int, calls: int) -> list[float]:
    """Return the seconds of RecTools' `recommend` for one user, for each of `calls` users.

    Raises:
        InputError: The interpreter cannot be started, or lacks RecTools.
    """
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.csv"
        users = np.repeat(np.arange(calls), plays)
        rest = np.arange(titles)  # further users, so that each title has a play
        frame = {
            "user": np.append(users, calls + rest // plays),
            "item": np.append(rng.integers(0, titles, len(users)), rest),
            "timestamp": np.arange(len(users) + titles),
        }
        pl.DataFrame(frame).write_csv(log)
        settings = {
            "n_factors": 48, "n_blocks": 2, "n_heads": 2, "session_max_len": max(plays, 2),
            "dropout_rate": 0.1,
        }  # fmt: skip
        command = [python, str(PEER), str(log), "--settings", json.dumps(settings), "--single", str(calls)]
        with peer(command) as process:
            return process.epoch()["seconds"]


def _table(args: flags.FlagValues, export: str, plays: str, folder: Path) -> dict[str, Any]:
    """Return server -> rate -> figures of an export, with all servers in turn."""
    manifest = json.loads((Path(export) / "manifest.json").read_text())
    user = manifest["columns"]["plays"]["user"]["column"].split("|")[0]
    servers, ports, cells = [], dict[str, int](), dict[tuple[str, str], list[dict[str, Any]]]()
    try:
        for i, deadline in enumerate(args.deadlines_ms):
            port = ports[f"batched, {deadline} ms"] = args.port + i
            words = ["-m", "jaxrec.serve", "--export", export, "--port", port, "--cache", 0,
                     "--batch_deadline_ms", deadline, "--reload_every", 0]  # fmt: skip
            servers.append(start_server([str(w) for w in words], port, folder / f"{i}"))
        port = ports["unbatched"] = args.port + len(args.deadlines_ms)
        servers.append(start_server(["-c", _PEER, export, str(port), user], port, folder / "peer"))
        for name in ports:  # the peer compiles here
            _measure(args, export, plays, ports[name], "5", 999)
        for number in range(args.rounds):
            for rate in args.rates:
                for name, port in ports.items():
                    seed = 1000 * number + int(float(rate))
                    cells.setdefault((name, rate), []).append(_measure(args, export, plays, port, rate, seed))
    finally:
        for server in servers:
            server.kill()  # a server that must stop by itself answers its waiting requests first
        for server in servers:
            server.wait()
    table: dict[str, Any] = {}
    for (name, rate), results in cells.items():
        seconds = np.concatenate([r["seconds"] for r in results])
        result = summary(seconds, sum(r["failed"] for r in results), args.seconds * args.rounds)
        table.setdefault(name, {})[rate] = result
    return table


def _rows(what: str, table: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the printed rows of an export and a length of histories."""
    rows = []
    for name, by_rate in table.items():
        for rate, result in by_rate.items():
            text = " / ".join(f"{result[f'p{p}_ms']:.1f}" for p in (50, 90, 99))
            good = f"goodput {result['goodput']:.1f}/s"
            rows.append((f"{what}, {name}, {rate}/s", f"p50 / p90 / p99 {text} ms", good))
        within = [float(rate) for rate, result in by_rate.items() if result["p99_ms"] <= 1000 * _LIMIT]
        rows.append((f"{what}, {name}: highest rate with p99 <= 50 ms", f"{max(within, default=0):g}/s", ""))
    return rows


def main(args: flags.FlagValues) -> Report:
    """Measure all servers of all exports at all rates."""
    figures: dict[str, Any] = {"limit_ms": 1000 * _LIMIT, "cores": os.cpu_count(), "servers": {}}
    rows = []
    for export, plays in itertools.product(args.export, args.plays):
        titles = len(np.load(Path(export) / "arrays/title_key.npy", mmap_mode="r"))
        what = f"{titles:,} titles, {plays} plays"
        with tempfile.TemporaryDirectory() as folder:
            table = figures["servers"][what] = _table(args, export, plays, Path(folder))
        rows += _rows(what, table)
        for size in (1, 16):
            name, milliseconds, _ = _processor_row(export, plays, size)
            rows.append((f"{what}, {name}", milliseconds, ""))
        if args.json:  # so that a later failure loses no export that was measured
            write_json(Path(args.json), figures)
        if args.peer_python:
            seconds = rectools_seconds(args.peer_python, titles, int(plays), _PEER_CALLS)
            result = table["RecTools"] = summary(np.array(seconds), 0, sum(seconds))
            text = " / ".join(f"{result[f'p{p}_ms']:.1f}" for p in (50, 90, 99))
            each = f"{len(seconds) / sum(seconds):.1f} users/s"
            rows.append((f"{what}, RecTools' recommend in a loop", f"p50 / p90 / p99 {text} ms", each))
    return Report("serve", figures, rows)


if __name__ == "__main__":
    run(main, _flags)
