"""Rows edit a copy of the base; a run that several tables use is trained once."""

from dataclasses import replace
from pathlib import Path

import pytest

from jaxrec.config.loading import load_file
from jaxrec.config.serialization import dataset_directory
from jaxrec.core.errors import InputError
from jaxrec.studies import plan
from jaxrec.studies.plan import Claim, Premise, ResultTable, Row, Study

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted({*(ROOT / "configs").glob("study*.py")} - {ROOT / "configs/study_rolling.py"})  # one of days


def rows(base):
    return (
        Row("whole", {}, {"4": "S-MoE", "7": "all"}),
        Row("bst", {"model.experts": base.model.experts[-1:], "objective.ranking": 0.0}, {"4": "BST"}),
        Row("plain", {"objective.personalised": False}, {"7": "no PL"}),
    )


@pytest.fixture
def study(tiny_config):
    tables = (ResultTable("4", "Table 4"), ResultTable("7", "Table 7"))
    premises = (
        Premise("moods", "source.mood", "whole", "bst"),
        Premise("clickbait", "source.clickbait", "whole", "plain", values=(1.0, 2.0)),
    )
    return Study("try", tiny_config, rows, tables, ("4",), (Claim("c", (("whole", "bst"),)),), premises)


def test_a_row_edits_a_copy(tiny_config):
    edits = {"model.gate.target_entropy": None, "model.experts": tiny_config.model.experts[-1:]}
    config = plan.apply_edits(tiny_config, "bst", edits)
    assert (config.name, config.model.gate.target_entropy, len(config.model.experts)) == ("bst", None, 1)
    assert (tiny_config.name, tiny_config.model.gate.target_entropy) == ("tiny", 0.52)
    config.model.experts[0].max_len = 5  # the config does not share objects with the edits
    assert edits["model.experts"][0].max_len == tiny_config.model.experts[-1].max_len == 8


@pytest.mark.parametrize(
    "edits, message",
    [
        ({"model.widht": 12}, r"row r: model.widht does not exist; there are width"),
        ({"modle.width": 12}, r"row r: modle does not exist; there are name"),
        ({"model.width": 13}, r"row r: model.width=13 must divide by num_heads=2"),
    ],
)
def test_an_invalid_row_is_named_in_the_error(tiny_config, edits, message):
    with pytest.raises(InputError, match=message):
        plan.apply_edits(tiny_config, "r", edits)


def test_a_row_with_other_data_has_its_own_dataset(tiny_config):
    base = replace(tiny_config, data=replace(tiny_config.data, directory="somewhere"))
    same, other = (
        plan.apply_edits(base, "r", edits) for edits in ({"train.batch_size": 32}, {"source.mood": 0.0})
    )
    assert dataset_directory(same) == "somewhere"
    assert dataset_directory(other).startswith("somewhere-") and dataset_directory(other) != "somewhere-"
    runs = [plan.Run(c.name, 0, c, Path()) for c in (same, other, same)]
    assert plan.datasets(runs).keys() == {dataset_directory(same), dataset_directory(other)}


def test_each_row_is_trained_once(study):
    assert [*plan.configs(study, ("4", "7"))] == ["whole", "bst", "plain"]
    both = plan.configs(study, ("7", plan.PREMISE))
    assert [*both] == [
        "whole", "plain", "whole-mood-0", "bst-mood-0", "bst", "whole-mood-2", "bst-mood-2",
        "whole-clickbait-2", "plain-clickbait-2",
    ]  # fmt: skip
    assert [both[name].source.mood for name in ("bst-mood-0", "bst", "bst-mood-2")] == [0.0, 1.0, 2.0]
    assert len(both["bst-mood-2"].model.experts) == 1  # the row's edits and the premise's setting


def test_runs_are_ordered_by_seed(study):
    study.base = replace(study.base, train=replace(study.base.train, seed=5))
    runs = plan.every_run(study, ("4",), 2, Path("S"))
    assert [(run.name, run.seed, run.config.train.seed) for run in runs] == [
        ("whole", 5, 5), ("bst", 5, 5), ("whole", 6, 6), ("bst", 6, 6),
    ]  # fmt: skip
    assert runs[-1].workdir == Path("S/runs/bst/seed-6")


def test_unknown_tables_and_rows_are_rejected(study):
    assert plan.chosen(study, ()) == ("4",) and plan.chosen(study, ("7", "premise")) == ("7", "premise")
    with pytest.raises(InputError, match=r"--tables=5; allowed: 4, 7, premise"):
        plan.chosen(study, ("4", "5"))
    with pytest.raises(InputError, match=r"rows.none does not exist; there are whole, bst, plain"):
        plan.configs(replace(study, claims=(Claim("c", (("whole", "none"),)),)), ("4",))
    with pytest.raises(InputError, match=r"tables.7 does not exist; there are 4"):
        plan.configs(replace(study, tables=study.tables[:1]), ("4",))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_row_of_every_study_passes_the_checks(path, monkeypatch, tmp_path):
    """Configs of all rows, of `every_run`, which checks them; a study has a form for tests, `tiny`."""
    monkeypatch.setenv("JAXREC_KUAIRAND", str(tmp_path))  # the folder is not opened
    for argument in ("", ":tiny"):
        study = load_file(f"{path}{argument}", Study)
        tables = tuple(table.name for table in study.tables)
        runs = plan.every_run(study, tables, max(study.folds, 1), Path("S"))
        assert {row.name for row in study.rows(study.base)} >= {run.name for run in runs} and len(runs) > 3


def test_a_premise_of_regimes_has_the_regime_as_a_feature_at_every_strength():
    """The simulated service gives the regime of a user only where `source.regimes` is above 0."""
    study = load_file(str(ROOT / "configs/study_mixture.py"), Study)
    made = plan.configs(study, ("premise",))
    assert {name.split("-")[0] for name in made} == {"smoe_told", "bst_told", "smoe_hidden", "bst_hidden"}
    for config in made.values():
        assert "regime" in [f.name for f in config.features] and config.source.regimes > 0
