"""A published model on a user's file: one command, and its results over the whole catalogue."""

import json
from pathlib import Path

import commands
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

ROOT = Path(__file__).resolve().parents[2]
USERS, TITLES = 96, 40
# Everything of configs/sequences.py:sasrec but its size.
SMALL = [
    *("--config.data.max_history=12", "--config.model.experts[0].max_len=12", "--config.model.width=8"),
    *(
        "--config.features[0].width=8",
        "--config.model.experts[0].num_layers=1",
        "--config.next_item.negatives=8",
    ),
    "--config.optimizer.learning_rate=0.01",
    *(
        "--config.train.batch_size=16",
        "--config.data.validation_share=0.5",
        "--config.train.microbatch_size=16",
    ),
]


def run(*arguments, devices=1):
    return run_both(*arguments, devices=devices)[0]


def run_both(*arguments, devices=1):
    """Return what a command writes to standard output and standard error."""
    done = commands.run("-m", *arguments, env=commands.environment(devices))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """user,item,timestamp of users who go round the titles, each from somewhere, with a slip now and then."""
    path, rng = tmp_path_factory.mktemp("log") / "ratings.csv", np.random.default_rng(0)
    lengths = rng.integers(6, 20, USERS)
    user = np.repeat(np.arange(USERS), lengths)
    place = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    title = (np.repeat(rng.integers(0, TITLES, USERS), lengths) + place) % TITLES
    title = np.where(rng.random(len(user)) < 0.1, rng.integers(0, TITLES, len(user)), title)
    time = 1_000_000_000 + 86_400 * place + rng.integers(0, 1000, len(user))
    frame = pl.DataFrame({"user": user + 1000, "item": title + 7, "timestamp": time})
    frame.sample(fraction=1.0, shuffle=True, seed=1).write_csv(path)
    return path


@pytest.fixture(scope="module")
def trained(log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequences")
    output = train(log, folder / "run", "6 epochs")
    return folder / "run", output


def train(log, workdir, length, *more, devices=1):
    options = "--config", "configs/sequences.py:sasrec", f"--config.data.path={log}"
    data = f"--config.data.directory={workdir.parent / 'data'}"
    length = f"--config.train.duration={length}"
    return run("jaxrec.train", *options, "--workdir", workdir, data, length, *SMALL, *more, devices=devices)


def test_one_command_on_a_csv_evaluates_the_whole_catalogue(trained, log):
    workdir, output = trained
    result = json.loads((workdir / "test.json").read_text())
    catalogue = result["catalogue"]
    assert {f"{m}@{k}" for m in ("hr", "ndcg", "mrr") for k in (1, 5, 10, 20, 100)} < set(catalogue["model"])
    assert (catalogue["seen"], catalogue["titles"]) == ("stored", TITLES)
    assert {"popularity", "popularity_7_days"} < set(catalogue)
    assert catalogue["users"] == catalogue["examples"] == USERS  # each user's last title, and no other
    # The plays of a round have an order that the model can learn.
    assert catalogue["model"]["hr@10"] > 1.5 * catalogue["popularity"]["hr@10"]
    assert "HR@10" in output and "popularity" in output and "all 40 titles, history excluded" in output
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if line["split"] == "validation"]
    assert len(validations) == 6 and validations[-1]["loss"] < validations[0]["loss"]
    assert validations[-1]["catalogue/ndcg@10"] > validations[0]["catalogue/ndcg@10"]
    assert "NDCG@10, all titles" in (workdir / "report.html").read_text()


