"""Quality and cost of runs: of a trained run, of one with frozen parameters, and of rows of a study."""

import json
import shutil
from types import SimpleNamespace

import pytest

from benchmarks.run_costs import cost_of, main, quality_of, rows_of_study
from jaxrec.checkpoints.state_tree import slashed_leaves
from jaxrec.core.errors import InputError
from jaxrec.tasks.loading import load_checkpoint


def test_a_run_has_its_parameters_less_the_frozen_ones(tiny_run, tmp_path):
    workdir = tmp_path / "study" / "runs" / "tuned" / "seed-0"
    shutil.copytree(tiny_run / "run", workdir)
    sizes = {name: x.size for name, x in slashed_leaves(load_checkpoint(workdir, "last").params).items()}
    cost, result = cost_of(workdir), json.loads((workdir / "test.json").read_text())
    assert cost.parameters == cost.trained == sum(sizes.values())
    assert cost.seconds == result["seconds"] > 0 and cost.start == ""
    frozen = sorted(sizes)[:2]
    (workdir / "start.json").write_text(json.dumps({"frozen": frozen, "workdir": "S/runs/first/seed-0"}))
    cost = cost_of(workdir)
    assert cost.trained == cost.parameters - sizes[frozen[0]] - sizes[frozen[1]]
    assert rows_of_study(tmp_path / "study") == {"tuned": [workdir]}
    report = main(SimpleNamespace(workdirs=[], study=str(tmp_path / "study")))
    assert report.rows[0][0] == "tuned" and report.rows[0][2].endswith("; after first")


def test_quality_is_that_of_labels_and_of_all_titles():
    labels = {"back": {"auc": {"value": 0.7}}, "stars": {"mse": {"value": 1.0}}}
    result = {"labels": labels, "catalogue": {"model": {"ndcg@10": 0.2, "hr@10": 0.3}}}
    assert quality_of(result) == {"AUC back": 0.7, "NDCG@10": 0.2}
    assert quality_of({"lists": {}}) == {}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"workdirs": [], "study": ""}, "--workdirs and --study: give one of them"),
        ({"workdirs": ["nowhere"], "study": ""}, "nowhere: holds no test.json"),
        ({"workdirs": [], "study": "nowhere"}, "--study=nowhere: no finished run"),
    ],
)
def test_what_is_no_finished_run_is_refused(flags, message):
    with pytest.raises(InputError, match=message):
        main(SimpleNamespace(**flags))
