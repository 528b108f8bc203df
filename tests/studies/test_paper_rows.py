"""Rows of the paper's study: number, settings and the paper's differences."""

from pathlib import Path

import pytest

from jaxrec.config.loading import load_file
from jaxrec.config.schema import Config
from jaxrec.studies import plan
from jaxrec.studies.plan import Study

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(autouse=True)
def kuairand_folder(tmp_path, monkeypatch):
    """Name a folder for the configs of KuaiRand, which open none of its files here."""
    monkeypatch.setenv("JAXREC_KUAIRAND", str(tmp_path))


def study(scale: str) -> Study:
    return load_file(f"{CONFIGS / 'study.py'}:{scale}", Study)


@pytest.mark.parametrize("scale", ["small", "kuairand", "paper", "tiny"])
def test_all_rows_fit_their_base(scale):
    paper_study = study(scale)
    tables = (*(t.name for t in paper_study.tables), *([plan.PREMISE] if paper_study.premises else []))
    configs = plan.configs(paper_study, tables)  # checks each config
    assert len(configs) == (53 if paper_study.premises else 39)


def test_the_papers_tables_need_eighteen_trainings():
    paper_study = study("tiny")
    rows = [row for row in paper_study.rows(paper_study.base) if row.paper]
    assert len(rows) == len({row.name for row in rows}) == 18
    rows_by_table = {
        name: [row.name for row in rows if name in row.tables] for name in ("4", "5", "6", "7", "8")
    }
    assert {name: len(names) for name, names in rows_by_table.items()} == {
        "4": 7,
        "5": 3,
        "6": 4,
        "7": 5,
        "8": 6,
    }
    assert [*plan.configs(paper_study, ("4", "5", "6", "7", "8"))] == [
        row.name for row in paper_study.rows(paper_study.base) if row.tables.keys() - {"options", "beyond"}
    ]


@pytest.mark.parametrize(
    ("scale", "best"), [("small", "small"), ("kuairand", "kuairand"), ("paper", "paper")]
)
def test_the_last_row_beyond_the_paper_is_best_py(scale, best):
    row = plan.configs(study(scale), ("beyond",))["best"]
    file_config = load_file(f"{CONFIGS / 'best.py'}:{best}", Config)
    row.name, row.train.duration = file_config.name, file_config.train.duration
    assert row == file_config


def test_rows_have_different_configs():
    """No two rows have the same config, apart from the name."""
    paper_study = study("small")
    configs = plan.configs(paper_study, (*(t.name for t in paper_study.tables), plan.PREMISE))
    for config in configs.values():
        config.name = ""
    texts = [repr(config) for config in configs.values()]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    "better, worse, block, difference",
    [
        ("smoe_mtl", "smoe_stl", ("enabled", 1), 0.0093),
        ("smoe_pl", "smoe_mtl", ("enabled", 1), 0.0087),
        ("smoe_stl", "bst_stl", ("enabled", 1), 0.0023),
        ("smoe_stl", "bst_stl", ("disabled", 1), 0.0014),
        ("k3_weighted", "smoe_pl", ("enabled", 1), 0.0003),
        ("k3_weighted", "k3_equal", ("disabled", 3), 0.0184),
        ("smoe_stl", "phns_none", ("enabled", 1), 0.2191),
        ("phns_none", "smoe_stl", ("disabled", 1), 0.0460),
        ("smoe_stl", "entropy_0.48", ("enabled", 1), 0.0043),
    ],
)
def test_differences_of_the_papers_figures(better, worse, block, difference):
    paper_study = study("tiny")
    rows = {row.name: row for row in paper_study.rows(paper_study.base)}
    assert rows[better].paper[block][0] - rows[worse].paper[block][0] == pytest.approx(difference, abs=1e-9)


def test_paper_figures_are_ordered_by_strictness_of_the_metric():
    """NDCG@1 <= MRR@5 <= NDCG@5 <= Recall@5: a copying error breaks the order."""
    for row in study("tiny").rows(study("tiny").base):
        for ndcg1, ndcg5, recall5, mrr5 in row.paper.values():
            assert ndcg1 < mrr5 < ndcg5 < recall5, row.name
