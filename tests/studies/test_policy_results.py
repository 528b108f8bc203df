"""Tables, claims and premises of policies, with made-up results."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from jaxrec.config.loading import load_file
from jaxrec.config.serialization import dataset_directory
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.evaluation import per_user
from jaxrec.studies import markdown, results, runs
from jaxrec.studies.comparisons import Comparisons
from jaxrec.studies.plan import (
    PREMISE,
    Claim,
    CurvePremise,
    Policies,
    Premise,
    ResultTable,
    Row,
    Study,
    datasets,
    every_run,
    premise_row,
)
from jaxrec.studies.policies.curves import policy_curves
from jaxrec.studies.policies.premises import curve_premise
from jaxrec.studies.tables.policies import FIGURE, curve_lines, policy_table, premise_lines

ROOT = Path(__file__).resolve().parents[2]
USERS, SEEDS = 60, range(3)


@pytest.fixture
def write_run(tmp_path):
    """Return a function that writes a run whose users have values around a mean."""
    spread = np.random.default_rng(0).normal(size=USERS) * 0.05
    spread -= spread.mean()

    def write(row, seed, value, efficiency=0.5, kl=0.1, validation=0.5):
        own = np.random.default_rng([seed, len(row)]).normal(size=USERS) * 0.02
        folder = tmp_path / f"{row}-{seed}"
        folder.mkdir()
        values, keys = value + spread + own - own.mean(), np.arange(USERS)
        columns = {"user": keys, "truth/value": values, "truth/kl": kl + 0 * values}
        columns["catalogue/hr@10"] = values
        for kind in ("user", "query"):
            pl.DataFrame(columns).write_parquet(folder / f"eval-test-last-per-{kind}.parquet")
        model = {"value": values.mean(), "kl": kl, "efficiency": efficiency, "interval": None}
        truth = {"model": model, "choice": {"value": 0.5}, "queries": USERS, "users": USERS}
        truth |= {"frontier": {"kl": kl, "value": 0.7}, "validation": {"value": validation}}
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
    by_row = {
        "bc": {seed: write_run("bc", seed, 0.40 + 0.001 * seed) for seed in SEEDS},
        "asft": {seed: write_run("asft", seed, 0.50 + 0.001 * seed, None) for seed in SEEDS},
    }
    premise = Premise("by leniency", "source.leniency", "asft", "bc", (1.0,), "truth/value")
    study = study_of(
        config, Claim("higher", (("asft", "bc"),), metric="truth/value"),
        Claim("farther", (("asft", "bc"),), metric="truth/kl"),
        Claim("hits", (("asft", "bc"),), lists=("catalogue",), metric="hr@10"), premises=(premise,),
    )  # fmt: skip
    names = {name: premise_row(config, premise, name, 1.0) for name in ("asft", "bc")}
    outcome = results.compute_results(study, ("post", PREMISE), by_row | {names[n]: by_row[n] for n in names})
    higher, farther, hits = outcome["claims"]
    assert (hits["list"], hits["verdict"]) == ("catalogue", "shown")
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
    assert "| ASFT | .5010 ± .0010 | .1000 ± .0000 | - | - | - | - | .5000 ± .0000 | .1500" in page
    assert ".1500 ± .0000 | +.1000 to bc |" in page
    assert "the true choice has the value .5000" in page and "PHNS-truth" not in page
    assert "higher" in markdown.summary(whole) and "| hits (HR@10) |" in page


def test_the_rows_of_study_post_start_from_one_imitation_of_their_seed(tmp_path):
    study = load_file(f"{ROOT / 'configs/study_post.py'}:tiny", Study)
    all_runs = every_run(study, ("post",), 2, tmp_path)
    by_name = {(run.name, run.seed): run for run in all_runs}
    assert len(by_name) == len(all_runs) == 2 * 25
    assert len(study.rows(study.base)) == 25 + 5 + 3  # with a composite reward, with what was shown
    for (name, seed), run in by_name.items():
        check(run.config)
        assert run.config.train.seed == seed + 1000 * (name == "raters")
        first = by_name["imitation", seed]
        assert run.after == ("" if name in ("imitation", "raters") else first.name)
        assert bool(run.pairs_of) == (name in ("dpo", "ipo"))
        if run.after:
            assert run.config.start.workdir == str(first.workdir)
            assert run.config.evaluate.checkpoint == "last"
    assert by_name["asft_4", 0].config.post.beta == 4.0
    assert by_name["exp_rsft_1", 0].config.post.baseline == "zero"
    assert by_name["asft_ensemble", 1].config.post.reward_models == 4


def test_an_unknown_metric_of_a_policy_is_refused(config, tmp_path):
    study = study_of(config, Claim("x", (("asft", "bc"),), metric="truth/vlaue"))
    with pytest.raises(InputError, match=r"metric=.truth/vlaue.; allowed: .*truth/value, truth/value@1"):
        every_run(study, ("post",), 1, tmp_path)


def result_of(kl, value, validation, measured):
    truth = {
        "model": {"kl": kl, "value": value}, "validation": {"value": validation},
        "frontier": {"kl": kl, "value": 0.5 + kl / 4}, "choice": {"value": 0.5},
    }  # fmt: skip
    high = {"targets": 9, "ndcg@10": measured / 10, "recall@10": 0.5, "mrr@10": 0.1}
    r2 = {"models": 0.2, "user_mean": 0.1, "title_mean": 0.15, "both_means": 0.18}
    result = {"truth": truth, "rewards": {"value": measured, "high": high, "r2": r2}}
    return SimpleNamespace(result=result, measured=None)


NO_COMPARISONS = SimpleNamespace(compare=lambda *_: None)


def made_up_curves():
    """Two seeds of a method with three rows, of one with two rows, and of a single row."""
    rows = {
        "a1": ((0.1, 0.40, 0.41, 2.0), (0.1, 0.42, 0.41, 2.0)),
        "a2": ((0.5, 0.50, 0.55, 3.0), (0.5, 0.52, 0.55, 3.3)),  # the best at validation queries
        "a3": ((0.9, 0.60, 0.45, 2.0), (0.9, 0.58, 0.45, 2.0)),  # the best at test queries
        "b1": ((0.2, 0.40, 0.40, 2.0), (0.3, 0.40, 0.40, 3.0)),
        "b2": ((1.0, 0.48, 0.48, 2.0), (0.7, 0.48, 0.48, 2.0)),
        "c1": ((2.0, 0.70, 0.70, 4.0), (2.0, 0.70, 0.70, 4.0)),
    }
    return {row: {seed: result_of(*x) for seed, x in enumerate(seeds)} for row, seeds in rows.items()}


def test_the_best_row_is_chosen_on_validation_and_compared_at_equal_kl(tmp_path):
    policies = Policies({"A": ("a1", "a2", "a3"), "B": ("b1", "b2", "gone"), "C": ("c1",)}, "raters", "b1")
    block = policy_curves(policies, made_up_curves(), NO_COMPARISONS)
    assert [(c["curve"], c["best"], len(c["rows"])) for c in block["curves"]] == [
        ("A", "a2", 3), ("B", "b2", 2), ("C", "c1", 1),
    ]  # fmt: skip
    by = {(line["curve"], line["other"]): line["difference"] for line in block["equal_kl"]}
    # B has .43 at .5 with the first seed, .44 with the second; A does not reach 1, and neither reaches 2.
    assert by.keys() == {("A", "B")}
    assert by["A", "B"]["mean"] == pytest.approx((0.07 + 0.08) / 2)
    assert by["A", "B"]["sd"] == pytest.approx(0.01 / np.sqrt(2))
    assert block["frontier"][0] == (0.1, 0.525) and len(block["frontier"]) == 8
    measured = {row["row"]: row for row in block["measured"]["rows"]}
    assert measured["b1"]["percent"]["value"]["mean"] == 0
    assert measured["a2"]["percent"]["value"]["mean"] == pytest.approx((50 + 10) / 2)
    assert measured["a2"]["percent"]["ndcg@10"]["mean"] == pytest.approx(30)
    lines = curve_lines(block, tmp_path)
    assert "| A | a2 | .5100 ± .0141 | .5000 ± .0000 | .5500 ± .0000 |" in lines
    assert "| A | a2 | B | +.0750 ± .0071 |" in lines
    assert any(
        line.startswith("R^2 of the rewards of test targets: models .2000 ± .0000, us") for line in lines
    )
    assert any(line.startswith("| a2 | 3.1500 ± .2121 | +30.0 ± 28.3 | +30.0") for line in lines)
    assert (tmp_path / FIGURE).read_text().startswith("<svg")
    values = {"queries": 4, "users": 2, "choice": {"value": 0.5}, "rows": []}
    first, _, second, *_ = policy_table(values, block["measured"])
    assert first.startswith("R^2 of the rewards of test targets: models") and first in lines
    assert second.startswith("Values under the truth") and policy_table(values, {})[0] == second


def test_measures_of_reward_models_need_no_curve(tmp_path):
    block = policy_curves(Policies(measured_by="raters", percent_of="b1"), made_up_curves(), NO_COMPARISONS)
    lines = curve_lines(block, tmp_path)
    assert lines[1] == "## Under the reward models of `raters`"
    assert any(line.startswith("| a2 | 3.1500 ± .2121 | +30.0 ± 28.3 | +30.0") for line in lines)
    assert not (tmp_path / FIGURE).exists()


def test_a_study_without_policies_has_no_curves(tmp_path):
    block = policy_curves(Policies(), {"row": {0: SimpleNamespace(result={"lists": {}})}}, NO_COMPARISONS)
    assert block == {"curves": [], "ends": [], "equal_kl": [], "frontier": [], "measured": {}}
    assert curve_lines(block, tmp_path) == [] and not (tmp_path / FIGURE).exists()


def test_pairs_are_drawn_once_after_the_run_that_draws_them(tmp_path):
    study = load_file(f"{ROOT / 'configs/study_post.py'}:tiny", Study)
    by_name = {run.name: run for run in every_run(study, ("rivals",), 1, tmp_path)}
    dpo, ipo, first = (by_name[name] for name in ("dpo", "ipo", "imitation"))
    job = runs.pairs_job(dpo)
    assert job.name == runs.pairs_job(ipo).name == "pairs of imitation seed 0"
    assert job.after == runs.training_job(first).name == "imitation seed 0"
    assert runs.training_job(dpo).after == job.name
    assert runs.training_job(by_name["ppo"]).after == "imitation seed 0"
    assert job.folder == Path(dpo.config.data.directory) == tmp_path / "pairs/imitation/seed-0"
    assert f"--config.data.directory={dataset_directory(first.config)}" in job.arguments
    assert dataset_directory(dpo.config) not in datasets([*by_name.values()])
    assert runs.measuring_jobs([*by_name.values()], "raters") == []  # no run is trained
    (ipo.workdir).mkdir(parents=True)
    (ipo.workdir / "eval-test-last-per-query.parquet").touch()
    (job,) = runs.measuring_jobs([*by_name.values()], "raters")
    assert job.folder == ipo.workdir / runs.MEASURED
    assert f"--reward_models={by_name['raters'].workdir}" in job.arguments


@pytest.mark.parametrize(
    ("policies", "rows", "text"),
    [
        (Policies({"A": ("bc", "nobody")}), {}, "rows.nobody"),
        (Policies(measured_by="nobody"), {}, "rows.nobody"),
        (Policies(), {"pairs": True}, "row bc: pairs=True; allowed with after"),
    ],
)
def test_a_wrong_comparison_of_policies_is_refused(config, tmp_path, policies, rows, text):
    study = study_of(config)
    study.policies, study.rows = policies, lambda base: (Row("bc", {}, {"post": "BC"}, **rows),)
    with pytest.raises(InputError, match=text):
        every_run(study, ("post",), 1, tmp_path)


def test_methods_are_compared_at_their_best_rows_and_at_equal_kl(config, write_run, tmp_path):
    """At the setting 0 the second method goes farther; at 2 it does not reach the KL of the first."""
    figures = {  # row -> value, KL, validation; a2 and b2 are best at validation queries
        "a1": (0.50, 0.2, 0.50), "a2": (0.54, 0.4, 0.56), "b1": (0.48, 0.3, 0.48), "b2": (0.58, 0.5, 0.58),
        "a1-mood-0": (0.50, 0.2, 0.50), "a2-mood-0": (0.60, 0.4, 0.60),
        "b1-mood-0": (0.40, 0.1, 0.40), "b2-mood-0": (0.70, 0.7, 0.70),
        "a1-mood-2": (0.50, 0.2, 0.60), "a2-mood-2": (0.60, 0.4, 0.60),
        "b1-mood-2": (0.40, 0.5, 0.40), "b2-mood-2": (0.70, 0.7, 0.70),
    }  # fmt: skip
    by_row = {
        row: {
            seed: write_run(row, seed, value + 0.001 * seed, kl=kl, validation=validation) for seed in SEEDS
        }
        for row, (value, kl, validation) in figures.items()
    }
    premise = CurvePremise(
        "by mood", "source.mood", ("A", ("a1", "a2")), ("B", ("b1", "b2")), (0.0, 1.0, 2.0)
    )
    block = curve_premise(premise, config, by_row, Comparisons(by_row))
    zero, one, two = block["points"]
    assert config.source.mood == 1.0 and [p["better"]["row"] for p in (zero, one)] == ["a2-mood-0", "a2"]
    assert [p["worse"]["row"] for p in (zero, one)] == ["b2-mood-0", "b2"]
    assert one["difference"]["over_users"]["mean"] == pytest.approx(-0.04)
    assert one["difference"]["verdict"] == "reversed"
    # At the KL of .4 B has .53 at 1, and .55 at 0; at 2 its curve begins at .5.
    assert one["equal_kl"]["over_seeds"]["mean"] == pytest.approx(0.01)
    assert (one["equal_kl"]["kl"], one["equal_kl"]["over_seeds"]["n"]) == (pytest.approx(0.4), 3)
    assert zero["equal_kl"]["over_seeds"]["mean"] == pytest.approx(0.05)
    assert two["equal_kl"] is None and two["better"]["row"] == "a1-mood-2"
    lines = premise_lines(block)
    assert any(line.startswith("| 1 | a2 | .5410 ± .0010 | .4000 ± .0000 | b2 | .5810") for line in lines)
    assert any("| reversed | .400 | +.0100 ± .0000 (<.0001, 3) |" in line for line in lines)
    assert any(line.startswith("| 2 |") and line.endswith("| - | not reached |") for line in lines)
    assert "| 2 | b1-mood-2 | .4010 ± .0010 | .5000 ± .0000 | .4000 ± .0000 |" in lines
    assert premise_lines(block | {"points": []})[-1] == "Not run."


def test_the_best_row_of_a_method_is_compared_with_both_ends_of_its_range(config, write_run, tmp_path):
    values = {"low": 0.5, "middle": 0.52, "high": 0.51}
    by_row = {
        row: {seed: write_run(row, seed, value + 0.001 * seed, validation=value) for seed in SEEDS}
        for row, value in values.items()
    }
    policies = Policies({"A": ("low", "middle", "high"), "B": ("low", "high")})
    block = policy_curves(policies, by_row, Comparisons(by_row))
    (end,) = block["ends"]  # of two rows each is an end
    assert (end["best"], [part["end"] for part in end["parts"]]) == ("middle", ["low", "high"])
    means = [part["difference"]["over_users"]["mean"] for part in end["parts"]]
    assert means == pytest.approx([0.02, 0.01])
    lines = curve_lines(block, tmp_path)
    assert any(line.startswith("| A | middle | low | +.0200 | [") for line in lines)


def test_a_premise_on_methods_runs_their_rows_at_each_value(tmp_path):
    study = load_file(f"{ROOT / 'configs/study_post.py'}:tiny", Study)
    names = [run.name for run in every_run(study, (PREMISE,), 1, tmp_path)]
    rows = ("imitation", "asft_0.25", "asft_0.5", "asft_1", "exp_rsft_0.25", "exp_rsft_0.5", "exp_rsft_1")
    assert len(names) == len(set(names)) == 3 * len(rows)  # no reward models measure them
    assert set(names) == {f"{row}{at}" for row in rows for at in ("", "-leniency-0", "-leniency-2")}
    by_name = {run.name: run for run in every_run(study, ("weights", "composite", "shown"), 1, tmp_path)}
    assert "raters" not in by_name
    assert by_name["composite_asft"].after == "composite" and by_name["shown_wbc"].after == "imitation"
    assert by_name["composite_asft"].config.post.reward == "composite"
    assert by_name["shown_wbc"].config.data.served == 20


def test_without_a_truth_reward_models_alone_measure_policies(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXREC_KUAIRAND", str(tmp_path))  # the folder is not opened
    study = load_file(f"{ROOT / 'configs/study_post.py'}:kuairand", Study)
    names = [run.name for run in every_run(study, study.default, 1, tmp_path)]
    assert names == ["imitation", "raters", "bc", "reward", "exp_rsft", "asft"]
    by_row = made_up_curves()
    for runs_of_row in by_row.values():
        for run in runs_of_row.values():
            del run.result["truth"]
    block = policy_curves(Policies(measured_by="raters", percent_of="b1"), by_row, NO_COMPARISONS)
    lines = curve_lines(block, tmp_path)
    assert any(line.startswith("These data have no truth") for line in lines)
    assert any(line.startswith("| a2 | 3.1500 ± .2121 | +30.0") for line in lines)
    assert not (tmp_path / FIGURE).exists()
