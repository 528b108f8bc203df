"""RecTools' SASRec or HSTU on a log of user,item,timestamp: where each user's last play ranks, as a CSV.

python benchmarks/peers/rectools_ranking.py LOG.csv RANKS.csv --settings '{"n_factors": 50, ...}'

A file by itself, for an interpreter with `pip install "rectools[torch]==0.19.*" torch==2.13.0`. The model is
trained on all plays but each user's last, without a validation, and its own `recommend` orders the catalogue
for every user, titles that the user has played left out. RANKS.csv holds user,rank: the target's place, from
1, or 0 where it is not among the first --deep. A title that no other play has is unknown to RecTools: 0 too.
The one line printed is JSON: the library's versions, epochs' seconds and losses.

--settings are RecTools' own arguments of the model, and "kind" ("sasrec" or "hstu"), "epochs", "seed".
HSTU is told when the last play was, of which it makes the time since each play before; that is what our
queries hold too.
"""

import argparse
import json
from importlib import metadata
from pathlib import Path
from typing import Any

_LIBRARIES = ("rectools", "torch", "pytorch-lightning", "numpy", "pandas")


def read_log(path: Path) -> tuple[Any, Any]:
    """The log as RecTools names its columns, in two: what is trained on, and each user's last play."""
    import pandas as pd

    log = pd.read_csv(path).rename(columns={"user": "user_id", "item": "item_id", "timestamp": "datetime"})
    log["datetime"], log["weight"] = pd.to_datetime(log["datetime"], unit="s"), 1.0
    log = log.sort_values(["user_id", "datetime"], kind="stable")
    last = ~log["user_id"].duplicated(keep="last")
    return log[~last].reset_index(drop=True), log[last].reset_index(drop=True)


def ranks(recommended: Any, targets: Any) -> Any:
    """Of each row of `targets` (user_id, item_id) the target's rank in `recommended`, or 0."""
    found = targets[["user_id", "item_id"]].merge(recommended, "left", on=["user_id", "item_id"])
    return found["rank"].fillna(0).astype(int)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("log", type=Path)
    parser.add_argument("ranks", type=Path)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--deep", type=int, default=100)
    found = parser.parse_args()

    import torch
    from rectools.dataset import Dataset
    from rectools.models import HSTUModel, SASRecModel
    from rectools_sasrec import trainer  # a neighbour: a script's own folder is searched first

    settings: dict[str, Any] = dict(found.settings)
    kind, epochs, seed = (settings.pop(name) for name in ("kind", "epochs", "seed"))
    torch.manual_seed(seed)
    train, targets = read_log(found.log)
    dataset = Dataset.construct(train)
    said: list[dict[str, Any]] = []
    make = {"sasrec": SASRecModel, "hstu": HSTUModel}[kind]
    model = make(**settings, get_trainer_func=lambda: trainer(epochs, False, lambda **v: said.append(v)))
    model.fit(dataset)
    asked = targets["user_id"][targets["user_id"].isin(train["user_id"])].to_numpy()
    context = targets[["user_id", "datetime"]].assign(weight=1.0) if kind == "hstu" else None
    recommended = model.recommend(asked, dataset, found.deep, filter_viewed=True, context=context)
    out = targets[["user_id"]].assign(rank=ranks(recommended, targets))
    out.rename(columns={"user_id": "user"}).to_csv(found.ranks, index=False)
    print(
        json.dumps(
            {
                "versions": {name: metadata.version(name) for name in _LIBRARIES},
                "threads": torch.get_num_threads(),
                "interactions": len(train),
                "titles": int(train["item_id"].nunique()),
                "parameters": sum(p.numel() for p in model.lightning_model.torch_model.parameters()),
                "seconds": [s["seconds"] for s in said],
                "cpu_seconds": [s["cpu_seconds"] for s in said],
                "loss": [s["loss"] for s in said],
            }
        )
    )


if __name__ == "__main__":
    main()
