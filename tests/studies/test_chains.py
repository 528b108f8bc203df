"""Rows after rows: one first run for all, in order; a first run that was trained again is noticed."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jaxrec.checkpoints.seals import CHECKSUMS, digest
from jaxrec.config.loading import load_config
from jaxrec.config.schema import Start
from jaxrec.config.serialization import to_json
from jaxrec.core.errors import InputError
from jaxrec.core.json_io import write_json
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.studies import chains, plan, runs
from jaxrec.studies.plan import Premise, ResultTable, Row, Study
from jaxrec.tasks.loading import CHECKPOINTS, START_JSON

CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
ROWS = (
    Row("third", {"start.anchor": 0.1}, {"4": "anchored"}, after="second"),
    Row("other", {"start": Start(freeze=("title/*",))}, {"4": "frozen", "7": "frozen"}, after="first"),
    Row("second", {"train.duration": "1 epochs"}, {"7": "again"}, after="first"),
    Row("first", {}, {}),
    Row("alone", {}, {"7": "alone"}),
)


def study_of(config, *rows, premises=()):
    tables = (ResultTable("4", "Table 4"), ResultTable("7", "Table 7"))
    return Study("chains", config, lambda base: rows, tables, ("4",), premises=premises)


def with_rows(**after):
    """Return rows without edits: name -> name of the row before."""
    return [Row(name, {}, {"4": name}, after=before) for name, before in after.items()]


# ---------------------------------------------------------------- plan


def test_a_run_comes_after_the_one_that_it_starts_from_which_all_share(tiny_config):
    every = plan.every_run(study_of(tiny_config, *ROWS), ("4", "7"), 2, Path("S"))
    assert [(run.name, run.after, run.seed) for run in every] == [
        (name, after, seed)
        for seed in (0, 1)
        for name, after in (
            ("first", ""), ("second", "first"), ("third", "second"), ("other", "first"), ("alone", ""),
        )
    ]  # fmt: skip
    start = {(run.name, run.seed): run.config.start for run in every}
    here = Path("S").absolute()
    assert start["third", 1] == Start(str(here / "runs/second/seed-1"), anchor=0.1)
    assert start["other", 0] == Start(str(here / "runs/first/seed-0"), freeze=("title/*",))
    assert start["second", 1] == Start(str(here / "runs/first/seed-1"))
    assert start["first", 1] == start["alone", 0] == Start()
    assert all(Path(s.workdir) == r.workdir.parents[1].absolute() / r.after / r.workdir.name
               for r in every if (s := r.config.start).workdir)  # fmt: skip


def test_a_table_has_the_first_runs_of_its_rows_alone(tiny_config):
    study = study_of(tiny_config, *ROWS)
    assert [*plan.configs(study, ("4",))] == ["first", "second", "third", "other"]
    assert [*plan.configs(study, ("7",))] == ["first", "other", "second", "alone"]


def test_a_chain_of_a_premise_has_the_setting_in_all_its_runs(tiny_config):
    premise = Premise("moods", "source.mood", "second", "alone", values=(1.0, 2.0))
    variants = plan.variants(study_of(tiny_config, *ROWS, premises=(premise,)), (plan.PREMISE,))
    assert {name: (v.after, v.config.source.mood) for name, v in variants.items()} == {
        "first": ("", 1.0), "second": ("first", 1.0), "alone": ("", 1.0),
        "first-mood-2": ("", 2.0), "second-mood-2": ("first-mood-2", 2.0), "alone-mood-2": ("", 2.0),
    }  # fmt: skip


def test_a_long_chain_has_all_its_runs(tiny_config):
    names = [f"day{i}" for i in range(40)]
    rows = with_rows(**dict(zip(names, ["", *names], strict=False)))
    every = plan.every_run(study_of(tiny_config, *rows[::-1]), ("4",), 1, Path("S"))
    assert [run.name for run in every] == names and [run.after for run in every] == ["", *names[:-1]]


def test_a_base_that_starts_elsewhere_is_where_first_rows_start(tiny_config):
    base = replace(tiny_config, start=Start("elsewhere", anchor=0.5))
    rows = plan.every_run(study_of(base, *with_rows(a="", b="a")), ("4",), 1, Path("/S"))
    assert [run.config.start for run in rows] == [
        Start("elsewhere", anchor=0.5), Start("/S/runs/a/seed-0", anchor=0.5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "rows, message",
    [
        (with_rows(a="a"), "row a: stands on itself (a after a); allowed: a chain with a first row"),
        (with_rows(a="c", b="a", c="b", d="a"),
         "row a: stands on itself (a after c after b after a); allowed: a chain with a first row"),
        (with_rows(first="", two="frist"),
         "row two: after='frist' does not exist; there are first, two; did you mean first?"),
        ([*with_rows(a=""), Row("b", {"start.workdir": "x"}, {"4": ""}, after="a")],
         "row b: start.workdir='x' must be empty beside after='a'"),
        ([*with_rows(a=""), Row("b", {"start": Start("x")}, {"4": ""}, after="a")],
         "row b: start.workdir='x' must be empty beside after='a'"),
    ],
)  # fmt: skip
def test_a_wrong_chain_is_one_line(tiny_config, rows, message):
    with pytest.raises(InputError) as error:
        plan.every_run(study_of(tiny_config, *rows), ("4",), 1, Path("S"))
    assert str(error.value) == message


# ---------------------------------------------------------------- jobs


@pytest.fixture
def job(tmp_path):
    """Return a function that makes a job that appends its name to `order`, does `code` and writes DONE."""

    def make(name, after="", code=""):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        text = f"open('{tmp_path}/order', 'a').write('{name} ')\n{code}\nopen('{folder}/DONE', 'w')"
        return runs.Job(name, folder, ("-c", text), "DONE", folder / "log.txt", after)

    return make


def run_jobs(jobs, at_once=1):
    with PreemptionHandler() as interrupt, runs.Pool(at_once, interrupt) as pool:
        return pool.run(jobs)


def test_jobs_start_once_what_they_stand_on_is_done(job, tmp_path):
    assert run_jobs([job("c", "b"), job("b", "a"), job("x"), job("a")]) == []
    assert (tmp_path / "order").read_text() == "x a b c "


WAIT = """
import pathlib, time
end = time.monotonic() + 30
while not pathlib.Path({path!r}).exists():
    assert time.monotonic() < end
    time.sleep(.02)
