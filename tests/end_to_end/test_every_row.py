"""Every row of the paper's tables and every option, trained and judged for real at the smallest scale."""

import copy
import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxrec.config.loading import load_config, load_file
from jaxrec.core.json_io import write_json
from jaxrec.data.runners.local import prepare
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation import per_user as per_user_module
from jaxrec.evaluation.evaluator import CHECKPOINTS, evaluate
from jaxrec.evaluation.results import per_query, per_user
from jaxrec.losses import ranking
from jaxrec.reporting.metric_writer import METRICS_FILE
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.sources import open_source
from jaxrec.studies import markdown, results, runs
from jaxrec.studies.paper import ALL
from jaxrec.studies.plan import Study, configs, datasets, every_run
from jaxrec.training.trainer import train

ROOT = Path(__file__).resolve().parents[2]
TABLES = (*ALL, "options", "beyond")
STUDY = load_file(f"{ROOT / 'configs/study.py'}:tiny", Study)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """configs/study.py:tiny, three epochs of two steps a row: averaged task weights move in the third. Of the
    features one of each kind and place: every one more is compiled forty times."""
    study = copy.deepcopy(STUDY)
    kept = ("title_id", "genres", "runtime", "segment", "hour", "completion")
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
    """What `runs.training` has commands do, without a process and its imports for each of thirty rows."""
    if runs.is_done(run.workdir, "eval-test-*-per-query.parquet"):
        return
    train(run.config, Dataset(run.config.data.directory), run.workdir, PreemptionHandler())
    judged = evaluate(run.workdir, heads=True)
    write_json(run.workdir / "test.json", judged.result)
    write_json(run.workdir / "eval-test-best.json", judged.result)
    per_user_module.write(run.workdir, "eval-test-best", per_user(judged), per_query(judged))
    jax.clear_caches()  # three hundred programs kept in one process end in XLA's segmentation fault


@pytest.mark.parametrize("name", configs(STUDY, TABLES))
def test_a_row_is_trained_and_judged(name, every):
    run = next(run for run in every if run.name == name)
    trained(run)
    result = json.loads((run.workdir / "test.json").read_text())
    assert result["step"] in (2, 4, 6) and {"lists", "lists_k3", "by_hard"} <= result.keys()
    assert ("gate" in result) == (len(run.config.model.experts) > 1)
    tasks = [task for task in ("ctr", "ranking") if getattr(run.config.objective, task)]
    assert list(result.get("other_heads", {})) == tasks[:-1]  # ranking ranks where there is one
    assert figures_of(run) == {f"loss_{name}" for name in terms_of(run.config)} | {
        f"weight_{name}" for name in ranking.TASKS if moving_weight(run.config, name)
    }


def figures_of(run):
    """Which of the objective's terms and weights a training logged."""
    logged = map(json.loads, (run.workdir / METRICS_FILE).read_text().splitlines())
    first = next(line for line in logged if line["split"] == "train")
    return {name for name in first if name.startswith(("loss_", "weight_"))}


def terms_of(config):
    """Those its row asks for."""
    o, mixes = config.objective, len(config.model.experts) > 1
    terms = {name for name in ranking.TASKS if getattr(o, name)}
    terms |= {"entropy"} if mixes and config.model.gate.target_entropy is not None else set()
    return terms | ({"balance"} if mixes and o.balance else set())


def moving_weight(config, name):
    return config.objective.weighting != "fixed" and getattr(config.objective, name)


@pytest.fixture(scope="module")
def found(study, every):
    for run in every:
        trained(run)  # the tests above have, but where this one is run alone
    return results.compute_results(study, TABLES, runs.values(every))


def test_every_row_of_every_table_has_its_figures(study, found):
    rows = study.rows(study.base)
    assert [*found["tables"]] == [*TABLES]
    for name, table in found["tables"].items():
        assert [row["row"] for row in table["rows"]] == [row.name for row in rows if name in row.tables]
        assert table["baselines"].keys() >= {"popularity", "item_to_item", "oracle"}
        for row in table["rows"]:
            blocks = {f"{kind}{suffix}" for kind in ("enabled", "disabled") for suffix in ("", "_k3")}
            assert row["figures"].keys() == blocks
            means = [figure["mean"] for block in row["figures"].values() for figure in block.values()]
            assert np.isfinite(means).all() and min(means) > 0 and max(means) < 1, row["row"]
            if row["against"] != row["row"]:
                assert all(part["seeds"] == [0] for part in row["differences"].values())
    assert len(found["tables"]["7"]["rows"]) == 5 and len(found["tables"]["8"]["rows"]) == 6


def test_rows_are_trained_apart(every, found):
    """Two rows that are judged by the same parameters at the end would be one row under two names."""
    of_parameters: dict[bytes, str] = {}
    for run in every:
        name = of_parameters.setdefault(last_parameters(run), run.name)
        assert name == run.name


def last_parameters(run):
    """As they lie there: for `evaluation.load` each row's program would be traced once more."""
    last = max((run.workdir / CHECKPOINTS).glob("[0-9]*"), key=lambda path: int(path.name))
    state = ocp.StandardCheckpointer().restore(last / "state")
    leaves = jax.tree.leaves(state["average"] or state["params"])  # as `TrainState.judged`
    return b"".join(np.asarray(leaf).tobytes() for leaf in leaves)


def test_every_claim_has_its_verdicts_and_the_page_is_written(study, found, every, tmp_path):
    asked = {(c.name, name, k) for c in study.claims for name in c.lists for k in c.next_k}
    assert {(c["claim"], c["list"], c["next_k"]) for c in found["claims"]} == asked
    assert {c["verdict"] for c in found["claims"]} == {"not significant"}  # of one seed
    about = {"study": "tiny", "date": "2026-01-02", "machine": "a machine", "seeds": [0],
             "runs": len(every), "done": len(every)}  # fmt: skip
    markdown.write(tmp_path, about | found)
    text = (tmp_path / "study.md").read_text()
    for row in study.rows(study.base):
        for label in row.tables.values():
            assert f"| {label} |" in text


def test_a_row_computed_again_from_its_config_gives_the_studys_figures(every, found, tmp_path):
    row = found["tables"]["4"]["rows"][0]
    run = next(run for run in every if run.name == row["row"])
    again = run._replace(config=load_config(str(runs.write_config(run))), workdir=tmp_path / "again")
    trained(again)
    lists = json.loads((again.workdir / "test.json").read_text())["lists"]
    for name, figures in lists.items():
        for metric, of_row in row["figures"][name].items():
            assert figures[metric] == of_row["mean"]


def test_what_is_done_is_not_run_again_and_what_is_missing_is(every, found):
    """Of forty rows one has lost its last file: that one is judged again, to the same values."""
    lost = every[-1]
    path = lost.workdir / "eval-test-best-per-query.parquet"
    before, result = path.read_bytes(), json.loads((lost.workdir / "eval-test-best.json").read_text())
    path.unlink()
    assert len(runs.finished(every)) == len(every) - 1
    with PreemptionHandler() as interrupt:
        assert runs.run_all(every, lost.workdir.parents[2], 1, interrupt) == []
    assert path.read_bytes() == before
    again = json.loads((lost.workdir / "eval-test-best.json").read_text())
    assert again["lists"] == result["lists"]
    assert [run for run in every[:-1] if (run.workdir / "log.txt").exists()] == []
