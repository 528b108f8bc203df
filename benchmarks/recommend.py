"""Users served per second by `python -m jaxrec.recommend`, beside the model alone and beside RecTools.

    python -m benchmarks.recommend --checkpoint W [--users 1000000] [--peer-python ENV/bin/python]

W is a run on the simulated service. The histories of as many users of that service, none of whom the model
has seen, are written to a Parquet file. "recommend" reads the file, groups the plays by user, builds the
requests, ranks the whole catalogue without the titles that a user played, and writes a Parquet file. "the
model alone" runs the same compiled program on requests of the first users, ready in memory. For a next-item
SASRec, `peers/rectools_recommend.py` is RecTools' own batch path over the same users, for a model of the same
shape, from a dataset in memory to a data frame. The peak memory is that of the whole command in a new
process, for a tenth of the users and for all.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from absl import flags

from benchmarks.command import Report, run, spread
from benchmarks.measure import Timing, interleaved, ratio
from benchmarks.sequences import peer
from jaxrec.config.schema import Config, Simulator
from jaxrec.core.errors import InputError
from jaxrec.core.paths import as_path
from jaxrec.serving.filters import Filters, TitleFilter
from jaxrec.serving.recommender import Recommender
from jaxrec.sources.frames import TableWriter
from jaxrec.sources.simulator.source import SimulatorSource

ROOT = Path(__file__).resolve().parents[1]
PEER = ROOT / "benchmarks/peers/rectools_recommend.py"
OURS, ALONE, THEIRS = "recommend", "the model alone", "RecTools"


def write_histories(path: Path, source: Simulator, users: int) -> None:
    """Write the plays of the first `users` users of a simulated service as Parquet."""
    simulated = SimulatorSource(replace(source, users=users, test_only_users=0))
    titles = simulated.titles().key
    with TableWriter("histories", str(path)) as writer:
        for chunk in simulated.interactions():
            writer.add({
                "user_id": chunk.user, "title_id": titles[chunk.title], "time": chunk.time,
                "seconds_viewed": chunk.seconds, **chunk.context,
            })  # fmt: skip


def write_log(path: Path, histories: Path) -> None:
    """Write histories as the peer's CSV of user,item,timestamp."""
    frame = pl.scan_parquet(histories)
    time = (pl.col("time") // 1000).alias("timestamp")
    frame.select(pl.col("user_id").alias("user"), pl.col("title_id").alias("item"), time).sink_csv(path)


def recommend(recommender: Recommender, histories: Path, out: Path, k: int) -> int:
    """Recommend to all users of a file, into a file; return the number of users."""
    with TableWriter("--out", str(out)) as writer:
        for group in recommender.stream(str(histories), k):
            writer.add(group.columns)
    return int(group.counts["users"])


def model_alone(recommender: Recommender, histories: Path, k: int) -> tuple[Callable[[], Any], int]:
    """Return a call that ranks the catalogue for ready requests, and the number of their users."""
    requests = next(recommender._builder.read(str(histories)))
    exclusions = TitleFilter(Filters(), recommender.config, recommender.arrays, None).exclusions(requests)
    return lambda: recommender._scorer.top(requests.rows, k, exclusions), len(requests.key)


def peak_memory(checkpoint: str, histories: Path, out: Path, k: int) -> int:
    """Return the largest resident bytes of the recommend command in a new process.

    Raises:
        InputError: The command failed.
    """
    command = [sys.executable, "-m", "jaxrec.recommend", "--checkpoint", checkpoint, "--index", "exact"]
    command += ["--histories", str(histories), "--out", str(out), "--k", str(k)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise InputError(f"jaxrec.recommend ended with status {process.returncode}")
    return usage.ru_maxrss * 1024


def peer_settings(config: Config) -> dict[str, Any] | None:
    """Return RecTools' arguments for the shape of a next-item SASRec; None for other models."""
    experts, model = config.model.experts, config.model
    if config.task.name != "next_item" or len(experts) != 1 or experts[0].encoder != "sasrec":
        return None
    return {
        "n_factors": model.width, "n_blocks": experts[0].num_layers, "n_heads": experts[0].num_heads,
        "session_max_len": experts[0].max_len, "dropout_rate": experts[0].dropout,
    }  # fmt: skip


# ---------------------------------------------------------------- the command


def _flags() -> None:
    flags.DEFINE_string("checkpoint", None, "workdir of a run on the simulated service", required=True)
    flags.DEFINE_integer("users", 1_000_000, "users to serve", lower_bound=10)
    flags.DEFINE_integer("k", 20, "titles of each user", lower_bound=1)
    flags.DEFINE_integer("rounds", 3, "rounds; each times all rivals once", lower_bound=1)
    flags.DEFINE_bool("memory", True, "measure the peak memory of the command")
    flags.DEFINE_string("peer_python", "", "Python interpreter with rectools[torch]; empty: without the peer")


def main(args: flags.FlagValues) -> Report:
    recommender = Recommender.load(as_path(args.checkpoint), index="exact")
    source = recommender.config.source
    if not isinstance(source, Simulator):
        raise InputError(f"--checkpoint={args.checkpoint}: allowed: a run on the simulated service")
    settings = peer_settings(recommender.config)
    if args.peer_python and settings is None:
        raise InputError("--peer_python: allowed for a next-item SASRec, such as sequences.py:simulated")
    with tempfile.TemporaryDirectory(prefix="jaxrec-recommend-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        whole, tenth = folder / "whole.parquet", folder / "tenth.parquet"
        write_histories(whole, source, args.users)
        alone, ready = model_alone(recommender, whole, args.k)
        work = {ALONE: ready, OURS: args.users}
        turns: dict[str, Callable[[], Any]] = {
            ALONE: alone,
            OURS: lambda: recommend(recommender, whole, folder / "out.parquet", args.k),
        }
        figures: dict[str, Any] = {"users": args.users, "k": args.k, "titles": len(recommender.titles)}
        if args.peer_python:
            write_log(folder / "log.csv", whole)
            command = [args.peer_python, str(PEER), str(folder / "log.csv"), "--k", str(args.k)]
            theirs = stack.enter_context(peer([*command, "--settings", json.dumps(settings)]))
            turns[THEIRS], work[THEIRS] = theirs.epoch, args.users
            figures["peer"] = theirs.about
        alone()  # compiles; the other rivals have no round that is not counted: theirs take minutes
        timed = interleaved(turns, args.rounds, warmup=0)
        if args.memory:
            write_histories(tenth, source, args.users // 10)
            figures["peak_bytes"] = {
                users: peak_memory(args.checkpoint, path, folder / "out.parquet", args.k)
                for users, path in ((args.users // 10, tenth), (args.users, whole))
            }
    figures["users_per_second"] = {name: timing.rate(work[name]) for name, timing in timed.items()}
    per_user = {name: Timing(tuple(s / work[name] for s in timed[name].seconds)) for name in timed}
    figures["share_of_the_model"] = ratio(per_user[ALONE], per_user[OURS])
    if THEIRS in per_user:
        figures["times_faster"] = ratio(per_user[THEIRS], per_user[OURS])
    return Report("recommend", figures, _table(figures, ready))


def _table(figures: dict[str, Any], ready: int) -> list[tuple[str, str, str]]:
    titles = f"{figures['titles']:,} titles"
    about = {
        OURS: f"{figures['users']:,} users, {titles}, from Parquet to Parquet",
        ALONE: f"{ready:,} ready requests, {titles}",
        THEIRS: "from a dataset in memory to a data frame",
    }
    rates = figures["users_per_second"]
    rows = [(name, spread(rate, "users/s", 0), about[name]) for name, rate in rates.items()]
    share = figures["share_of_the_model"]
    rows.append((f"{OURS} to {ALONE}", spread(share), "target 0.8"))
    if "times_faster" in figures:
        rows.append((f"{OURS} to {THEIRS}", spread(figures["times_faster"], "times"), ""))
    for users, size in figures.get("peak_bytes", {}).items():
        rows.append((f"peak memory, {users:,} users", f"{size / 2**20:,.0f} MiB", "whole process"))
    return rows


if __name__ == "__main__":
    run(main, _flags)
