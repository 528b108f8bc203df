"""Training on served titles, and a study of two stages that is killed.

`pytest -m slow tests/end_to_end/test_two_stages.py` kills the tiny study of `configs/study_stages.py` ten
times; JAXREC_KILLS is another number.
"""

import copy
import json
import random
import sys

import numpy as np
import polars as pl
import pytest
from killed_studies import (
    assert_same_parameters,
    finish_study,
    kill,
    number_of_kills,
    saved,
    start_study,
    wait_until,
)
from stop import Stop

from jaxrec.config import Mix
from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
from jaxrec.evaluation.results import write_result
from jaxrec.training.trainer import train

STUDY = "configs/study_stages.py:tiny"


@pytest.fixture(scope="module")
def run(served, served_config, tmp_path_factory):
    """The workdir of a run on served titles alone, of two epochs."""
    config = copy.deepcopy(served_config)
    config.sampling.mix, config.train.batch_size = Mix(0.0, 0.0, 0.0, 0.0, 1.0), 128
    config.optimizer.learning_rate, config.evaluate.report = 1e-2, False
    workdir = tmp_path_factory.mktemp("served") / "run"
    assert train(config, served, workdir, Stop()) == 2 * (served.rows("train").rows // 128)
    return workdir


def test_a_run_on_served_titles_is_measured_on_all_lists(run, served):
    evaluation = evaluate(run)
    lists = evaluation.result["lists"]
    rows = served.rows("test").all()
    listed = rows["list_served"][:, 0, 0] > 0
    assert set(lists) == {"enabled", "disabled", "served"}
    assert lists["served"]["examples"] == listed.sum() < lists["enabled"]["examples"] == len(rows)
    assert evaluation.result["protocol"]["name"] == ""
    write_result(run, evaluation, each=True)
    (file,) = run.glob("eval-test-*-per-query.parquet")
    ranks = pl.read_parquet(file)["served"].to_numpy()
    np.testing.assert_array_equal(ranks > 0, listed)
    scores = evaluation.scores[:, 2, 0]
    there = rows["list_served"][:, 0] > 0
    by_hand = 1 + (~(scores[:, 1:] < scores[:, :1]) & there).sum(axis=1)
    np.testing.assert_array_equal(ranks[listed], by_hand[listed])
    assert lists["served"]["ndcg@1"] == pytest.approx((by_hand[listed] == 1).mean())
    random_order = (1 / (1 + there[listed].sum(axis=1))).mean()
    assert lists["served"]["ndcg@1"] > 1.3 * random_order


def test_the_served_list_alone_is_a_protocol_of_its_own(run):
    result = evaluate(run, EvaluationOptions(lists=("served",))).result
    assert [*result["lists"]] == ["served"] and result["protocol"]["name"] == "served"
    assert {"oracle", "popularity"} <= set(result["baselines"])


def test_the_best_checkpoint_is_that_of_the_served_list(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    values = {line["step"]: line["served/ndcg@1"] for line in lines if line["split"] == "validation"}
    assert len(values) == 2
    best = max(values, key=lambda step: (values[step], step))
    assert evaluate(run, which="best").result["step"] == best


# ---------------------------------------------------------------- kills


@pytest.mark.timeout(3600)
@pytest.mark.slow  # a dozen starts of a study; the short form is the kill of a run, in test_resume.py
@pytest.mark.skipif(sys.platform != "linux", reason="finds the jobs of a study in /proc")
def test_a_study_of_two_stages_that_is_killed_ends_in_the_same_parameters(tmp_path):
    """Kill at random moments: after the first checkpoint of another run, and after the start."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings = STUDY, "0.1", "--config.train.duration=600 steps"
    finish_study(start_study(whole, *settings), whole)
    draws, kills, jobs = random.Random(0), number_of_kills(), 0
    hit: set[str] = set()
    for number in range(kills):
        process = start_study(cut, *settings)
        in_steps = number % 2 == 0 and len(hit) < 5
        seconds = draws.uniform(0, 2) if in_steps else draws.uniform(5, 45)
        if not wait_until(process, lambda: not in_steps or not saved(cut) <= hit, seconds):  # noqa: B023
            break  # the study has ended: nothing is left to kill
        jobs += len(kill(process))
        hit |= saved(cut) if in_steps else set()
        print(f"kill {number + 1}: {', '.join(sorted(saved(cut))) or 'no run'} with a checkpoint", flush=True)
    assert jobs >= min(kills, 3)
    finish_study(start_study(cut, *settings), cut)
    assert_same_parameters(cut, whole, {"pools", "first_stage", "served_0.1", "mixed_0.1", "then_0.1"})
