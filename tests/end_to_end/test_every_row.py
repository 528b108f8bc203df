"""Every row of the paper's tables and every option: all are traced, a few are trained and evaluated.

`pytest -m slow tests/end_to_end/test_every_row.py` trains and evaluates all of them.
"""

import copy
import functools
import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxrec.config.loading import load_config, load_file
from jaxrec.core.json_io import write_json
from jaxrec.core.registry import HEADS
from jaxrec.data.runners.local import prepare
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation import per_user as per_user_module
from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
from jaxrec.evaluation.results import per_query, per_user
from jaxrec.reporting.metric_writer import METRICS_FILE
from jaxrec.runtime.mesh import AXIS
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.sources import open_source
from jaxrec.studies import markdown, results, runs
from jaxrec.studies.paper import ALL
from jaxrec.studies.plan import Study, configs, datasets, every_run
from jaxrec.tasks.loading import CHECKPOINTS
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.inputs.input_pipeline import training_batches
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep
from jaxrec.training.trainer import train

ROOT = Path(__file__).resolve().parents[2]
TERMS = tuple(head.weight for head in HEADS.values())  # of the paper's heads
TABLES = (*ALL, "options", "beyond")
STUDY = load_file(f"{ROOT / 'configs/study.py'}:tiny", Study)
NAMES = [*configs(STUDY, TABLES)]
# Rows that the default suite trains: all tasks; three next titles. One training takes about twenty seconds of
# a core, a trace one. The slow form trains all rows.
SOME = ("smoe_pl", "k3_weighted")
TRACED = NAMES[::5]  # rows that the default suite traces


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """configs/study.py:tiny, three epochs of two steps a row: averaged task weights move in the third. Few
    features: every one more is traced forty times."""
    study = copy.deepcopy(STUDY)
    kept = ("title_id", "genres", "segment", "completion")
    study.base.features = tuple(feature for feature in study.base.features if feature.name in kept)
    study.base.data.directory = str(tmp_path_factory.mktemp("data") / "tiny")
    study.base.source.users, study.base.source.test_only_users = 120, 30
    study.base.train.duration, study.base.train.batch_size = "3 epochs", 256
    return study


@pytest.fixture(scope="module")
def every(study, tmp_path_factory):
    every = every_run(study, TABLES, 1, tmp_path_factory.mktemp("study"))
    for directory, config in datasets(every).items():
        prepare(open_source(config.source, config.features), config, directory)
    return every


def trained(run):
    """Train and evaluate a run as `runs.training_job` does, without a process for each of thirty rows."""
    if runs.is_done(run.workdir, "eval-test-*-per-query.parquet"):
        return
    train(run.config, Dataset(run.config.data.directory), run.workdir, PreemptionHandler())
    evaluation = evaluate(run.workdir, EvaluationOptions(heads=True))
    write_json(run.workdir / "test.json", evaluation.result)
    write_json(run.workdir / "eval-test-best.json", evaluation.result)
    files = per_user_module.encode("eval-test-best", per_user(evaluation), per_query(evaluation))
    per_user_module.write(run.workdir, files)


