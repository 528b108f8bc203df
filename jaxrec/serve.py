"""Serve an export over HTTP.

Usage: python -m jaxrec.serve --export DIR
"""

import math
import os
from pathlib import Path

from absl import flags

from jaxrec.cli.app import run
from jaxrec.core.errors import InputError

_TOKEN = "JAXREC_SERVE_TOKEN"


def _flags() -> None:
    flags.DEFINE_string("export", None, "folder that python -m jaxrec.export wrote", required=True)
    flags.DEFINE_string("host", "127.0.0.1", "address to listen at; 0.0.0.0: all addresses")
    flags.DEFINE_integer("port", 8000, "port; 0: a free one", lower_bound=0, upper_bound=65535)
    flags.DEFINE_integer("threads", 1, "threads of a computation on a CPU", lower_bound=1)
    flags.DEFINE_integer("max_batch", 16, "most requests of a batch", lower_bound=1, upper_bound=1024)
    flags.DEFINE_float(
        "batch_deadline_ms", 2.0, "milliseconds that a request waits for others of its batch", lower_bound=0.0
    )
    flags.DEFINE_float("timeout", 5.0, "seconds until a request is answered with 504", lower_bound=0.1)
    flags.DEFINE_integer("max_queue", 256, "most requests that wait; further ones get 503", lower_bound=1)
    flags.DEFINE_integer("max_body", 2**21, "most bytes of a body", lower_bound=1000)
    flags.DEFINE_integer("max_k", 100, "most titles of a list; the export may allow fewer", lower_bound=1)
    flags.DEFINE_integer("max_plays", 10_000, "most plays of a history", lower_bound=1)
    flags.DEFINE_integer("max_titles", 1000, "most titles of score, allow and deny", lower_bound=1)
    flags.DEFINE_integer("cache", 10_000, "most answers in the cache; 0: no cache", lower_bound=0)
    flags.DEFINE_float("drain", 1.0, "seconds that a stop signal leaves to clients", lower_bound=0.0)
    flags.DEFINE_float("reload_every", 5.0, "seconds between looks for a new export; 0: only on SIGHUP")
    flags.DEFINE_string("slates", "", "folder that python -m jaxrec.live slates wrote; empty: none")
    flags.DEFINE_float(
        "slate_max_age", 300.0, "seconds for which devices keep a slate, on average", lower_bound=0.0
    )
    flags.DEFINE_string(
        "live_log", "", "SQLite file to which python -m jaxrec.live produce writes messages; empty: no stream"
    )
    flags.DEFINE_float("heartbeat", 15.0, "seconds between signs of life of a stream", lower_bound=0.1)
    flags.DEFINE_integer("max_streams", 10_000, "most devices connected to the stream", lower_bound=1)
    flags.DEFINE_string(
        "token_file", "", f"file with the token of /v1; without it the variable {_TOKEN}, else no token"
    )


def main(args: flags.FlagValues) -> None:
    """Serve until a stop signal."""
    token = os.environ.get(_TOKEN, "")
    if args.token_file:
        try:
            token = Path(args.token_file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise InputError(f"--token_file={args.token_file}: {reason}; allowed: a file") from error
        if not token:
            raise InputError(f"--token_file={args.token_file} is empty; allowed: a file with a token")
    # Read when jax starts. A call uses all cores otherwise, also those of the thread that reads requests.
    os.environ.setdefault("NPROC", str(args.threads))
    if args.threads == 1:
        earlier = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{earlier} --xla_cpu_multi_thread_eigen=false".strip()
    try:
        from jaxrec.service.options import ServiceOptions
        from jaxrec.service.server import serve
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "prometheus_client", "pydantic", "starlette"):
            raise
        raise InputError(f"{error.name} is not installed; pip install 'jaxrec[serve]'") from error
    for name in ("batch_deadline_ms", "timeout", "drain", "reload_every", "slate_max_age", "heartbeat"):
        if not math.isfinite(getattr(args, name)):
            raise InputError(f"--{name}={getattr(args, name):g}; allowed: a finite number")
    options = ServiceOptions(
        args.max_batch, args.batch_deadline_ms / 1000, args.timeout, args.max_queue, args.max_body,
        args.max_k, args.max_plays, args.max_titles, args.cache, args.drain, args.reload_every, token,
        args.slates, args.slate_max_age, args.live_log, args.heartbeat, args.max_streams,
    )  # fmt: skip
    serve(args.export, options, args.host, args.port)


if __name__ == "__main__":
    run(main, _flags)
