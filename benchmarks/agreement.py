"""Ranking quality of jaxrec and RecTools, trained alike on the same log.

    python -m benchmarks.agreement --peer-python ENV/bin/python --log simulated

Both train the model of configs/sequences.py:sasrec (or hstu, or esasrec) with the same settings on the same
log, once per seed. The rival of gru4rec is PyTorch's GRU, as RecTools has none. Both rank the whole
catalogue for each user, without the titles of the user's history. The target is the user's last play. A log
is a CSV of user,item,timestamp (seconds), or one of `LOGS`. The log is reduced so that order, repeats and
history contents leave no choice to either library: only the first play of each title, only users with 5 or
more plays, the latest --history + 1 plays of each user, and timestamps that increase by at least one
second.

This module computes HR@10 and NDCG@10 from the ranks that each library reports. Values are averaged over
seeds for each user. The difference is jaxrec's minus RecTools'. Its standard error is taken over the users'
differences, so that the difficulty of a user cancels. The variation of seeds does not cancel, so the
figures of each seed are reported as well.
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
PEERS = ROOT / "benchmarks/peers"
OURS, THEIRS = "jaxrec", "RecTools"
METRICS = ("hr@10", "ndcg@10")
FEWEST = 5  # least number of plays of a user
# Share of validation users, whose last play but one is not trained on: a run needs one to evaluate.
VALIDATION = 0.001
_SAMPLE = "../shared/data/kuairand_pure_sample"
Edits = dict[str, Any]  # key of a config -> value


# ---------------------------------------------------------------- the log


def simulated() -> pl.DataFrame:
    """Return the plays of 3,000 users of a small simulated service.

    Mood and the week's interest have twice their default effect: about 20 titles per user, of 300.
    """
    source = SimulatorSource(
        Simulator(
            users=3_000, test_only_users=0, titles=300, plays_per_user=20.0, interest=2.0, mood=2.0
        )
    )  # fmt: skip
    frames = [pl.DataFrame({"user": c.user, "item": c.title, "time": c.time}) for c in source.interactions()]
    return pl.concat(frames).with_columns(timestamp=pl.col("time") // 1000)


def kuairand() -> pl.DataFrame:
    """Return the clicks of the KuaiRand log in the folder JAXREC_KUAIRAND."""
    folder = Path(os.environ.get("JAXREC_KUAIRAND", ROOT.parent / _SAMPLE))
    if not list(folder.glob("log_standard_*.csv")):
        raise InputError(f"--log=kuairand: {folder} holds no log_standard_*.csv; set JAXREC_KUAIRAND")
    log = pl.read_csv(folder / "log_standard_*.csv").filter(pl.col("is_click") == 1).sort("time_ms")
    return log.select(user="user_id", item="video_id", timestamp=pl.col("time_ms") // 1000)


LOGS: dict[str, Callable[[], pl.DataFrame]] = {"simulated": simulated, "kuairand": kuairand}


def read(name: str) -> pl.DataFrame:
    """Return columns user, item, timestamp of one of LOGS or of a CSV file.

    Raises:
        InputError: The file does not exist or lacks a column.
    """
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


def reduce_log(log: pl.DataFrame, history: int) -> pl.DataFrame:
    """Return the log that both libraries read, by user and time; see the module.

    Plays of the same second keep the order of the log. Columns: user, item, timestamp.
    """
    log = log.select("user", "item", "timestamp").sort("user", "timestamp", maintain_order=True)
    log = log.unique(["user", "item"], keep="first", maintain_order=True)
    log = log.filter(pl.len().over("user") >= FEWEST)
    log = log.group_by("user", maintain_order=True).tail(history + 1)
    position = pl.int_range(pl.len()).over("user")
    rising = (pl.col("timestamp") - position).cum_max().over("user") + position
    return log.with_columns(timestamp=rising)


# ---------------------------------------------------------------- trainings


def training_flags(model: str, log: Path, directory: Path, edits: Edits) -> list[str]:
    """Return the flags of `jaxrec.train` for configs/sequences.py:<model> with edits."""
    settings = {"data.path": log, "data.directory": directory, "evaluate.checkpoint": "last",
             "data.validation_share": VALIDATION} | edits  # fmt: skip
    flags_ = [f"--config.{key}={value}" for key, value in settings.items()]
    return ["--config", f"{ROOT / 'configs/sequences.py'}:{model}", *flags_]


def shared_edits(loss: str, history: int, epochs: int) -> Edits:
    """Return the edits of the config that all runs of jaxrec share."""
    edits: Edits = {
        "data.max_history": history,
        "model.experts[0].max_len": history,
        "train.duration": f"{epochs} epochs",
    }
    if loss == "softmax":
        edits |= {"next_item.loss": "softmax", "next_item.temperature": 1.0, "model.cosine": False}
    return edits


def peer_settings(config: Config, loss: str, history: int) -> dict[str, Any]:
    """Return RecTools' arguments for the model of a config.

    The loss is the config's, or with loss="softmax" the softmax of dot products.
    """
    (expert,) = config.model.experts
    cosine = config.model.cosine and loss != "softmax"
    blocks: dict[str, Any] = {}
    if expert.encoder == "ligr":
        blocks = {
            "transformer_layers_type": "rectools.models.nn.transformers.ligr.LiGRLayers",
            "transformer_layers_kwargs": {"ff_factors_multiplier": int(expert.mlp_ratio)},
            "use_key_padding_mask": True,  # as in the configs of its authors
        }
    return blocks | {
        "kind": expert.encoder,
        "session_max_len": history,
        "n_factors": config.model.width,
        "n_blocks": expert.num_layers,
        "n_heads": expert.num_heads,
        "dropout_rate": expert.dropout,
        "batch_size": config.train.batch_size,
        "n_negatives": config.next_item.negatives,
        "loss": "softmax" if loss == "softmax" else config.next_item.loss,
        "lr": config.optimizer.learning_rate,
        "pos_encoding_kwargs": {"use_scale_factor": True},  # RecTools' default for HSTU, not for SASRec
        "similarity_module_kwargs": {"distance": "cosine" if cosine else "dot"},
        "lightning_module_kwargs": {"logits_t": 1.0 if loss == "softmax" else config.next_item.temperature},
    }


def _run(command: list[str], who: str) -> str:
    """Return the standard output of a process.

    Raises:
        InputError: The process failed. The message ends with the last line of standard error.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    except OSError as error:
        raise InputError(f"{who}: {command[0]}: {error.strerror}") from None
    if done.returncode:
        error_lines = done.stderr.strip().splitlines()
        raise InputError(
            f"{who} ended with status {done.returncode}: {error_lines[-1] if error_lines else 'no output'}"
        )
    return done.stdout


