"""Tables, claims and premises of policies, with made-up results."""

import copy
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from jaxrec.config.loading import load_file
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.evaluation import per_user
from jaxrec.studies import markdown, results
from jaxrec.studies.plan import PREMISE, Claim, Premise, ResultTable, Row, Study, every_run, premise_row

ROOT = Path(__file__).resolve().parents[2]
USERS, SEEDS = 60, range(3)


@pytest.fixture
def write_run(tmp_path):
    """Return a function that writes a run whose users have values around a mean."""
    spread = np.random.default_rng(0).normal(size=USERS) * 0.05
    spread -= spread.mean()

    def write(row, seed, value, efficiency=0.5):
        own = np.random.default_rng([seed, len(row)]).normal(size=USERS) * 0.02
        folder = tmp_path / f"{row}-{seed}"
        folder.mkdir()
        values, keys = value + spread + own - own.mean(), np.arange(USERS)
        columns = {"user": keys, "truth/value": values, "truth/kl": 0.1 + 0 * values}
        for kind in ("user", "query"):
            pl.DataFrame(columns).write_parquet(folder / f"eval-test-last-per-{kind}.parquet")
        model = {"value": values.mean(), "kl": 0.1, "efficiency": efficiency, "interval": None}
        truth = {"model": model, "choice": {"value": 0.5}, "queries": USERS, "users": USERS}
        result = {"dataset": "d", "truth": truth, "catalogue": {"model": {"ndcg@10": 0.15}}}
        (folder / "eval-test-last.json").write_text(json.dumps(result))
        return per_user.read(folder)

    return write


def study_of(config, *claims, premises=()):
    rows = tuple(Row(name, {}, {"post": name.upper()}, against="bc") for name in ("bc", "asft", "none"))
    return Study("made up", config, lambda base: rows, (ResultTable("post", "Post"),), ("post",), claims,
                 premises)  # fmt: skip


@pytest.fixture
def config(tiny_config):
    return copy.deepcopy(tiny_config)


def test_a_study_prints_values_of_policies_and_their_claims(config, write_run, tmp_path):
    runs = {
        "bc": {seed: write_run("bc", seed, 0.40 + 0.001 * seed) for seed in SEEDS},
        "asft": {seed: write_run("asft", seed, 0.50 + 0.001 * seed, None) for seed in SEEDS},
    }
    premise = Premise("by leniency", "source.leniency", "asft", "bc", (1.0,), "truth/value")
    study = study_of(
        config, Claim("higher", (("asft", "bc"),), metric="truth/value"),
        Claim("farther", (("asft", "bc"),), metric="truth/kl"), premises=(premise,),
    )  # fmt: skip
    names = {name: premise_row(config, premise, name, 1.0) for name in ("asft", "bc")}
    outcome = results.compute_results(study, ("post", PREMISE), runs | {names[n]: runs[n] for n in names})
    higher, farther = outcome["claims"]
    assert (higher["list"], higher["verdict"]) == ("truth/value", "shown")
    assert higher["parts"][0]["over_users"]["mean"] == pytest.approx(0.1)
    assert farther["verdict"] == "not significant"  # the same KL everywhere
    block = outcome["tables"]["post"]["policies"]
    assert [row["row"] for row in block["rows"]] == ["bc", "asft"]
    first, second = block["rows"]
    assert first["difference"] is None and second["difference"]["verdict"] == "shown"
    assert second["metrics"]["value"]["mean"] == pytest.approx(0.501)
    assert second["metrics"]["value"]["sd"] == pytest.approx(0.001)
    assert np.isnan(second["metrics"]["efficiency"]["mean"])
    (point,) = outcome["premises"][0]["points"]["truth"]
    assert point["over_seeds"]["mean"] == pytest.approx(0.1)
    whole = {"study": "x", "seeds": [0, 1, 2], "done": 6, "runs": 6, "date": "d", "machine": "m", **outcome}
    markdown.write(tmp_path, whole)
    page = (tmp_path / "study.md").read_text()
    assert "| ASFT | .5010 ± .0010 | .1000 ± .0000 | - | - | - | - | .1500 ± .0000 | +.1000 to bc |" in page
    assert "the true choice has the value .5000" in page and "PHNS-truth" not in page
    assert "higher" in markdown.summary(whole)


def test_the_rows_of_study_post_start_from_one_imitation_of_their_seed(tmp_path):
    study = load_file(f"{ROOT / 'configs/study_post.py'}:tiny", Study)
    runs = every_run(study, ("post",), 2, tmp_path)
    by_name = {(run.name, run.seed): run for run in runs}
    assert len(by_name) == len(runs) == 2 * 19
    for (name, seed), run in by_name.items():
        check(run.config)
        assert run.config.train.seed == seed
        first = by_name["imitation", seed]
        assert run.after == ("" if name == "imitation" else first.name)
        if name != "imitation":
            assert run.config.start.workdir == str(first.workdir)
            assert run.config.evaluate.checkpoint == "last"
    assert by_name["asft_4", 0].config.post.beta == 4.0
    assert by_name["exp_rsft_1", 0].config.post.baseline == "zero"
    assert by_name["asft_ensemble", 1].config.post.reward_models == 4


def test_an_unknown_metric_of_a_policy_is_refused(config, tmp_path):
    study = study_of(config, Claim("x", (("asft", "bc"),), metric="truth/vlaue"))
    with pytest.raises(InputError, match=r"metric=.truth/vlaue.; allowed: .*truth/value, truth/value@1"):
        every_run(study, ("post",), 1, tmp_path)
