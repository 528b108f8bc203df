"""RecTools' SASRec, eSASRec or HSTU on a log: rank of each user's last play, as a CSV.

    python benchmarks/peers/rectools_ranking.py LOG.csv RANKS.csv --settings '{"n_factors": 50, ...}'

The script runs alone, in an interpreter with `pip install "rectools[torch]==0.19.*" torch==2.13.0`. The log
is a CSV of user,item,timestamp. The model is trained on all plays but each user's last, without validation.
The model's own `recommend` ranks the catalogue for each user, without the titles that the user has played.
RANKS.csv holds user,rank: the rank of the target, from 1, or 0 where the target is not among the first
--deep. A title that occurs only as a target is unknown to RecTools: rank 0 too. The one printed line is
JSON: versions of the libraries, seconds and losses of the epochs.

--settings are RecTools' arguments of the model, and "kind" ("sasrec", "ligr" for eSASRec, or "hstu"),
"epochs", "seed". HSTU gets the time of the last play, from which it computes the time since each earlier
play; jaxrec's queries hold this time as well.
"""

import argparse
import json
from importlib import metadata
from pathlib import Path
from typing import Any

_LIBRARIES = ("rectools", "torch", "pytorch-lightning", "numpy", "pandas")
_CLASSES = {"transformer_layers_type"}  # settings that name a class


def read_log(path: Path) -> tuple[Any, Any]:
    """Return the training plays and each user's last play, in RecTools' columns."""
    import pandas as pd

    log = pd.read_csv(path).rename(columns={"user": "user_id", "item": "item_id", "timestamp": "datetime"})
    log["datetime"], log["weight"] = pd.to_datetime(log["datetime"], unit="s"), 1.0
    log = log.sort_values(["user_id", "datetime"], kind="stable")
    last = ~log["user_id"].duplicated(keep="last")
    return log[~last].reset_index(drop=True), log[last].reset_index(drop=True)


def ranks(recommended: Any, targets: Any) -> Any:
    """Return the rank of each row's target in `recommended`, or 0.

    `targets` has columns user_id and item_id.
    """
    merged = targets[["user_id", "item_id"]].merge(recommended, "left", on=["user_id", "item_id"])
    return merged["rank"].fillna(0).astype(int)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("log", type=Path)
    parser.add_argument("ranks", type=Path)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--deep", type=int, default=100)
    args = parser.parse_args()

    import torch
    from rectools.dataset import Dataset
    from rectools.models import HSTUModel, SASRecModel
    from rectools.utils.misc import import_object
    from rectools_sasrec import trainer  # Python searches the script's folder first

    settings: dict[str, Any] = dict(args.settings)
    kind, epochs, seed = (settings.pop(name) for name in ("kind", "epochs", "seed"))
    for name in settings.keys() & _CLASSES:  # constructors take classes, not their names
        settings[name] = import_object(settings[name])
    torch.manual_seed(seed)
    train, targets = read_log(args.log)
    dataset = Dataset.construct(train)
    epoch_lines: list[dict[str, Any]] = []
    make = {"sasrec": SASRecModel, "ligr": SASRecModel, "hstu": HSTUModel}[kind]
    model = make(
        **settings, get_trainer_func=lambda: trainer(epochs, False, lambda **v: epoch_lines.append(v))
    )
    model.fit(dataset)
    users = targets["user_id"][targets["user_id"].isin(train["user_id"])].to_numpy()
    context = targets[["user_id", "datetime"]].assign(weight=1.0) if kind == "hstu" else None
    recommended = model.recommend(users, dataset, args.deep, filter_viewed=True, context=context)
    out = targets[["user_id"]].assign(rank=ranks(recommended, targets))
    out.rename(columns={"user_id": "user"}).to_csv(args.ranks, index=False)
    print(
        json.dumps(
            {
                "versions": {name: metadata.version(name) for name in _LIBRARIES},
                "threads": torch.get_num_threads(),
                "interactions": len(train),
                "titles": int(train["item_id"].nunique()),
                "parameters": sum(p.numel() for p in model.lightning_model.torch_model.parameters()),
                "seconds": [s["seconds"] for s in epoch_lines],
                "cpu_seconds": [s["cpu_seconds"] for s in epoch_lines],
                "loss": [s["loss"] for s in epoch_lines],
            }
        )
    )


if __name__ == "__main__":
    main()
