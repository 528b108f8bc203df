"""Studies of codes and of rounds of pairs: runs of configs/study_onerec.py, their jobs, metrics of pairs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jaxrec.config.loading import load_file
from jaxrec.core.errors import InputError
from jaxrec.studies import runs
from jaxrec.studies.plan import Row, Study, every_run
from jaxrec.studies.policies.pairs import pair_metrics
from jaxrec.studies.tables.policies import pair_lines

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def study():
    return load_file(f"{ROOT / 'configs/study_onerec.py'}:tiny", Study)


def test_rounds_start_from_one_another_and_share_codes_and_reward_models(study, tmp_path):
    by_name = {(run.name, run.seed): run for run in every_run(study, study.default, 2, tmp_path)}
    assert len(by_name) == 2 * 12
    for seed in (0, 1):
        title, vectors = by_name["title", seed], by_name["vectors", seed]
        assert vectors.codes_of == "title" and not vectors.pairs_of
        for first in (title, vectors):
            after = first
            for number in (1, 2, 3):
                run = by_name[f"{first.name}_round_{number}", seed]
                assert run.after == after.name and run.config.start.workdir == str(after.workdir)
                assert run.pairs_of and run.rewards_of == str(title.workdir)
                assert run.config.codes.path == first.config.codes.path
                assert run.config.data.directory.endswith(f"pairs/{after.name}/seed-{seed}")
                after = run
        assert by_name["sessions", seed].config.codes.path == vectors.config.codes.path
        paths = {by_name[name, seed].config.codes.path for name in ("vectors", "metadata", "random")}
        assert len(paths) == 3 and all(path.endswith(f"seed-{seed}") for path in paths)


def test_the_reduced_study_has_the_claims_of_its_rows(tmp_path):
    reduced = load_file(f"{ROOT / 'configs/study_onerec.py'}:reduced", Study)
    rows = [run.name for run in every_run(reduced, reduced.default, 1, tmp_path)]
    assert rows == [
        "title", "vectors", "random", "vectors_round_1", "title_round_1", "vectors_round_2", "title_round_2",
    ]  # fmt: skip
    assert len(reduced.claims) == 5 and {n for c in reduced.claims for p in c.pairs for n in p} < {*rows}
    assert [run.name for run in every_run(reduced, ("codes",), 1, tmp_path)] == rows[:3]
    with pytest.raises(InputError, match=r"study_onerec.py:large: the argument must be one of small"):
        load_file(f"{ROOT / 'configs/study_onerec.py'}:large", Study)


def test_codes_are_written_once_before_the_run_that_reads_them(study, tmp_path):
    by_name = {run.name: run for run in every_run(study, study.default, 1, tmp_path)}
    codes = runs.codes_job(by_name["vectors"])
    assert codes.after == "title seed 0" and codes.name == runs.codes_job(by_name["sessions"]).name
    assert f"--config.start.workdir={tmp_path / 'runs/title/seed-0'}" in codes.arguments
    assert runs.codes_job(by_name["random"]).after == ""
    assert runs.training_job(by_name["vectors"]).after == codes.name
    later = by_name["vectors_round_2"]
    pairs = runs.pairs_job(later)
    assert runs.training_job(later).after == pairs.name and pairs.after == "vectors_round_1 seed 0"
    assert f"--rewards={tmp_path / 'runs/title/seed-0'}" in pairs.arguments
    assert f"--checkpoint={tmp_path / 'runs/vectors_round_1/seed-0'}" in pairs.arguments


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (Row("x", {}, {"codes": "x"}, codes="titel"), "titel"),
        (Row("x", {}, {"codes": "x"}, codes="vectors"), "codes='vectors'; allowed: a row without after and"),
        (Row("x", {}, {"codes": "x"}, rewards="title"), "rewards='title'; allowed with pairs=True"),
    ],
)
def test_rows_that_cannot_give_codes_or_rewards_are_refused(study, row, text, tmp_path):
    wrong = replace(study, rows=lambda base: (*study.rows(base), row))
    with pytest.raises(InputError, match=text):
        every_run(wrong, ("codes",), 1, tmp_path)


def test_log_probabilities_of_pairs_are_means_over_seeds(study, tmp_path):
    all_runs = [run for run in every_run(study, study.default, 2, tmp_path) if run.name.endswith("round_1")]
    for run in all_runs:
        run.workdir.mkdir(parents=True)
        shift = run.seed + (10 if run.name.startswith("vectors") else 0)
        lines = [
            {"split": "train", "log_pi_winner": None, "log_pi_loser": None, "margin": None},
            *({"split": "train", "log_pi_winner": -3.0 - i - shift, "log_pi_loser": -4.0 - 2 * i, "margin": i,
               "pairs_in_order": 0.5 + i / 4} for i in (0, 1)),
            {"split": "validation", "loss": 1.0},
        ]  # fmt: skip
        (run.workdir / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    metrics = pair_metrics(all_runs)
    assert set(metrics) == {"vectors_round_1", "title_round_1"}
    of_title = metrics["title_round_1"]
    assert of_title["log_pi_winner/first"] == {"mean": -3.5, "sd": pytest.approx(0.5**0.5)}
    assert of_title["log_pi_loser/last"] == {"mean": -6.0, "sd": 0.0}
    assert of_title["pairs_in_order/last"]["mean"] == 0.75
    page = "\n".join(pair_lines(metrics))
    assert "| title_round_1 | -3.5000" in page and "| vectors_round_1 | -13.5000" in page
    assert pair_lines({}) == []
