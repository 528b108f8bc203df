"""The rows are the paper's: which there are, what sets them apart, and its own differences."""

from pathlib import Path

import pytest

from jaxrec.config.loading import load_file
from jaxrec.config.schema import Config
from jaxrec.studies import plan
from jaxrec.studies.plan import Study

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def study(scale: str) -> Study:
    return load_file(f"{CONFIGS / 'study.py'}:{scale}", Study)


@pytest.mark.parametrize("scale", ["small", "kuairand", "paper", "tiny"])
def test_every_row_fits_its_base(scale):
    found = study(scale)
    every = (*(t.name for t in found.tables), *([plan.PREMISE] if found.premises else []))
    configs = plan.configs(found, every)  # each is checked
    assert len(configs) == (53 if found.premises else 39)


def test_the_papers_tables_are_eighteen_trainings():
    found = study("tiny")
    rows = [row for row in found.rows(found.base) if row.paper]
    assert len(rows) == len({row.name for row in rows}) == 18
    of = {name: [row.name for row in rows if name in row.tables] for name in ("4", "5", "6", "7", "8")}
    assert {name: len(names) for name, names in of.items()} == {"4": 7, "5": 3, "6": 4, "7": 5, "8": 6}
    assert [*plan.configs(found, ("4", "5", "6", "7", "8"))] == [
        row.name for row in found.rows(found.base) if row.tables.keys() - {"options", "beyond"}
    ]


@pytest.mark.parametrize(
    ("scale", "best"), [("small", "small"), ("kuairand", "kuairand"), ("paper", "paper")]
)
def test_the_last_row_beyond_the_paper_is_best(scale, best):
    row = plan.configs(study(scale), ("beyond",))["best"]
    of_file = load_file(f"{CONFIGS / 'best.py'}:{best}", Config)
    row.name, row.train.length = of_file.name, of_file.train.length
    assert row == of_file


def test_rows_differ_in_what_they_say():
    """No two train alike, but for their names."""
    found = study("small")
    configs = plan.configs(found, (*(t.name for t in found.tables), plan.PREMISE))
    for config in configs.values():
        config.name = ""
    seen = [repr(config) for config in configs.values()]
    assert len(set(seen)) == len(seen)


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
def test_the_papers_own_differences(better, worse, block, difference):
    found = study("tiny")
    rows = {row.name: row for row in found.rows(found.base)}
    assert rows[better].paper[block][0] - rows[worse].paper[block][0] == pytest.approx(difference, abs=1e-9)


def test_each_figure_falls_as_its_metric_is_stricter():
    """NDCG@1 <= MRR@5 <= NDCG@5 <= Recall@5, in every row: a slip in copying would break it."""
    for row in study("tiny").rows(study("tiny").base):
        for ndcg1, ndcg5, recall5, mrr5 in row.paper.values():
            assert ndcg1 < mrr5 < ndcg5 < recall5, row.name
