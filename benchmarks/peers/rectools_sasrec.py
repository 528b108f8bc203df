"""RecTools' SASRec on a log: seconds of each training epoch, as JSON lines.

    python benchmarks/peers/rectools_sasrec.py LOG.csv --epochs 2 [--held-out 1] [--threads 2] [--wait]

The script runs alone, in an interpreter with `pip install "rectools[torch]==0.19.*" torch==2.13.0` (which
requires numpy below 2, so not jaxrec's). The log is a CSV of user,item,timestamp. With --wait, each epoch
waits for a line on standard input, and the end of the input ends the process: a long-lived process excludes
its warm-up. The first printed line describes the run; one line per epoch follows; --epochs is then the
largest number of epochs.

The work of an epoch in RecTools 0.19, which jaxrec must do as well:
- Each user's latest 201 plays: 200 positions and their next titles, all padded on the left to 200. The last
  batch has the remaining sequences. No validation, no checkpoint, no progress display.
- The collate function draws 128 negatives for each of the 200 positions of each sequence, also for padding.
  The draws are uniform over the catalogue with replacement, and do not exclude the target and history titles
  (`CatalogUniformSampler`). They happen in the main process, as with the default dataloader_num_workers=0.
- The item table once through id embeddings without dropout; learned positions; causal
  `torch.nn.MultiheadAttention` and a feed-forward layer as wide as the model, twice; scores of the target
  and the 128 negatives by gathering [128, 200, 129, 50] vectors; softmax cross-entropy among them
  (`loss="sampled_softmax"`, at temperature 1: dot products), mean over positions that are not padding;
  backward; Adam(.9, .98) over dense gradients of all parameters.
An epoch is timed from Lightning's on_train_epoch_start to on_train_epoch_end. Reading the log and building
the dataset and the sequences are not included; their times are reported separately.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

SETTINGS: dict[str, Any] = {
    "session_max_len": 200,
    "n_factors": 50,
    "n_blocks": 2,
    "n_heads": 1,
    "dropout_rate": 0.2,
    "batch_size": 128,
    "n_negatives": 128,
    "loss": "sampled_softmax",
    "lr": 1e-3,
}
_LIBRARIES = ("rectools", "torch", "pytorch-lightning", "numpy", "pandas")


def read_log(path: Path, held_out: int) -> Any:
    """Return the log in RecTools' columns, without each user's `held_out` last plays."""
    import pandas as pd

    log = pd.read_csv(path).rename(columns={"user": "user_id", "item": "item_id", "timestamp": "datetime"})
    log["datetime"], log["weight"] = pd.to_datetime(log["datetime"], unit="s"), 1.0
    from_last = log.sort_values("datetime", kind="stable").groupby("user_id").cumcount(ascending=False)
    return log[from_last >= held_out].reset_index(drop=True)


def write_line(**values: Any) -> None:
    """Print `values` as a line of JSON."""
    print(json.dumps(values), flush=True)


def trainer(epochs: int, wait: bool, write_line: Callable[..., None] = write_line) -> Any:
    """Return a Lightning trainer that reports the seconds of each epoch.

    With `wait`, the trainer waits for a line on standard input before each epoch.
    """
    from pytorch_lightning import Callback, Trainer

    class Clock(Callback):
        started = worked = 0.0

        def on_train_start(self, trainer: Any, module: Any) -> None:
            if wait and not sys.stdin.readline():
                sys.exit(0)

        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            self.started, self.worked = time.perf_counter(), time.process_time()

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            seconds = time.perf_counter() - self.started
            # CPU time of all threads, which the load of a busy machine does not increase.
            cpu_seconds = time.process_time() - self.worked
            loss = float(trainer.callback_metrics["train_loss"])
            write_line(epoch=trainer.current_epoch, seconds=seconds, cpu_seconds=cpu_seconds, loss=loss)
            if wait and not sys.stdin.readline():
                trainer.should_stop = True

    return Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[Clock()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("log", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--held-out", type=int, default=0, help="last plays of each user, not trained on")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's default")
    parser.add_argument("--wait", action="store_true", help="wait for a line before each epoch")
    args = parser.parse_args()

    import torch
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    log = read_log(args.log, args.held_out)
    started = time.perf_counter()
    dataset = Dataset.construct(log)
    lengths = log["user_id"].value_counts().clip(upper=SETTINGS["session_max_len"] + 1)
    write_line(
        settings=SETTINGS,
        versions={name: metadata.version(name) for name in _LIBRARIES},
        threads=torch.get_num_threads(),
        cores=len(os.sched_getaffinity(0)),
        interactions=len(log),
        sequences=len(lengths),
        trained_places=int((lengths - 1).sum()),
        titles=int(log["item_id"].nunique()),
        construct_seconds=time.perf_counter() - started,
    )
    model = SASRecModel(**SETTINGS, get_trainer_func=lambda: trainer(args.epochs, args.wait))
    model.fit(dataset)


if __name__ == "__main__":
    main()
