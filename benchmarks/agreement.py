"""python -m benchmarks.agreement --peer-python ENV/bin/python --log simulated: do we rank as RecTools does?

Both train the model of configs/sequences.py:sasrec (or hstu) with the same settings on the same log, once a
seed, and order the whole catalogue for each user, seen titles left out; the target is the user's last play.
A log is a CSV of user,item,timestamp (seconds), or one of `LOGS`. What both are given of it: first plays of
titles alone, users with 5 or more, the latest --history + 1 plays of each, times that rise by a second at
least, so that nothing about order, repeats or what a history holds is left for either to settle otherwise.

HR@10 and NDCG@10 are ours, of ranks that each reports; a seed's are averaged user by user. The difference is
ours less theirs, its standard error that of the users' own differences: what is easy or hard about a user
cancels, what a seed brings does not, so seeds' own figures stand beside it.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from absl import flags

from benchmarks.command import Report, run
from jaxrec.config.loading import load_config
from jaxrec.config.schema import Config, Simulator
from jaxrec.core.errors import InputError
from jaxrec.evaluation import metrics
from jaxrec.sources.simulator.source import SimulatorSource

ROOT = Path(__file__).resolve().parents[1]
PEER = ROOT / "benchmarks/peers/rectools_ranking.py"
OURS, THEIRS = "jaxrec", "RecTools"
METRICS = ("hr@10", "ndcg@10")
FEWEST = 5  # plays of a user
VALIDATION = 0.001  # of users, whose last play but one is not trained on: a run wants one to be judged by
_SAMPLE = "../shared/data/kuairand_pure_sample"
Edits = dict[str, Any]  # key of a config -> value


# ---------------------------------------------------------------- the log


def simulated() -> pl.DataFrame:
    """What 3,000 users of a small simulated service play, twice as moved by mood and the week's interest as
    by default: about 20 titles each, of 300."""
    source = SimulatorSource(
        Simulator(
            users=3_000, test_only_users=0, titles=300, plays_per_user=20.0, interest=2.0, mood=2.0
        )
    )  # fmt: skip
    parts = [pl.DataFrame({"user": c.user, "item": c.title, "time": c.time}) for c in source.interactions()]
    return pl.concat(parts).with_columns(timestamp=pl.col("time") // 1000)


def kuairand() -> pl.DataFrame:
    """What was clicked in the KuaiRand log in the folder JAXREC_KUAIRAND."""
    folder = Path(os.environ.get("JAXREC_KUAIRAND", ROOT.parent / _SAMPLE))
    if not list(folder.glob("log_standard_*.csv")):
        raise InputError(f"--log=kuairand: {folder} holds no log_standard_*.csv; set JAXREC_KUAIRAND")
    log = pl.read_csv(folder / "log_standard_*.csv").filter(pl.col("is_click") == 1).sort("time_ms")
    return log.select(user="user_id", item="video_id", timestamp=pl.col("time_ms") // 1000)


LOGS: dict[str, Callable[[], pl.DataFrame]] = {"simulated": simulated, "kuairand": kuairand}


def read(name: str) -> pl.DataFrame:
    """Columns user, item, timestamp of one of LOGS or of a CSV."""
    if name in LOGS:
        return LOGS[name]()
    if not Path(name).is_file():
        raise InputError(f"--log={name}: no such file; allowed: {', '.join(LOGS)}, or a CSV")
    log = pl.read_csv(name)
    if missing := {"user", "item", "timestamp"} - set(log.columns):
        raise InputError(
            f"{name}: has no column {', '.join(sorted(missing))}; it has {', '.join(log.columns)}"
        )
    return log


def settled(log: pl.DataFrame, history: int) -> pl.DataFrame:
    """Columns user, item, timestamp of what both are given, by user and time; see the module. Plays of the
    same second keep the log's order."""
    log = log.select("user", "item", "timestamp").sort("user", "timestamp", maintain_order=True)
    log = log.unique(["user", "item"], keep="first", maintain_order=True)
    log = log.filter(pl.len().over("user") >= FEWEST)
    log = log.group_by("user", maintain_order=True).tail(history + 1)
    place = pl.int_range(pl.len()).over("user")
    rising = (pl.col("timestamp") - place).cum_max().over("user") + place
    return log.with_columns(timestamp=rising)


# ---------------------------------------------------------------- the two


