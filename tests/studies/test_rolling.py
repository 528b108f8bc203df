"""Rolling studies: datasets and trainings of a plan, differences and costs by hand, the report, messages."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxrec.config.loading import load_file
from jaxrec.core.errors import InputError
from jaxrec.studies.rolling.day_metrics import DayMetrics
from jaxrec.studies.rolling.jobs import cost_of
from jaxrec.studies.rolling.page import text_of
from jaxrec.studies.rolling.plan import (
    NEW,
    POPULAR,
    Comparison,
    Plan,
    RollingRow,
    RollingStudy,
    check_study,
)
from jaxrec.studies.rolling.results import compare, compute_results

STUDY = str(Path(__file__).resolve().parents[2] / "configs" / "study_rolling.py") + ":tiny"
ROWS = (
    RollingRow("stale", "stale"),
    RollingRow("retrain", "retrained", (2,), None, evaluated=(1, 3)),
    RollingRow("two", "every second day", (2, 4), 0.1, rows="mean"),
    RollingRow("mixed", "mixed", (1,), 0.0, "mixed", evaluated=(2,)),
)


@pytest.mark.parametrize(("size", "retrained"), [("", 4), (":small", 1), (":tiny", 4)])
def test_every_size_of_the_study_has_a_plan(size, retrained, tmp_path):
    """Four models of day 0, three times 13 daily updates, 4 of every third day, 42 of a week, and more."""
    study = load_file(STUDY.replace(":tiny", size), RollingStudy)
    check_study(study, ())
    plan = Plan(study, (), 1, tmp_path)
    assert len(plan.runs) == 4 + 39 + 4 + 42 + retrained
    rates = {run.name: run.config.optimizer.learning_rate for run in plan.runs}
    assert rates["week_concat_mean"] == 1e-3 and rates["week_concat_mean_fast"] == 3e-3
    assert len({run.workdir for run in plan.runs}) == len(plan.runs)
    selected = {row.name for row in study.rows} | {POPULAR}
    assert {name for c in study.comparisons for name in (c.better, c.worse)} <= selected


@pytest.fixture(scope="module")
def study():
    study = load_file(STUDY, RollingStudy)
    study.rows, study.days, study.comparisons = ROWS, 5, ()
    return study


def dated(config):
    """Return the names of the dataset and of the one that it continues, first and last day, and replay."""
    d = config.data
    return Path(d.directory).name, Path(d.continues).name, d.since, d.until, d.replay


def test_a_plan_prepares_each_day_after_the_day_before(study, tmp_path):
    plan = Plan(study, (), 1, tmp_path)
    names = [Path(directory).name for directory in plan.datasets]
    assert names[:6] == ["all-00", "day-01", "day-02", "day-03", "day-04", "day-05"]
    by_name = {Path(directory).name: dated(config)[1:] for directory, config in plan.datasets.items()}
    assert by_name == {
        "all-00": ("", "", "2025-01-10", 0.0),
        "day-01": ("all-00", "2025-01-10", "2025-01-11", 0.0),
        "day-02": ("day-01", "2025-01-11", "2025-01-12", 0.0),
        "day-03": ("day-02", "2025-01-12", "2025-01-13", 0.0),
        "day-04": ("day-03", "2025-01-13", "2025-01-14", 0.0),
        "day-05": ("day-04", "2025-01-14", "2025-01-15", 0.0),
        "all-02": ("day-01", "", "2025-01-12", 0.0),
        "day-02-since-00-replay-0.1": ("day-01", "2025-01-10", "2025-01-12", 0.1),
        "day-04-since-02-replay-0.1": ("day-03", "2025-01-12", "2025-01-14", 0.1),
    }


def test_a_row_starts_from_its_last_model_and_models_share_day_0(study, tmp_path):
    plan = Plan(study, (), 2, tmp_path)
    assert [run.job for run in plan.runs if run.seed == 1] == [
        "concat-all seed 1 day 0", "concat-all seed 1 day 2", "two seed 1 day 2", "two seed 1 day 4",
        "mixed-all seed 1 day 0", "mixed seed 1 day 1",
    ]  # fmt: skip
    runs = {run.job: run for run in plan.runs}
    second, third = runs["two seed 1 day 2"], runs["two seed 1 day 4"]
    assert (second.after, third.after) == ("concat-all seed 1 day 0", "two seed 1 day 2")
    assert third.config.start.workdir == str(second.workdir) and third.config.start.rows == "mean"
    assert third.config.train.seed == 1 and third.config.start.optimizer == "kept"
    assert dated(third.config)[0] == "day-04-since-02-replay-0.1"
    assert runs["mixed seed 0 day 1"].config.model.entity == "mixed"
    assert not runs["concat-all seed 1 day 2"].config.start.workdir
    in_force = [plan.in_force(ROWS[2], 1, day).day for day in range(1, 6)]
    assert in_force == [0, 0, 2, 2, 4]
    assert [plan.in_force(ROWS[1], 0, day).job for day in (1, 3)] == [
        "concat-all seed 0 day 0", "concat-all seed 0 day 2",
    ]  # fmt: skip


def day_metrics(user, age, ndcg):
    """Return metrics of plays; popularity has .25, and a title of 3 days has no play before and the key 1."""
    age, ndcg = np.asarray(age), np.asarray(ndcg, float)
    known = np.where(age == 3, 0, 30)
    return DayMetrics(np.asarray(user), 1 + (known > 0), age, known, ndcg, np.full(len(ndcg), 0.25))


@pytest.fixture(scope="module")
def two_rows(study, tmp_path_factory):
    """Return a plan of two rows and evaluations of two seeds and two days, of users 7, 8 and 9."""
    small = copy.deepcopy(study)
    small.rows, small.days = (RollingRow("a", "A"), RollingRow("b", "B")), 2
    values = {
        ("a", 0, 1): day_metrics([7, 8, 7], [3, 40, 50], [1.0, 0.0, 0.5]),
        ("b", 0, 1): day_metrics([7, 8, 7], [3, 40, 50], [0.0, 0.0, 0.5]),
        ("a", 1, 1): day_metrics([7, 8, 7], [3, 40, 50], [0.5, 0.5, 0.5]),
        ("b", 1, 1): day_metrics([7, 8, 7], [3, 40, 50], [0.5, 0.0, 0.5]),
        ("a", 0, 2): day_metrics([9, 8], [7, 8], [1.0, 1.0]),
        ("b", 0, 2): day_metrics([9, 8], [7, 8], [0.5, 0.0]),
        ("a", 1, 2): day_metrics([9, 8], [7, 8], [1.0, 1.0]),
        ("b", 1, 2): day_metrics([9, 8], [7, 8], [0.0, 0.5]),
    }
    return Plan(small, (), 2, tmp_path_factory.mktemp("rolling")), values


def test_differences_are_of_users_pooled_over_days(two_rows):
    """Means over seeds: plays .5, .25, 0 on day 1 and .75, .75 on day 2; users .25, .5 and .75."""
    plan, values = two_rows
    c = compare(plan, Comparison("a less b", "a", "b"), values)
    assert (c["plays"], c["users"], c["days"]) == (5, 3, [1, 2])
    assert c["over_users"]["mean"] == pytest.approx((0.25 + 0.5 + 0.75) / 3)
    # Title 1 has a play of .5, title 2 the others.
    assert c["titles"] == 2 and c["over_titles"]["mean"] == pytest.approx((0.5 + 1.75 / 4) / 2)
    assert c["over_plays"] == pytest.approx(2.25 / 5)
    # Seed 0: 1, 0, 0, .5, 1; seed 1: 0, .5, 0, 1, .5.
    assert c["over_seeds"]["mean"] == pytest.approx(0.45) and c["over_seeds"]["sd"] == pytest.approx(
        np.std([0.5, 0.4], ddof=1)
    )
    low, high = c["over_users"]["interval"]
    assert 0.25 <= low < 0.5 < high <= 0.75
    new = compare(plan, Comparison("new", "a", "b", (), NEW), values)
    assert (new["plays"], new["users"]) == (2, 2)
    assert new["over_users"]["mean"] == pytest.approx((0.5 + 0.75) / 2)
    second = compare(plan, Comparison("popular", "a", POPULAR, (2,)), values)
    assert second["over_users"]["mean"] == pytest.approx(0.75) and second["days"] == [2]


def test_metrics_are_read_back_and_those_of_other_arrays_are_not(tmp_path):
    path = tmp_path / "day.npz"
    assert DayMetrics.load(path) is None
    day_metrics([7, 8], [3, 40], [1.0, 0.0]).save(path)
    assert DayMetrics.load(path).title.tolist() == [1, 2]
    np.savez(path, user=np.arange(2), age=np.arange(2), ndcg=np.zeros(2), popular=np.zeros(2))
    assert DayMetrics.load(path) is None  # of a version without titles: evaluated again


def test_the_report_has_the_means_and_the_differences(two_rows):
    plan, values = two_rows
    plan.study.comparisons = (
        Comparison("a less b", "a", "b"), Comparison("x", "a", POPULAR, (), NEW),
        Comparison("of a later day", "a", "b", (9,)), Comparison("of another row", "a", "c"),
        Comparison("of no title", "a", "b", (), (90, 99)),
    )  # fmt: skip
    result = json.loads(json.dumps(compute_results(plan, values, values)))
    assert [c["name"] for c in result["comparisons"]] == ["a less b", "x"]
    text = text_of(result)
    # Row a: day 1 (1 + 0 + .5 + .5 + .5 + .5) / 6, day 2 1; all 7 / 10; new 3.5 / 4; old 1.5 / 4. The new
    # titles: 1.5 / 2 without plays, and 1.
    assert "| A | 0.7000 | 0.8750 | 0.8750 | 0.7500 | 0.3750 | 0.5000 | 1.0000 |" in text
    of_popular = (
        "| popularity of the 7 days before | 0.2500 | 0.2500 | 0.2500 |  | 0.2500 | 0.2500 | 0.2500 |"
    )
    assert of_popular in text  # `unplayed` is of the training of a model
    assert "| plays | | | | | | 3 | 2 |" in text
    assert "| a less b | 1 to 2 | 5, 2 | 0.7000, 0.2500 | +0.5000 [" in text and "| +0.4688 [" in text


def test_a_report_without_new_titles_has_empty_cells(two_rows):
    """A service without launches has none."""
    plan, values = two_rows
    plan.study.comparisons = ()
    old = {key: x._replace(age=x.age + 40, known=x.known + 1) for key, x in values.items()}
    text = text_of(compute_results(plan, old, old))
    assert "| A | 0.7000 |  |  |  | 0.7000 | 0.5000 | 1.0000 |" in text and "nan" not in text


def test_a_report_of_one_seed_has_no_spread_over_seeds(two_rows):
    plan, values = two_rows
    plan.study.comparisons = (Comparison("a less b", "a", "b"),)
    plan = Plan(plan.study, (), 1, plan.folder)
    text = text_of(compute_results(plan, values, values))
    assert "| +0.5000, one seed |" in text and "nan" not in text


def test_a_cost_is_the_time_between_the_first_and_the_last_step(study, tmp_path):
    plan = Plan(study, ("two",), 1, tmp_path)
    run = plan.runs[-1]
    run.workdir.mkdir(parents=True)
    size = run.config.train.batch_size
    lines = [
        {"split": "train", "step": 10, "examples_per_second": 5.0 * size},
        {"split": "validation", "step": 10},
        {"split": "train", "step": 14, "examples_per_second": 2.0 * size},
    ]
    (run.workdir / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert cost_of(run) == (14 * size, 2 + 2)


@pytest.mark.parametrize(
    ("change", "rows", "message"),
    [
        ({}, ["other"], "--rows=other; allowed: stale, retrain, two, mixed"),
        ({"days": 0}, [], "--days=0; allowed: 1 or more"),
        ({"models": {"concat": {}}}, [], "row mixed: model=mixed; allowed: concat"),
    ],
)
def test_a_wrong_study_is_one_line(study, change, rows, message):
    wrong = copy.copy(study)
    for name, value in change.items():
        setattr(wrong, name, value)
    with pytest.raises(InputError, match=message):
        check_study(wrong, rows)


def test_a_study_needs_launch_days_and_sequences(study):
    wrong = copy.deepcopy(study)
    wrong.base.features = wrong.base.features[:-1]
    with pytest.raises(InputError, match="features: launch_day is missing"):
        check_study(wrong, ())
    wrong.base.task.name = "ranking"
    with pytest.raises(InputError, match=r"task\.name=ranking; allowed in a rolling study: next_item"):
        check_study(wrong, ())


@pytest.mark.slow  # prepares four datasets and trains three models, a process each
def test_the_command_resumes_and_reports(tmp_path):
    command = [
        sys.executable, "-m", "jaxrec.days", f"--config={STUDY}", "--days=2", "--seeds=1",
        "--rows=stale,week_mixed_masked_metadata", f"--workdir={tmp_path / 'r'}", "--json",
    ]  # fmt: skip
    first, again = (subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(2))
    assert "[1/4] dataset" in first.stderr and "[3/3] week_mixed_masked_metadata" in first.stderr
    assert "[1/" not in again.stderr
    assert json.loads(first.stdout) == json.loads(again.stdout)
    result = json.loads((tmp_path / "r" / "study.json").read_text())
    rows = {row["row"]: row for row in result["rows"]}
    assert set(rows["stale"]["ndcg"]["by_day"]) == {"1", "2"} and sum(result["plays"].values()) > 0
    assert rows["week_mixed_masked_metadata"]["examples_of_update"] > 0
    assert (tmp_path / "r" / "study.md").read_text().startswith("# Rolling study of a changing service")
