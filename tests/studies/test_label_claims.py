"""Claims on the AUC of labels, and claims of non-inferiority, with made-up results."""

import copy
import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from jaxrec.core.errors import InputError
from jaxrec.core.json_io import dumps
from jaxrec.evaluation import per_user, statistics
from jaxrec.studies import markdown, results
from jaxrec.studies.plan import Claim, ResultTable, Row, Study, every_run, variants

USERS, SEEDS = 80, range(3)


@pytest.fixture
def write_run(tmp_path):
    """Return a function that writes a run with NDCG@1 and a head that predicts a thumb."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(USERS), 4)
    label = (rng.random(len(user)) < 0.3).astype(np.float32)

    def write(row, seed, ndcg=0.4, noise=1.0, spread=0.0):
        own = np.random.default_rng([seed, 7])
        prediction = np.float32(label + noise * own.normal(size=len(user)))
        folder = tmp_path / f"{row}-{seed}"
        folder.mkdir()
        keys = np.array([f"u{u:02}" for u in range(USERS)])
        values = ndcg + spread * np.where(np.arange(USERS) % 2, 1, -1)
        lists = {f"{name}/{m}": values for name in ("enabled", "disabled") for m in ("ndcg@1", "mrr@5")}
        pl.DataFrame({"user": keys, **lists}).write_parquet(folder / "eval-test-best-per-user.parquet")
        columns = {"prediction/thumb": prediction, "label/thumb": label, "known/thumb": np.ones_like(label)}
        queries = pl.DataFrame({"user": keys[user], **columns})
        queries.write_parquet(folder / "eval-test-best-per-query.parquet")
        result = {"dataset": "d", "labels": {"thumb": {"loss": "bce"}}}
        (folder / "eval-test-best.json").write_text(json.dumps(result))
        return per_user.read(folder)

    write.label, write.user = label, user
    return write


def study(config, *claims):
    rows = tuple(Row(name, {}, {}) for name in ("best", "mid", "low"))
    return Study("made up", config, lambda base: rows, (), (), claims)


def claims(config, runs, *of):
    return results.compute_results(study(config, *of), (), runs)["claims"]


def naive_auc(run, write):
    score, positive = run.predictions("thumb").prediction, write.label == 1
    above, below = score[positive][:, None], score[~positive][None]
    return ((above > below) + 0.5 * (above == below)).mean()


def test_a_claim_on_an_auc_is_tested_over_users_and_over_seeds(write_run, tiny_config, tmp_path):
    runs = {
        "best": {s: write_run("best", s, noise=0.5) for s in SEEDS},
        "mid": {s: write_run("mid", s, noise=1.5) for s in SEEDS},
        "low": {s: write_run("low", s, noise=1.51) for s in SEEDS},
    }
    better = Claim("thumbs", (("best", "mid"),), metric="auc/thumb")
    same = Claim("thumbs of low", (("mid", "low"), ("best", "low")), metric="gauc/thumb")
    auc, gauc = claims(tiny_config, runs, better, same)
    assert (auc["list"], auc["metric"], auc["verdict"]) == ("auc/thumb", "auc/thumb", "shown")
    (part,) = auc["parts"]
    by_seed = [naive_auc(runs["best"][s], write_run) - naive_auc(runs["mid"][s], write_run) for s in SEEDS]
    users, seeds = part["over_users"], part["over_seeds"]
    assert (users["n"], seeds["n"], part["seeds"]) == (USERS, 3, [0, 1, 2])
    assert users["mean"] == pytest.approx(np.mean(by_seed)) and seeds["mean"] == pytest.approx(users["mean"])
    assert seeds["sd"] == pytest.approx(np.std(by_seed, ddof=1))
    # The standard error of the resamples, which the t of the users and the visible difference are made of.
    low, high = users["interval"]
    error = users["mean"] / users["t"]
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert users["smallest"] == pytest.approx(statistics.smallest_difference(error * USERS**0.5, USERS))
    assert [one["verdict"] for one in gauc["parts"]] == ["not significant", "shown"]
    assert gauc["verdict"] == "not significant"
    # The page shows it, also after a round of JSON, in which NaN is null.
    tree = {
        "study": "s", "date": "d", "machine": "m", "seeds": [0], "runs": 1, "done": 1, "tables": {},
        "premises": [], "gates": {}, "policies": {"curves": [], "measured": {}}, "claims": [auc, gauc],
    }  # fmt: skip
    for result in (tree, json.loads(dumps(tree))):
        markdown.write(tmp_path, result)
        text = (tmp_path / "study.md").read_text()
        assert f"| thumbs | auc/thumb | - | **shown** | {users['mean']:+.4f}".replace("0.", ".") in text
        assert "A difference of AUC is tested over users" in text and "non-inferiority" not in text
        assert "auc/thumb      shown" in markdown.summary(result)


def test_a_run_without_the_claimed_head_is_named(write_run, tiny_config):
    runs = {row: {0: write_run(row, 0)} for row in ("best", "mid")}
    wrong = Claim("c", (("best", "mid"),), metric="auc/like")
    with pytest.raises(
        InputError, match=r"best-0: has no head 'like' that the claim's metric 'auc/like' needs"
    ):
        claims(tiny_config, runs, wrong)


def test_a_claim_may_name_another_metric_of_the_lists(write_run, tiny_config):
    runs = {row: {s: write_run(row, s, ndcg) for s in SEEDS} for row, ndcg in (("best", 0.5), ("mid", 0.4))}
    (claim,) = claims(tiny_config, runs, Claim("c", (("best", "mid"),), ("enabled",), metric="mrr@5"))
    assert (claim["list"], claim["metric"], claim["verdict"]) == ("enabled", "mrr@5", "shown")


def test_a_margin_makes_a_claim_of_non_inferiority(write_run, tiny_config, tmp_path):
    """The loss is .001, .0011 and .0012 with seeds: lower end .0011 + 2.92 * .0001 / sqrt(3) = .00127."""
    runs = {
        "best": {s: write_run("best", s, 0.4 - 0.001 - 0.0001 * s, spread=0.0005) for s in SEEDS},
        "mid": {s: write_run("mid", s, 0.4) for s in SEEDS},
    }

    def verdict(margin, runs=runs):
        claim = Claim("no loss", (("best", "mid"),), ("enabled",), margin=margin)
        (one,) = claims(tiny_config, runs, claim)
        return one["verdict"], one

    assert verdict(0.0)[0] == "reversed"  # of superiority
    assert [verdict(margin)[0] for margin in (0.0013, 0.00126, 0.0009)] == [
        "shown", "not significant", "reversed"
    ]  # fmt: skip
    ends = verdict(0.0013)[1]["parts"][0]["one_sided"]
    assert ends["over_seeds"] == pytest.approx(
        (-0.0011 - 2.919986 * 0.0001 / 3**0.5, -0.0011 + 2.919986 * 0.0001 / 3**0.5)
    )
    # 79 degrees of freedom: 1.6644 standard errors of differences -.0011 +- .0005.
    error = 0.0005 * (USERS / (USERS - 1)) ** 0.5 / USERS**0.5
    assert ends["over_users"] == pytest.approx(
        (-0.0011 - 1.66437 * error, -0.0011 + 1.66437 * error), rel=1e-4
    )
    single = {row: {0: of_seed[0]} for row, of_seed in runs.items()}
    assert verdict(0.5, single)[0] == "not significant"
    tree = {"study": "s", "date": "d", "machine": "m", "seeds": [0], "runs": 1, "done": 1, "tables": {},
            "premises": [], "gates": {}, "policies": {"curves": [], "measured": {}},
            "claims": [verdict(0.0013)[1], verdict(0.5, single)[1]]}  # fmt: skip
    markdown.write(tmp_path, json.loads(dumps(tree)))
    text = (tmp_path / "study.md").read_text()
    assert "| no loss (margin .0013, lowest end -.0013) | enabled | 1 | **shown** |" in text
    assert "A claim with a margin is one of non-inferiority" in text


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"metric": "auc"}, r"claim 'c': metric='auc'; allowed: ndcg@1, .*, auc/<head>, gauc/<head>"),
        ({"metric": "auc/"}, "metric='auc/'; allowed"),
        ({"metric": "mse/thumb"}, "metric='mse/thumb'; allowed"),
        ({"margin": -0.1}, "claim 'c': margin=-0.1; allowed: 0 to 1, 1 excluded"),
        ({"margin": float("nan")}, "margin=nan; allowed"),
    ],
)
def test_a_claim_is_checked_before_anything_runs(tiny_config, edit, message):
    claim = replace(Claim("c", (("best", "mid"),)), **edit)
    with pytest.raises(InputError, match=message):
        variants(study(tiny_config, claim), ())
    variants(study(tiny_config, replace(claim, metric="gauc/thumb", margin=0.002)), ())


def test_folds_compare_the_users_of_each_fold(write_run, tiny_config, tmp_path):
    """Seeds of two folds have other users: the mean over folds, and all users in one test."""

    def of_fold(row, fold, noise):
        run = write_run(f"{row}{fold}", fold, noise=noise)
        run.result["dataset"] = f"fold {fold}"
        return run

    runs = {row: {f: of_fold(row, f, noise) for f in (0, 1)} for row, noise in (("best", 0.5), ("mid", 1.5))}
    (claim,) = claims(tiny_config, runs, Claim("thumbs", (("best", "mid"),), metric="auc/thumb"))
    (part,) = claim["parts"]
    by_fold = [naive_auc(runs["best"][f], write_run) - naive_auc(runs["mid"][f], write_run) for f in (0, 1)]
    assert part["over_users"]["mean"] == pytest.approx(np.mean(by_fold))
    assert part["over_users"]["n"] == 2 * USERS and part["over_seeds"]["n"] == 2
    runs["mid"][1].result["dataset"] = "another"
    assert claims(tiny_config, runs, Claim("thumbs", (("best", "mid"),), metric="auc/thumb")) == []


def test_a_table_of_labels_has_a_line_for_each_row_with_the_head(write_run, tiny_config, tmp_path):
    runs = {
        row: {s: write_run(row, s, noise=noise) for s in SEEDS}
        for row, noise in (("low", 1.5), ("best", 0.5))
    }
    for by_seed in runs.values():
        for run in by_seed.values():
            auc = {metric: {"value": naive_auc(run, write_run)} for metric in ("auc", "gauc")}
            run.result |= {"labels": {"thumb": {"loss": "bce"} | auc}, "lists": {}, "baselines": {}}
            run.result["label_baselines"] = {"title_rate": {"thumb": {"auc": {"value": 0.6}}}}
    rows = tuple(Row(name, {}, {"heads": name}) for name in ("low", "mid", "best"))
    of_study = Study("s", tiny_config, lambda base: rows, (ResultTable("heads", "Heads"),), ("heads",))
    tree = results.compute_results(of_study, ("heads",), runs)
    block = tree["tables"]["heads"]["labels"]["thumb"]
    assert block["positives"] == int((write_run.label > 0).sum())
    low, best = block["rows"]  # "mid" has no runs
    each = [naive_auc(run, write_run) for run in runs["best"].values()]
    assert best["auc"]["mean"] == pytest.approx(np.mean(each))
    assert best["auc"]["sd"] == pytest.approx(np.std(each, ddof=1))
    assert best["auc"]["interval"][0] < best["auc"]["mean"] < best["auc"]["interval"][1]
    assert (low["differences"], best["against"]) == ({}, "low")
    text = {"study": "s", "date": "d", "machine": "m", "seeds": [0], "runs": 1, "done": 1}
    markdown.write(tmp_path, json.loads(dumps(text | tree)))
    page = (tmp_path / "study.md").read_text()
    assert f"### thumb: {block['positives']:,} positives" in page
    assert "to low | [" in page and "| higher |" in page and "| title rate | .6000 |" in page


def test_each_seed_of_a_study_with_folds_tests_another_fold(tiny_config, tmp_path):
    tiny_config = copy.deepcopy(tiny_config)
    tiny_config.source.test_only_users, tiny_config.data.directory = 0, "D"
    rows = (Row("a", {}, {"t": "a"}),)
    of_folds = Study("s", tiny_config, lambda base: rows, (ResultTable("t", "T"),), ("t",), folds=2)
    runs = every_run(of_folds, ("t",), 3, tmp_path)
    assert [(run.seed, run.config.data.fold, run.config.data.directory) for run in runs] == [
        (0, "1/2", "D-fold-1-of-2"), (1, "2/2", "D-fold-2-of-2"), (2, "1/2", "D-fold-1-of-2"),
    ]  # fmt: skip
    tiny_config.source.test_only_users = 5
    with pytest.raises(InputError, match=r"source.test_only_users=5 must be 0 with data.fold"):
        every_run(of_folds, ("t",), 1, tmp_path)
