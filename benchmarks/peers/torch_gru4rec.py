"""PyTorch's GRU as a next-item model on a log: rank of each user's last play, as a CSV.

    python benchmarks/peers/torch_gru4rec.py LOG.csv RANKS.csv --settings '{"n_factors": 64, ...}'

The script runs alone, in an interpreter with torch and pandas. Log, result and printed line are those of
rectools_ranking.py. The model is GRU4Rec of Klenitskiy & Vasilev 2023: one embedding of titles, normal with
standard deviation .02, `torch.nn.GRU` of one layer with its own initialisation, scores by the product of
states and embeddings, cross-entropy over all titles at every position, Adam.

--settings: n_factors, session_max_len, batch_size, lr, epochs, seed, and `input_scale`, by which embeddings
are multiplied where the GRU reads them (1 in the paper's code). Others are ignored.
"""

import argparse
import json
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from rectools_ranking import read_log  # Python searches the script's folder first


def _padded(lists: Any, length: int) -> Any:
    """Return the latest `length` titles of each list as ids [users, length], 0 after the newest."""
    import torch

    out = torch.zeros((len(lists), length), dtype=torch.long)
    for i, titles in enumerate(lists):
        out[i, : len(titles[-length:])] = torch.tensor(titles[-length:])
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("log", type=Path)
    parser.add_argument("ranks", type=Path)
    parser.add_argument("--settings", type=json.loads, required=True)
    args = parser.parse_args()

    import torch

    s = args.settings
    torch.manual_seed(s["seed"])
    train, targets = read_log(args.log)
    codes = {title: i + 1 for i, title in enumerate(sorted(train["item_id"].unique()))}
    train["code"] = train["item_id"].map(codes)
    lists = train.groupby("user_id", sort=True)["code"].agg(list)
    sequences = _padded(lists, s["session_max_len"] + 1)
    width, scale = s["n_factors"], s.get("input_scale", 1.0)
    table = torch.nn.Embedding(len(codes) + 1, width, padding_idx=0)
    torch.nn.init.normal_(table.weight, std=0.02)
    gru = torch.nn.GRU(width, width, batch_first=True)
    optimizer = torch.optim.Adam([*table.parameters(), *gru.parameters()], lr=s["lr"])

    def logits(ids: Any) -> Any:
        """Return the scores [B, L, titles + 1] of sequences that are padded on the right."""
        scores = gru(table(ids) * scale)[0] @ table.weight.T
        scores[..., 0] = -torch.inf
        return scores

    losses, seconds = [], []
    for _ in range(s["epochs"]):
        began, total, count = time.perf_counter(), 0.0, 0
        for rows in torch.randperm(len(sequences)).split(s["batch_size"]):
            ids, label = sequences[rows, :-1], sequences[rows, 1:]
            present = label > 0
            loss = torch.nn.functional.cross_entropy(logits(ids)[present], label[present])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + float(loss.detach()) * int(present.sum()), count + int(present.sum())
        losses.append(total / count)
        seconds.append(time.perf_counter() - began)

    with torch.no_grad():
        histories = _padded(lists, s["session_max_len"])
        newest = (histories > 0).sum(1) - 1
        score = logits(histories)[torch.arange(len(histories)), newest]
    target = targets.set_index("user_id")["item_id"].map(codes).reindex(lists.index)
    ranks = {}
    for i, (user, seen) in enumerate(lists.items()):
        score[i, torch.tensor(seen)] = -torch.inf
        code = target.iloc[i]  # NaN: the title occurs as a target alone
        ranks[user] = 0 if code != code else int((score[i] > score[i, int(code)]).sum()) + 1
    out = targets[["user_id"]].assign(rank=targets["user_id"].map(ranks).fillna(0).astype(int))
    out.rename(columns={"user_id": "user"}).to_csv(args.ranks, index=False)
    about = {name: metadata.version(name) for name in ("torch", "numpy", "pandas")}
    print(json.dumps({"versions": about, "seconds": seconds, "loss": losses}))


if __name__ == "__main__":
    main()