def ours(arguments: list[str], workdir: Path, batch_size: int) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Train jaxrec or read a finished run; return columns user, rank, and figures."""
    ranks_path = workdir / "eval-test-last-per-query.parquet"
    if not ranks_path.exists():
        command = [sys.executable, "-m", "jaxrec.train", *arguments, f"--workdir={workdir}", "--per_user"]
        _run(command, OURS)
    ranked = pl.read_parquet(ranks_path).select("user", rank=pl.col("catalogue").cast(pl.Int64))
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    loss = [line["loss"] for line in lines if line["split"] == "train"]
    return ranked, {"seconds": trained_for(lines, batch_size), "last_loss": loss[-1]}


def trained_for(lines: list[dict[str, Any]], batch_size: int) -> float:
    """Return the training seconds of metrics.jsonl's lines, as steps divided by rates.

    Compilation and validation are not included.
    """
    trained = [line for line in lines if line["split"] == "train"]
    steps = np.diff([0, *(line["step"] for line in trained)])
    return float((steps * batch_size / [line["examples_per_second"] for line in trained]).sum())


def theirs(
    python: str, log: Path, settings: dict[str, Any], out: Path
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Train RecTools or read a finished run; return columns user, rank, and figures.

    Rank 0 stands for a target that is not among the first 100.
    """
    figures_path = out.with_suffix(".json")
    if not figures_path.exists():
        script = "torch_gru4rec.py" if settings["kind"] == "gru4rec" else "rectools_ranking.py"
        command = [python, str(PEERS / script), str(log), str(out), "--settings", json.dumps(settings)]
        figures_path.write_text(_run(command, "--peer-python"))
    return pl.read_csv(out), json.loads(figures_path.read_text())


# ---------------------------------------------------------------- comparison