"""


@pytest.mark.skipif(CORES < 2, reason="needs two cores")
def test_independent_chains_run_side_by_side(job, tmp_path):
    """Each first job ends once the other has started, and `a` writes its output long before its end."""
    meet = [WAIT.format(path=str(tmp_path / name / "here")) for name in "xa"]
    a = f"open('{tmp_path}/a/here', 'w'); open('{tmp_path}/a/DONE', 'w')\n{meet[0]}"
    a += WAIT.format(path=str(tmp_path / "y" / "DONE")) + f"open('{tmp_path}/order', 'a').write('end-a ')"
    x = f"open('{tmp_path}/x/here', 'w')\n{meet[1]}"
    assert run_jobs([job("a", code=a), job("b", "a"), job("x", code=x), job("y", "x")], 2) == []
    order = (tmp_path / "order").read_text().split()
    assert {*order[:2]} == {"a", "x"} and order[2:] == ["y", "end-a", "b"]


def test_a_failed_job_fails_what_stands_on_it_and_nothing_else(job, tmp_path, capfd):
    done_but_failed = f"open('{tmp_path}/w/DONE', 'w'); raise SystemExit(3)"
    jobs = [
        job("a", code="raise SystemExit('no such width')"), job("b", "a"), job("c", "b"), job("d", "a"),
        job("x"), job("y", "x"), job("w", code=done_but_failed), job("z", "w"),
    ]  # fmt: skip
    failures = run_jobs(jobs)
    log = tmp_path / "a" / "log.txt"
    assert failures[0] == f"a: ended with exit status 1; its log is {log}, which ends: no such width"
    assert sorted(failures[1:4]) == [f"{name}: not run, because a failed" for name in "bcd"]
    assert failures[4].startswith("w: ended with exit status 3") and len(failures) == 6
    assert failures[5] == "z: not run, because w failed"
    assert (tmp_path / "order").read_text() == "a x y w "
    assert "[8/8] z: not run, because w failed" in capfd.readouterr().err


def test_a_chain_that_was_stopped_goes_on_with_the_job_that_is_not_done(job, tmp_path):
    stop = "import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(60)"
    a, c = job("a"), job("c", "b")
    assert run_jobs([a, job("b", "a", stop), c]) == []  # stopped by the second job, as by Ctrl-C
    assert (tmp_path / "order").read_text() == "a b " and not c.done
    assert run_jobs([a, job("b", "a"), c]) == []
    assert (tmp_path / "order").read_text() == "a b b c "


def test_jobs_of_runs_stand_on_those_of_the_same_seed(tiny_config):
    every = plan.every_run(study_of(tiny_config, *with_rows(a="", b="a")), ("4",), 2, Path("S"))
    jobs = [runs.training_job(run) for run in every]
    assert [(j.name, j.after) for j in jobs] == [
        ("a seed 0", ""), ("b seed 0", "a seed 0"), ("a seed 1", ""), ("b seed 1", "a seed 1"),
    ]  # fmt: skip


# ---------------------------------------------------------------- runs on disk


@pytest.fixture
def pair(tiny_config, tmp_path):
    """Runs `a`, done, and `b`, which has started from step 7 of `a` and has a checkpoint."""
    a, b = plan.every_run(study_of(tiny_config, *with_rows(a="", b="a")), ("4",), 1, tmp_path / "S")
    write_done(a, "the first")
    write_step(b, 3, "")
    record = {"step": 7, "checksums": digest(a.workdir / CHECKPOINTS / "7"), "workdir": str(a.workdir)}
    write_json(b.workdir / START_JSON, record)
    write_json(b.workdir / "config.json", to_json(b.config))
    return a, b


def write_step(run, step, content):
    folder = run.workdir / CHECKPOINTS / str(step)
    folder.mkdir(parents=True)
    (folder / "commit_success.txt").touch()
    (folder / CHECKSUMS).write_text(content)


def write_done(run, content, step=7):
    write_step(run, step, content)
    (run.workdir / "eval-test-best-per-query.parquet").touch()


def train_again(run, content, step=7):
    shutil.rmtree(run.workdir)
    write_done(run, content, step)


def test_a_run_whose_first_run_is_as_it_was_is_resumed(pair):
    a, b = pair
    runs.check_workdir(b)
    assert load_config(str(runs.write_config(b))) == b.config
    evaluated = a.workdir / "eval-test-best-per-query.parquet"
    evaluated.unlink()  # to be evaluated again
    runs.check_workdir(b)
    evaluated.touch()
    shutil.rmtree(a.workdir / CHECKPOINTS)  # for its space: `b` has read it
    runs.check_workdir(b)


@pytest.mark.parametrize("end", ["checkpoint", "evaluated"])
@pytest.mark.parametrize(
    "change, difference",
    [
        (lambda a: shutil.rmtree(a.workdir), "is gone"),
        (lambda a: train_again(a, "another"), "has another step 7 now"),
        (lambda a: train_again(a, "the first", step=9), "has no step 7 any more"),
    ],
    ids=["removed", "again", "longer"],
)
def test_a_run_whose_first_run_was_trained_again_is_refused(pair, change, difference, end, tmp_path):
    a, b = pair
    if end == "evaluated":  # without checkpoints
        shutil.rmtree(b.workdir / CHECKPOINTS)
        (b.workdir / "eval-test-best-per-query.parquet").touch()
    change(a)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as error:
        runs.run_all(pair, tmp_path / "S", 1, PreemptionHandler())
    assert str(error.value) == (
        f"{b.workdir}: started from step 7 of {a.workdir}, which {difference}; "
        f"remove {b.workdir} to train it again too, or use another --workdir"
    )
    assert sorted(tmp_path.rglob("*")) == before  # nothing is written


def test_a_run_without_a_checkpoint_starts_from_the_new_first_run(pair):
    a, b = pair
    train_again(a, "another")
    shutil.rmtree(b.workdir / CHECKPOINTS)
    runs.check_workdir(b)


def test_a_run_after_another_row_is_refused(pair):
    _, b = pair
    b.config.start.workdir = b.config.start.workdir.replace("/a/", "/c/")
    with pytest.raises(InputError, match=r"holds a run with start\.workdir='.*runs/a/seed-0', this study"):
        runs.check_workdir(b)


def test_a_record_that_is_no_record_is_one_line(pair):
    _, b = pair
    for content, text in (
        ("{", "Expecting property name"),
        ("{}", "step is missing"),
        ('{"step": "a"}', "step is"),
    ):
        (b.workdir / START_JSON).write_text(content)
        with pytest.raises(InputError, match=text) as error:
            chains.check_first_run(b)
        assert str(b.workdir / START_JSON) in str(error.value) and "\n" not in str(error.value)


def test_a_study_that_was_moved_is_resumed(pair, tiny_config, tmp_path):
    """A run with a checkpoint cannot change `start`; one without reads the first run where it is now."""
    old = pair[1].config.start.workdir
    (tmp_path / "S").rename(tmp_path / "T")
    _, b = plan.every_run(study_of(tiny_config, *with_rows(a="", b="a")), ("4",), 1, tmp_path / "T")
    runs.check_workdir(b)
    assert load_config(str(runs.write_config(b))).start.workdir == old != b.config.start.workdir
    shutil.rmtree(b.workdir / CHECKPOINTS)
    runs.check_workdir(b)
    assert load_config(str(runs.write_config(b))) == b.config