def test_evaluate_agrees_and_every_rank_equals_brute_force(trained, log):
    workdir, _ = trained
    output, notes = run_both(
        "jaxrec.evaluate", "--checkpoint", workdir, "--json", "--per-user", "--seen=filtered"
    )
    assert "--seen=filtered is now --seen=stored" in notes
    kept = json.loads((workdir / "test.json").read_text())
    assert json.loads(output)["catalogue"] == kept["catalogue"]
    from jaxrec.data.storage.dataset import Dataset
    from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
    from jaxrec.models.next_item import ItemWindow
    from jaxrec.tasks.loading import load_checkpoint

    loaded, dataset = load_checkpoint(workdir, kept["which"]), Dataset(workdir.parent / "data")
    frame = pl.read_csv(log).sort("user", "timestamp")
    id_of = {int(key): 2 + i for i, key in enumerate(loaded.arrays.title_key)}
    table = loaded.arrays.title_table()
    model, variables = loaded.task.model, {"params": loaded.params}
    catalogue = model.apply(variables, table, method="catalogue")
    titles = np.asarray(model.apply(variables, catalogue, method="candidates"))
    users, ranks, ranks_without_all, repeated = [], [], [], np.zeros(2, int)
    for (user,), plays in frame.group_by("user", maintain_order=True):  # from the file, not from our rows
        ids = [id_of[t] for t in plays["item"]]
        before, target = ids[:-1][-12:], ids[-1]
        window = np.zeros((3, 1, 12), np.int64)
        window[0, 0, 12 - len(before) :] = before
        window[1, 0, 12 - len(before) :] = plays["timestamp"][:-1][-12:]
        window[2, 0, 12 - len(before) :] = plays["timestamp"][1:][-12:]
        h = model.apply(
            variables, ItemWindow(jnp.int32(window[0]), *(jnp.uint32(x) for x in window[1:])), catalogue
        )
        scores = titles @ np.asarray(h)[0, -1]
        rivals = [v for v in range(2, 2 + TITLES) if v not in before and v != target]
        users.append(user)
        ranks.append(1 + sum(scores[v] >= scores[target] for v in rivals))
        rivals = [v for v in rivals if v not in ids]
        ranks_without_all.append(1 + sum(scores[v] >= scores[target] for v in rivals))
        repeated += target in before, target in ids[:-1]
    queries = pl.read_parquet(workdir / f"eval-test-{kept['which']}-per-query.parquet")
    keys = [key.decode() if isinstance(key, bytes) else str(key) for key in queries["user"]]
    rank_of_user = dict(zip(keys, queries["catalogue"].to_list(), strict=True))
    assert [rank_of_user[str(user)] for user in users] == ranks
    assert ranks_without_all != ranks  # some users have played more than the 12 titles that are stored
    everything = evaluate(workdir, EvaluationOptions(seen="all"))
    by_user = dict(zip(map(int, everything.user_keys[everything.rows["user"]].tolist()),
                       everything.ranked.by_order["model"].ranks.tolist(), strict=True))  # fmt: skip
    assert [by_user[user] for user in users] == ranks_without_all
    results = kept["catalogue"], everything.result["catalogue"]
    assert [(f["seen"], f["repeated_targets"]) for f in results] == [
        *zip(("stored", "all"), repeated, strict=True)
    ]
    assert np.mean(np.array(ranks) <= 10) == pytest.approx(kept["catalogue"]["model"]["hr@10"])
    assert dataset.manifest["splits"]["validation"]["users"] < USERS


@pytest.mark.slow
def test_four_devices_give_the_result_of_one(trained, log):
    workdir, _ = trained
    four = workdir.parent / "four"
    train(log, four, "6 epochs", devices=4)
    one, other = (
        [json.loads(line) for line in (w / "metrics.jsonl").read_text().splitlines()] for w in (workdir, four)
    )
    losses = [[line["loss"] for line in lines if line["split"] == "validation"] for lines in (one, other)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-3)  # float32, 36 steps of Adam
    assert one[-1]["catalogue/ndcg@10"] == pytest.approx(other[-1]["catalogue/ndcg@10"], abs=0.03)


def test_delayed_scores_read_no_play_of_the_last_hours(trained):
    """A play a day: with a delay of 30 hours the last play before most requests is cut."""
    from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
    from jaxrec.evaluation.results import per_query

    workdir, _ = trained
    out = json.loads(
        run(
            "jaxrec.evaluate",
            *("--checkpoint", workdir, "--json", "--delay-hours=0,30", "--out", workdir.parent / "delay"),
        )
    )
    assert out["protocol"]["name"] == "delay"
    evaluation = evaluate(workdir, EvaluationOptions(delay_hours=(0.0, 30.0)))
    columns = per_query(evaluation)
    np.testing.assert_array_equal(columns["delay/0"], columns["catalogue"])
    assert out["delay"] == evaluation.result["delay"]
    assert out["delay"]["left_out"] == 0 and out["delay"]["users"] == USERS
    assert out["delay"]["metrics"]["0"]["hr@10"][0] == pytest.approx(out["catalogue"]["model"]["hr@10"])
    mean, half = out["delay"]["differences"]["30 - 0"]["mrr@100"]
    assert mean < -half < 0  # the next title follows the last play