def user_metrics(ranks: list[pl.DataFrame], users: pl.Series) -> dict[str, np.ndarray]:
    """Return metric -> values [seeds, users], users ordered by their keys as text.

    Args:
        ranks: One frame per seed with columns user and rank. Rank 0 counts as behind all titles.
        users: Users of the log.

    Raises:
        ValueError: A run ranked for other users than `users`.
    """
    users = users.cast(pl.String).sort()
    out: dict[str, list[np.ndarray]] = {name: [] for name in METRICS}
    for run_ranks in ranks:
        run_ranks = run_ranks.with_columns(pl.col("user").cast(pl.String)).sort("user")
        if not run_ranks["user"].equals(users):
            raise ValueError(f"ranked for {run_ranks.height:,} users, not for the log's {len(users):,}")
        rank = run_ranks["rank"].to_numpy()
        rank = np.where(rank == 0, np.iinfo(np.int32).max, rank)
        for name in METRICS:
            out[name].append(metrics.FULL[name](rank))
    return {name: np.stack(values) for name, values in out.items()}


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Return the mean over users and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def compare(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Compare values [seeds, users] of jaxrec with those of RecTools.

    Returns:
        Means and their standard errors over users, the means of the seeds, the difference (jaxrec minus
        RecTools) and the difference in units of its standard error.
    """
    difference, error = mean_and_error(ours.mean(0) - theirs.mean(0))
    comparison: dict[str, Any] = {"difference": difference, "error": error}
    comparison["in_errors"] = difference / error if error else 0.0
    for name, values in ((OURS, ours), (THEIRS, theirs)):
        mean, mean_error = mean_and_error(values.mean(0))
        comparison[name] = {"mean": mean, "error": mean_error, "seeds": values.mean(1).tolist()}
    return comparison


# ---------------------------------------------------------------- the command


def _flags() -> None:
    flags.DEFINE_string("peer_python", None, "Python interpreter with rectools[torch]", required=True)
    flags.DEFINE_string("log", "simulated", f"{', '.join(LOGS)}, or a CSV of user,item,timestamp")
    flags.DEFINE_enum(
        "model", "sasrec", ["sasrec", "hstu", "esasrec", "gru4rec"], "model of configs/sequences.py"
    )
    flags.DEFINE_enum("loss", "config", ["config", "softmax"], "the config's, or softmax of dot products")
    flags.DEFINE_integer("epochs", 30, "epochs of each training", lower_bound=1)
    flags.DEFINE_integer("seeds", 2, "trainings of each library", lower_bound=1)
    flags.DEFINE_integer("history", 32, "titles in a history, a multiple of 4", lower_bound=4)
    flags.DEFINE_multi_string("edit", [], "key=value for jaxrec, as --config.key=value of jaxrec.train")
    flags.DEFINE_string("peer_settings", "{}", "JSON of further arguments of RecTools")
    flags.DEFINE_string("workdir", "", "folder of the runs; finished runs are reused; empty: temporary")


def main(args: flags.FlagValues) -> Report:
    with tempfile.TemporaryDirectory(prefix="jaxrec-agreement-") as folder:
        return _main(args, Path(args.workdir or folder))


def _main(args: flags.FlagValues, folder: Path) -> Report:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.csv"
    plays = reduce_log(read(args.log), args.history)
    plays.write_csv(log)
    users = plays["user"].unique()
    edits = shared_edits(args.loss, args.history, args.epochs) | dict(e.split("=", 1) for e in args.edit)
    arguments = training_flags(args.model, log, folder / "rows", edits)
    config = load_config(f"{ROOT / 'configs/sequences.py'}:{args.model}")
    settings = peer_settings(config, args.loss, args.history)
    settings |= json.loads(args.peer_settings) | {"epochs": args.epochs}
    ranks: dict[str, list[pl.DataFrame]] = {OURS: [], THEIRS: []}
    run_figures: dict[str, list[dict[str, Any]]] = {OURS: [], THEIRS: []}
    for seed in range(args.seeds):
        seed_arguments = [*arguments, f"--config.train.seed={seed}"]
        our_run = ours(seed_arguments, folder / f"jaxrec-{seed}", config.train.batch_size)
        their_run = theirs(args.peer_python, log, settings | {"seed": seed}, folder / f"rectools-{seed}.csv")
        for name, (rank, about) in ((OURS, our_run), (THEIRS, their_run)):
            ranks[name].append(rank)
            run_figures[name].append(about)
    metrics_by_library = {name: user_metrics(of, users) for name, of in ranks.items()}
    figures = {
        name: compare(metrics_by_library[OURS][name], metrics_by_library[THEIRS][name]) for name in METRICS
    }
    about = {"log": args.log, "users": len(users), "plays": plays.height, "titles": plays["item"].n_unique()}
    about |= {"flags": arguments, "settings": settings, "runs": run_figures}
    return Report("agreement", about | {"metrics": figures}, _table(figures, run_figures))


def _table(
    figures: dict[str, Any], run_figures: dict[str, list[dict[str, Any]]]
) -> list[tuple[str, str, str]]:
    rows = []
    for metric, comparison in figures.items():
        for name in (OURS, THEIRS):
            seeds = ", ".join(f"{mean:.4f}" for mean in comparison[name]["seeds"])
            rows.append(
                (f"{name} {metric}", _with_error(comparison[name]["mean"], comparison[name]["error"]), seeds)
            )
        apart = f"{comparison['in_errors']:+.1f} standard errors"
        rows.append(
            (f"difference in {metric}", _with_error(comparison["difference"], comparison["error"]), apart)
        )
    for name, runs in run_figures.items():
        seconds = ", ".join(f"{np.sum(run['seconds']):,.0f}" for run in runs)
        rows.append((f"{name}: seconds of training", seconds, "one per seed"))
    return rows


def _with_error(mean: float, error: float) -> str:
    return f"{mean:.4f} \u00b1 {error:.4f}"


if __name__ == "__main__":
    run(main, _flags)
