"""Latency of POST /v1/search while users type names, at fixed rates.

    python -m benchmarks.search_latency --export DIR [--rates 10,20,50] [--plays 20] [--json F]

Each user types the name of a random title, and the box sends a search at each letter from the second to the
eighth. The arrivals are open-loop and Poisson, as in `benchmarks.serve`, from a process of its own. Each
search has a user never seen, so that the cache has no answer. The processor time is that of the computing
thread for a search alone, without HTTP.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.command import Report, run
from benchmarks.serve import bodies, send, start_server, summary

PATH = "/v1/search"
_LETTERS = range(2, 9)  # letters of a query
_TARGET = 50.0  # milliseconds: the target of the service for the 99th percentile
_CALLS = 60


def _flags() -> None:
    flags.DEFINE_string("export", None, "folder that python -m jaxrec.export wrote", required=True)
    flags.DEFINE_list("rates", ["10", "20", "50"], "searches per second")
    flags.DEFINE_integer("plays", 20, "plays of a history", lower_bound=1)
    flags.DEFINE_integer("max_batch", 4, "most searches of a batch", lower_bound=1)
    flags.DEFINE_float("seconds", 10.0, "seconds of each rate", lower_bound=0.5)
    flags.DEFINE_integer("port", 8890, "port of the service")


def search_bodies(folder: str, plays: int, number: int, seed: int) -> list[bytes]:
    """Return searches in the order of the letters, of names drawn at random."""
    names = np.load(Path(folder) / "arrays/title_names.npy").astype(str)
    names = names[np.char.str_len(names) >= _LETTERS[0]]
    queries, rng = list[str](), np.random.default_rng(seed)
    while len(queries) < number:
        name = str(rng.choice(names))
        queries += [name[:length] for length in _LETTERS if length <= len(name)]
    users = bodies(folder, plays, number, seed)
    return [
        json.dumps(json.loads(body) | {"query": q}).encode() for body, q in zip(users, queries, strict=False)
    ]


def client(arguments: list[str]) -> None:
    """Run the client of one rate, and print its latencies as JSON."""
    folder, port, rate, duration, plays, seed = arguments
    number = max(int(float(rate) * float(duration)), 1)
    requests = search_bodies(folder, int(plays), number, int(seed))
    seconds, failed = asyncio.run(send(int(port), requests, float(rate), int(seed), PATH))
    print(json.dumps({"seconds": seconds, "failed": failed}))


def processor_seconds(folder: str, plays: int) -> float:
    """Return the median seconds of processor time of one search, without HTTP."""
    from jaxrec.service.answers.model import ServedModel
    from jaxrec.service.options import ServiceOptions

    model = ServedModel.load(folder, ServiceOptions(max_batch=1))
    model.compile()
    parse = model.schemas.search.model_validate_json
    seconds = []
    for body in search_bodies(folder, plays, _CALLS, 0):
        start = time.process_time()
        model.answer([model.search_job(parse(body))])
        seconds.append(time.process_time() - start)
    return float(np.median(seconds))


def main(args: flags.FlagValues) -> Report:
    """Measure all rates on one service."""
    figures: dict[str, Any] = {"rates": {}, "plays": args.plays}
    code = "import sys; from benchmarks.search_latency import client; client(sys.argv[1:])"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "jaxrec.serve", "--export", args.export, "--port", str(args.port), "--cache", "0",
                 "--reload_every", "0", "--max_batch", str(args.max_batch)]  # fmt: skip
        server = start_server(words, args.port, Path(folder) / "log")
        try:
            for seed, rate in enumerate(["5", *args.rates]):  # the first rate is not reported
                words_of_client = [args.export, args.port, rate, args.seconds, args.plays, seed]
                done = subprocess.run(
                    [sys.executable, "-c", code, *map(str, words_of_client)],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                measured = json.loads(done.stdout)
                if seed:
                    figures["rates"][rate] = summary(
                        np.array(measured["seconds"]), measured["failed"], args.seconds
                    )
        finally:
            server.kill()
            server.wait()
    for rate, result in figures["rates"].items():
        text = " / ".join(f"{result[f'p{p}_ms']:.1f}" for p in (50, 90, 99))
        within = "within" if result["p99_ms"] <= _TARGET else "above"
        target = f"{within} the target of {_TARGET:g} ms; {result['failed']} failed of {result['requests']}"
        rows.append((f"{rate} searches/s: p50 / p90 / p99", f"{text} ms", target))
    figures["processor_ms"] = 1000 * processor_seconds(args.export, args.plays)
    rows.append(("processor time of a search alone", f"{figures['processor_ms']:.2f} ms", ""))
    return Report("Searches at every letter", figures, rows)


if __name__ == "__main__":
    run(main, _flags)