def edited(model: str, log: Path, directory: Path, edits: Edits) -> list[str]:
    """The flags of `jaxrec.train` that make configs/sequences.py:<model> ours."""
    every = {"data.path": log, "data.directory": directory, "evaluate.which": "last",
             "data.validation_share": VALIDATION} | edits  # fmt: skip
    flags_ = [f"--config.{key}={value}" for key, value in every.items()]
    return ["--config", f"{ROOT / 'configs/sequences.py'}:{model}", *flags_]


def edits_of(loss: str, history: int, epochs: int) -> Edits:
    """What all runs of ours have otherwise than the config."""
    found: Edits = {
        "data.history": history,
        "model.experts[0].window": history,
        "train.length": f"{epochs} epochs",
    }
    if loss == "softmax":
        found |= {"next_title.loss": "softmax", "next_title.temperature": 1.0, "model.cosine": False}
    return found


def peers_settings(config: Config, loss: str, history: int) -> dict[str, Any]:
    """RecTools' arguments for the model of a config, with that loss: its own, or softmax of dot products."""
    (expert,) = config.model.experts
    cosine = config.model.cosine and loss != "softmax"
    return {
        "kind": expert.kind,
        "session_max_len": history,
        "n_factors": config.model.width,
        "n_blocks": expert.layers,
        "n_heads": expert.heads,
        "dropout_rate": expert.dropout,
        "batch_size": config.train.batch_size,
        "n_negatives": config.next_title.negatives,
        "loss": "softmax" if loss == "softmax" else config.next_title.loss,
        "lr": config.optimizer.learning_rate,
        "pos_encoding_kwargs": {"use_scale_factor": True},  # its HSTU's default, not its SASRec's
        "similarity_module_kwargs": {"distance": "cosine" if cosine else "dot"},
        "lightning_module_kwargs": {"logits_t": 1.0 if loss == "softmax" else config.next_title.temperature},
    }


def _run(command: list[str], who: str) -> str:
    """Standard output of a process. Raises InputError with its last words where it fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    except OSError as error:
        raise InputError(f"{who}: {command[0]}: {error.strerror}") from None
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise InputError(f"{who} ended with status {done.returncode}: {words[-1] if words else 'no word'}")
    return done.stdout


def ours(arguments: list[str], workdir: Path, batch_size: int) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Columns user, rank of a training run; and what it says of itself. A finished run is read again."""
    kept = workdir / "eval-test-last-per-query.parquet"
    if not kept.exists():
        command = [sys.executable, "-m", "jaxrec.train", *arguments, f"--workdir={workdir}", "--per_user"]
        _run(command, OURS)
    ranked = pl.read_parquet(kept).select("user", rank=pl.col("catalogue").cast(pl.Int64))
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    loss = [line["loss"] for line in lines if line["split"] == "train"]
    return ranked, {"seconds": trained_for(lines, batch_size), "last_loss": loss[-1]}


def trained_for(lines: list[dict[str, Any]], batch_size: int) -> float:
    """Seconds of training of metrics.jsonl's lines, steps at their rates: no compiling, no validation."""
    trained = [line for line in lines if line["split"] == "train"]
    steps = np.diff([0, *(line["step"] for line in trained)])
    return float((steps * batch_size / [line["examples_per_second"] for line in trained]).sum())