@pytest.mark.parametrize("name", [n if n in SOME else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_a_row_is_trained_and_evaluated(name, every):
    run = next(run for run in every if run.name == name)
    trained(run)
    result = json.loads((run.workdir / "test.json").read_text())
    assert result["step"] in (2, 4, 6) and {"lists", "lists_k3", "by_hard"} <= result.keys()
    assert ("gate" in result) == (len(run.config.model.experts) > 1)
    assert tuple(result.get("other_heads", {})) == other_heads(run.config)
    assert figures_of(run) == expected_figures(run.config)


def figures_of(run):
    """Return the terms and weights of the objective that a training logged."""
    logged = map(json.loads, (run.workdir / METRICS_FILE).read_text().splitlines())
    first = next(line for line in logged if line["split"] == "train")
    return {name for name in first if name.startswith(("loss_", "weight_"))}


def other_heads(config):
    """The heads that do not rank: ranking ranks where there is one."""
    return tuple(task for task in ("ctr", "ranking") if getattr(config.objective, task))[:-1]


def expected_figures(config):
    """Terms and weights that a row's objective has."""
    return {f"loss_{name}" for name in terms_of(config)} | {
        f"weight_{name}" for name in TERMS if moving_weight(config, name)
    }


def terms_of(config):
    o, mixes = config.objective, len(config.model.experts) > 1
    terms = {name for name in TERMS if getattr(o, name)}
    terms |= {"entropy"} if mixes and config.model.gate.target_entropy is not None else set()
    return terms | ({"balance"} if mixes and o.balance else set())


def moving_weight(config, name):
    return config.objective.weighting != "fixed" and getattr(config.objective, name)


class Traced(NamedTuple):
    """A row's program, the figures that its training step gives, and a digest of what it computes."""

    program: RankingTask
    figures: set[str]
    digest: str


class ForwardStep(TrainStep):
    """A train step without its derivative, which rows share and which makes half of a trace.

    The stand-in for the gradient has its shapes. The rows that are trained, and test_configs, differentiate.
    """

    def gradients(self, state, host, table):
        keys = jnp.zeros((len(host.valid), 2), jnp.uint32)
        loss, sums = self.task.loss(state.params, host, table, state.task_state, state.step, keys, None, None)
        return jax.tree.map(lambda x: loss.astype(x.dtype) * x, state.params), sums


def trace(config):
    """Trace a row's first state and training step on its own dataset; nothing is compiled."""
    dataset = Dataset(config.data.directory)
    program = RankingTask(config, dataset.layout, dataset.manifest["completion_threshold"], 2, 6)
    init = StateInit(program)
    arguments = init.abstract(), training_batches(program, dataset.rows("train"))[0]
    table = dataset.arrays.title_table()
    step, shapes = jax.make_jaxpr(ForwardStep(program), axis_env=[(AXIS, 1)], return_shape=True)(
        *arguments, table
    )
    computed = hashlib.sha256()
    for closed in (init._traced.jaxpr, step):
        computed.update(re.sub(r"0x[0-9a-f]+", "", str(closed)).encode())  # functions' addresses
        for constant in closed.consts:
            computed.update(np.asarray(constant).tobytes())
    figures = {name for name in shapes[1] if name.startswith(("loss_", "weight_"))}
    return Traced(program, figures, computed.hexdigest())


@pytest.fixture(scope="module")
def traced(every):
    """Function from the name of a row to its trace, which is made once."""
    config_of = {run.name: run.config for run in every}
    return functools.cache(lambda name: trace(config_of[name]))


@pytest.mark.parametrize(
    "name", [n if n in TRACED else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_a_row_has_the_terms_weights_gate_and_heads_of_its_config(name, traced):
    program, figures, _ = traced(name)
    assert figures == expected_figures(program.config)
    assert list(program.ranking_heads[1:]) == list(other_heads(program.config))
    assert ("gate" in program.abstract_params) == (len(program.config.model.experts) > 1)


@pytest.mark.parametrize("names", [TRACED, pytest.param(NAMES, marks=pytest.mark.slow)], ids=["some", "all"])
def test_every_row_computes_something_else(names, traced, every):
    """Two rows with one first state and one step would be one row under two names. A row that is traced again
    has the same digest, so a digest depends on the computation alone."""
    of_digest: dict[str, str] = {}
    for name in names:
        assert of_digest.setdefault(traced(name).digest, name) == name
    assert trace(every[0].config).digest == traced(every[0].name).digest


@pytest.fixture(scope="module", params=["some", pytest.param("all", marks=pytest.mark.slow)])
def done(request, every):
    """Runs that are trained and evaluated."""
    runs_done = [run for run in every if request.param == "all" or run.name in SOME]
    for run in runs_done:
        trained(run)  # the tests above have, but where this one is run alone
    return runs_done


@pytest.fixture(scope="module")
def result(study, done):
    return results.compute_results(study, TABLES, runs.values(done))


def test_every_row_of_every_table_has_its_figures(study, result, done):
    rows, names = study.rows(study.base), {run.name for run in done}
    assert [*result["tables"]] == [*TABLES]
    with_figures = set()
    for name, table in result["tables"].items():
        assert [row["row"] for row in table["rows"]] == [row.name for row in rows if name in row.tables]
        if table["rows"][0]["row"] in names:  # the row whose baselines a table shows
            assert table["baselines"].keys() >= {"popularity", "item_to_item", "oracle"}
        for row in table["rows"]:
            if row["row"] not in names:
                assert row["seeds"] == [] and "figures" not in row
                continue
            with_figures.add(row["row"])
            blocks = {f"{kind}{suffix}" for kind in ("enabled", "disabled") for suffix in ("", "_k3")}
            assert row["figures"].keys() == blocks
            means = [figure["mean"] for block in row["figures"].values() for figure in block.values()]
            assert np.isfinite(means).all() and min(means) > 0 and max(means) < 1, row["row"]
            if row["against"] != row["row"]:
                other = [0] if row["against"] in names else None
                assert all((part and part["seeds"]) == other for part in row["differences"].values())
    assert with_figures == names
    assert len(result["tables"]["7"]["rows"]) == 5 and len(result["tables"]["8"]["rows"]) == 6


def test_rows_are_trained_apart(done):
    """Two rows that are evaluated with the same parameters at the end would be one row under two names."""
    of_parameters: dict[bytes, str] = {}
    for run in done:
        name = of_parameters.setdefault(last_parameters(run), run.name)
        assert name == run.name


def last_parameters(run):
    """Read the stored arrays: `load_checkpoint` would trace each row's program once more."""
    last = max((run.workdir / CHECKPOINTS).glob("[0-9]*"), key=lambda path: int(path.name))
    state = ocp.StandardCheckpointer().restore(last / "state")
    leaves = jax.tree.leaves(state["average"] or state["params"])  # as `TrainState.eval_params`
    return b"".join(np.asarray(leaf).tobytes() for leaf in leaves)


def test_every_claim_has_its_verdicts_and_the_page_is_written(study, result, every, done, tmp_path):
    names = {run.name for run in done}
    judgeable = [claim for claim in study.claims if names >= {name for pair in claim.pairs for name in pair}]
    expected = {(c.name, name, k) for c in judgeable for name in c.lists for k in c.next_k}
    assert {"weighted K=3 over K=1"} <= {claim for claim, _, _ in expected}
    assert {(c["claim"], c["list"], c["next_k"]) for c in result["claims"]} == expected
    assert {c["verdict"] for c in result["claims"]} == {"not significant"}  # of one seed
    about = {"study": "tiny", "date": "2026-01-02", "machine": "a machine", "seeds": [0],
             "runs": len(every), "done": len(done)}  # fmt: skip
    markdown.write(tmp_path, about | result)
    text = (tmp_path / "study.md").read_text()
    for row in study.rows(study.base):
        for label in row.tables.values():
            assert f"| {label} |" in text


@pytest.mark.slow
def test_a_row_computed_again_from_its_config_gives_the_studys_figures(done, result, tmp_path):
    row = result["tables"]["4"]["rows"][0]
    run = next(run for run in done if run.name == row["row"])
    again = run._replace(config=load_config(str(runs.write_config(run))), workdir=tmp_path / "again")
    trained(again)
    lists = json.loads((again.workdir / "test.json").read_text())["lists"]
    for name, figures in lists.items():
        for metric, of_row in row["figures"][name].items():
            assert figures[metric] == of_row["mean"]


def test_what_is_done_is_not_run_again_and_what_is_missing_is(done, result):
    """One row of those done has lost its last file: that one is evaluated again, to the same values."""
    lost = done[-1]
    path = lost.workdir / "eval-test-best-per-query.parquet"
    before, first = path.read_bytes(), json.loads((lost.workdir / "eval-test-best.json").read_text())
    path.unlink()
    assert len(runs.finished(done)) == len(done) - 1
    with PreemptionHandler() as interrupt:
        assert runs.run_all(done, lost.workdir.parents[2], 1, interrupt) == []
    assert path.read_bytes() == before
    again = json.loads((lost.workdir / "eval-test-best.json").read_text())
    assert again["lists"] == first["lists"]
    assert [run for run in done[:-1] if (run.workdir / "log.txt").exists()] == []
