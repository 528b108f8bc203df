"""RecTools' SASRec: seconds to recommend to all users of a log, as JSON lines.

    python benchmarks/peers/rectools_recommend.py LOG.csv --settings '{"n_factors": 48, ...}' --k 20

The script runs alone, in an interpreter with `pip install "rectools[torch]==0.19.*" torch==2.13.0`. The log
is a CSV of user,item,timestamp. The model has its first weights: what it recommends means nothing, and takes
as long as after training. The first printed line describes the run. Each line of standard input is answered
by a line with the seconds of `model.recommend` for all users, without the titles that they played, from the
dataset in memory to a data frame; the end of the input ends the process. With --single N each line is
answered by the seconds of each of N calls for one user.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from rectools_sasrec import read_log, write_line  # Python searches the script's folder first


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("log", type=Path)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--single", type=int, default=0)
    args = parser.parse_args()

    from importlib import metadata

    import torch
    from pytorch_lightning import Trainer
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    torch.manual_seed(0)
    log = read_log(args.log, 0)
    dataset = Dataset.construct(log)

    def untrained() -> Trainer:
        return Trainer(
            accelerator="cpu", max_epochs=0, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip

    model = SASRecModel(**args.settings, get_trainer_func=untrained)
    model.fit(dataset)
    users = log["user_id"].unique()

    def seconds_of(of_users: list) -> float:
        started = time.perf_counter()
        model.recommend(of_users, dataset, k=args.k, filter_viewed=True)
        return time.perf_counter() - started

    write_line(
        versions={name: metadata.version(name) for name in ("rectools", "torch", "numpy", "pandas")},
        threads=torch.get_num_threads(),
        cores=len(os.sched_getaffinity(0)),
        users=len(users),
    )
    for _ in sys.stdin:
        if args.single:
            write_line(seconds=[seconds_of([user]) for user in users[: args.single]])
            continue
        started = time.perf_counter()
        rows = model.recommend(users, dataset, k=args.k, filter_viewed=True)
        write_line(seconds=time.perf_counter() - started, rows=len(rows))


if __name__ == "__main__":
    main()