def theirs(
    python: str, log: Path, settings: dict[str, Any], out: Path
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Columns user, rank (0: not among the first 100); and what the peer says of itself. As `ours`."""
    said = out.with_suffix(".json")
    if not said.exists():
        command = [python, str(PEER), str(log), str(out), "--settings", json.dumps(settings)]
        said.write_text(_run(command, "--peer-python"))
    return pl.read_csv(out), json.loads(said.read_text())


# ---------------------------------------------------------------- what they differ by


def values(ranks: list[pl.DataFrame], users: pl.Series) -> dict[str, np.ndarray]:
    """metric -> [seeds, users] of runs' ranks, in the order of users' keys as text; rank 0 is behind all.
    Raises ValueError where a run did not rank for just these users."""
    users = users.cast(pl.String).sort()
    out: dict[str, list[np.ndarray]] = {name: [] for name in METRICS}
    for of_run in ranks:
        of_run = of_run.with_columns(pl.col("user").cast(pl.String)).sort("user")
        if not of_run["user"].equals(users):
            raise ValueError(f"ranked for {of_run.height:,} users, not for the log's {len(users):,}")
        rank = of_run["rank"].to_numpy()
        rank = np.where(rank == 0, np.iinfo(np.int32).max, rank)
        for name in METRICS:
            out[name].append(metrics.FULL[name](rank))
    return {name: np.stack(found) for name, found in out.items()}


def mean_and_error(of_user: np.ndarray) -> tuple[float, float]:
    """The mean of [users] and its standard error."""
    return float(of_user.mean()), float(of_user.std(ddof=1) / len(of_user) ** 0.5)


def compared(mine: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Of [seeds, users] each: means, their standard errors over users, and the difference in its own."""
    difference, error = mean_and_error(mine.mean(0) - other.mean(0))
    found: dict[str, Any] = {"difference": difference, "error": error}
    found["in_errors"] = difference / error if error else 0.0
    for name, of in ((OURS, mine), (THEIRS, other)):
        mean, its_error = mean_and_error(of.mean(0))
        found[name] = {"mean": mean, "error": its_error, "seeds": of.mean(1).tolist()}
    return found


# ---------------------------------------------------------------- the command


def _flags() -> None:
    flags.DEFINE_string("peer_python", None, "an interpreter with rectools[torch]", required=True)
    flags.DEFINE_string("log", "simulated", f"{', '.join(LOGS)}, or a CSV of user,item,timestamp")
    flags.DEFINE_enum("model", "sasrec", ["sasrec", "hstu"], "of configs/sequences.py")
    flags.DEFINE_enum("loss", "config", ["config", "softmax"], "the config's, or softmax of dot products")
    flags.DEFINE_integer("epochs", 30, "of each", lower_bound=1)
    flags.DEFINE_integer("seeds", 2, "runs of each", lower_bound=1)
    flags.DEFINE_integer("history", 32, "titles looked back on, a multiple of 4", lower_bound=4)
    flags.DEFINE_multi_string("edit", [], "key=value of ours, as --config.key=value of jaxrec.train")
    flags.DEFINE_string("peer_settings", "{}", "JSON of RecTools' arguments besides")
    flags.DEFINE_string("workdir", "", "keeps the runs; finished ones are not run again; empty: kept nowhere")


def main(found: flags.FlagValues) -> Report:
    with tempfile.TemporaryDirectory(prefix="jaxrec-agreement-") as folder:
        return _main(found, Path(found.workdir or folder))


def _main(found: flags.FlagValues, folder: Path) -> Report:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.csv"
    plays = settled(read(found.log), found.history)
    plays.write_csv(log)
    users = plays["user"].unique()
    edits = edits_of(found.loss, found.history, found.epochs) | dict(e.split("=", 1) for e in found.edit)
    arguments = edited(found.model, log, folder / "rows", edits)
    config = load_config(f"{ROOT / 'configs/sequences.py'}:{found.model}")
    settings = peers_settings(config, found.loss, found.history)
    settings |= json.loads(found.peer_settings) | {"epochs": found.epochs}
    ranks: dict[str, list[pl.DataFrame]] = {OURS: [], THEIRS: []}
    said: dict[str, list[dict[str, Any]]] = {OURS: [], THEIRS: []}
    for seed in range(found.seeds):
        of_seed = [*arguments, f"--config.train.seed={seed}"]
        mine = ours(of_seed, folder / f"jaxrec-{seed}", config.train.batch_size)
        peers = theirs(found.peer_python, log, settings | {"seed": seed}, folder / f"rectools-{seed}.csv")
        for name, (rank, about) in ((OURS, mine), (THEIRS, peers)):
            ranks[name].append(rank)
            said[name].append(about)
    each = {name: values(of, users) for name, of in ranks.items()}
    figures = {name: compared(each[OURS][name], each[THEIRS][name]) for name in METRICS}
    about = {"log": found.log, "users": len(users), "plays": plays.height, "titles": plays["item"].n_unique()}
    about |= {"flags": arguments, "settings": settings, "runs": said}
    return Report("agreement", about | {"metrics": figures}, _table(figures, said))


def _table(figures: dict[str, Any], said: dict[str, list[dict[str, Any]]]) -> list[tuple[str, str, str]]:
    rows = []
    for metric, found in figures.items():
        for name in (OURS, THEIRS):
            seeds = ", ".join(f"{mean:.4f}" for mean in found[name]["seeds"])
            rows.append((f"{name} {metric}", _beside(found[name]["mean"], found[name]["error"]), seeds))
        apart = f"{found['in_errors']:+.1f} standard errors"
        rows.append((f"difference in {metric}", _beside(found["difference"], found["error"]), apart))
    for name, runs in said.items():
        seconds = ", ".join(f"{np.sum(run['seconds']):,.0f}" for run in runs)
        rows.append((f"{name}: seconds of training", seconds, "a seed each"))
    return rows


def _beside(mean: float, error: float) -> str:
    return f"{mean:.4f} \u00b1 {error:.4f}"


if __name__ == "__main__":
    run(main, _flags)
