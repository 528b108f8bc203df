"""RecTools' SASRec on a log of user,item,timestamp: seconds of each training epoch, as JSON lines.

python benchmarks/peers/rectools_sasrec.py LOG.csv --epochs 2 [--held-out 1] [--threads 2] [--told]

A file by itself, for an interpreter with `pip install "rectools[torch]==0.19.*" torch==2.13.0` (which holds
numpy below 2, so not jaxrec's). With --told every epoch waits for a line on standard input, and the end of
the input is the end: a long-lived process whose warm-up is out. The first line printed says what runs, then
comes one an epoch; --epochs is then the most.

The work of an epoch, in RecTools 0.19, which ours must do too:
- Each user's latest 201 plays: 200 places and their next titles, all padded on the left to 200. The last
  batch is what is left over. No validation, no checkpoint, no progress display.
- The collate draws 128 negatives for each of 200 places of each sequence, padding's too, evenly over the
  catalogue with replacement, the target and seen titles not left out (`CatalogUniformSampler`), in the main
  process, as dataloader_num_workers=0 has it by default.
- The item table once through dropout-free id embeddings; learned positions; causal
  `torch.nn.MultiheadAttention` and a feed-forward as wide as the model, twice; scores of the target and the
  128 by gathering [128, 200, 129, 50] vectors; softmax cross-entropy among them (`loss="sampled_softmax"`, at
  temperature 1: dot products), mean over places that are not padding; backward; Adam(.9, .98) over dense
  gradients of all parameters.
An epoch is timed from Lightning's on_train_epoch_start to its on_train_epoch_end; reading the log, building
the dataset and the sequences are not in it, and are given apart.
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
    """The log as RecTools names its columns, without each user's last `held_out` plays."""
    import pandas as pd

    log = pd.read_csv(path).rename(columns={"user": "user_id", "item": "item_id", "timestamp": "datetime"})
    log["datetime"], log["weight"] = pd.to_datetime(log["datetime"], unit="s"), 1.0
    from_last = log.sort_values("datetime", kind="stable").groupby("user_id").cumcount(ascending=False)
    return log[from_last >= held_out].reset_index(drop=True)


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def trainer(epochs: int, told: bool, say: Callable[..., None] = say) -> Any:
    """A Lightning trainer that says each epoch's seconds; `told`, it waits for a line before each."""
    from pytorch_lightning import Callback, Trainer

    class Clock(Callback):
        started = worked = 0.0

        def on_train_start(self, trainer: Any, module: Any) -> None:
            if told and not sys.stdin.readline():
                sys.exit(0)

        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            self.started, self.worked = time.perf_counter(), time.process_time()

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            seconds = time.perf_counter() - self.started
            of_cpu = time.process_time() - self.worked  # of all threads: what a busy machine does not stretch
            loss = float(trainer.callback_metrics["train_loss"])
            say(epoch=trainer.current_epoch, seconds=seconds, cpu_seconds=of_cpu, loss=loss)
            if told and not sys.stdin.readline():
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
    parser.add_argument("--held-out", type=int, default=0, help="of each user's last plays, not trained on")
    parser.add_argument("--threads", type=int, default=0, help="0: as PyTorch has it")
    parser.add_argument("--told", action="store_true", help="each epoch waits for a line")
    found = parser.parse_args()

    import torch
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    if found.threads:
        torch.set_num_threads(found.threads)
    torch.manual_seed(0)
    log = read_log(found.log, found.held_out)
    started = time.perf_counter()
    dataset = Dataset.construct(log)
    lengths = log["user_id"].value_counts().clip(upper=SETTINGS["session_max_len"] + 1)
    say(
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
    model = SASRecModel(**SETTINGS, get_trainer_func=lambda: trainer(found.epochs, found.told))
    model.fit(dataset)


if __name__ == "__main__":
    main()
