"""The study of one ranker: its rows, and differences on the queries of two models."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.unicorn import _Ranks, differences, means_by_canvas, verdict
from configs.study_unicorn import CANVASES, PAGES, canvases_of
from jaxrec.config.loading import load_file
from jaxrec.core.errors import InputError
from jaxrec.studies.plan import Study, variants

FILE = str(Path(__file__).resolve().parents[2] / "configs/study_unicorn.py")


def test_the_rows_lack_a_part_each():
    study = load_file(f"{FILE}:tiny", Study)
    rows = {name: row.config for name, row in variants(study, ("rows", "canvases")).items()}
    assert len(rows) == 7 + 2 * len(CANVASES)
    assert {f.impute for f in rows["no_impute"].features} == {"null"}
    assert "canvas" not in rows["no_canvas"].model.features and not rows["unified"].model.features
    assert rows["no_cross"].model.cross == 0 and rows["no_dropout"].sampling.context_dropout == 0
    assert not rows["segments"].model.reads_history and not rows["nobody"].model.reads_history
    assert "segment" not in rows["nobody"].model.features and rows["unified"].model.reads_history
    single, third = rows["single_search"], rows["third_search"]
    assert single.data.only == third.data.only == "canvas=search" and single.data.continues
    assert single.features == rows["unified"].features
    assert third.model.width == rows["unified"].model.width // 3
    reduced = load_file(f"{FILE}:reduced", Study)
    assert {*variants(reduced, ("rows", "canvases"))} == {*rows} and len(reduced.base.model.experts) == 1
    with pytest.raises(InputError, match="must be one of small, reduced, tiny"):
        load_file(f"{FILE}:huge", Study)


def test_pages_of_kuairand_are_canvases(monkeypatch):
    monkeypatch.setenv("JAXREC_KUAIRAND", "DIR")
    study = load_file(f"{FILE}:kuairand", Study)
    rows = {name: row.config for name, row in variants(study, ("rows", "canvases")).items()}
    assert canvases_of(study.base) == ("tab", PAGES) and len(rows) == 2 + 2 * len(PAGES)
    assert "tab" not in rows["no_canvas"].model.features and "tab" in {f.name for f in study.base.features}
    for page in PAGES:
        assert rows[f"single_{page}"].data.only == f"tab={page}"
        assert rows[f"third_{page}"].model.width == study.base.model.width // 3
    simulated = load_file(f"{FILE}:tiny", Study)
    assert canvases_of(simulated.base) == ("canvas", CANVASES)


def test_differences_are_of_the_queries_of_both():
    def ranks(keys, of_model, canvas):
        user = np.array([key.split()[0] for key in keys])
        return _Ranks(np.array(keys), user, np.array(canvas), {"model": np.array(of_model, float)})

    unified = ranks(["a 0", "a 1", "b 0", "c 0"], [1, 2, 1, 5], ["home", "search", "search", "home"])
    single = ranks(["b 0", "a 1"], [3, 1], ["search", "search"])
    out = differences({"unified": {0: unified, 1: unified}, "single": {0: single}}, "ndcg@1")
    assert [*out] == ["single"] and [*out["single"]] == ["search"]
    assert out["single"]["search"]["mean"] == 0 and out["single"]["search"]["users"] == 2  # +1 and -1
    worse = ranks(["b 0", "a 1"], [3, 2], ["search", "search"])
    of_two = {"unified": {0: unified, 1: unified}, "x": {0: worse, 1: single}}
    assert differences(of_two, "ndcg@1")["x"]["search"]["mean"] == -0.25
    assert differences({"unified": {1: unified}, "x": {0: worse}}, "ndcg@1") == {}  # no seed of both
    assert differences(of_two, "ndcg@1", "x")["unified"]["search"]["mean"] == 0.25
    assert differences(of_two, "ndcg@1", canvases=("home",)) == {}  # of the other canvases


def test_a_verdict_is_that_of_the_interval():
    ends = (0.01, 0.02), (-0.02, -0.01), (-0.01, 0.004)
    above, below, around = ({"low": low, "high": high} for low, high in ends)
    assert [verdict("no_canvas", d) for d in (above, below, around)] == [
        "lower: refuted", "lower: shown", "lower: undecided",
    ]  # fmt: skip
    of_single = [verdict("single_home", d) for d in (above, below, around, {"low": 0.0, "high": 0.006})]
    assert [x.rpartition(" ")[2] for x in of_single] == ["refuted", "shown", "shown", "undecided"]


def test_means_are_by_canvas_and_the_oracle_has_its_own_queries():
    canvas = np.array(["home", "home", "search"])
    known = np.array([1.0, np.nan, 2.0])
    ranks = {"model": np.array([1.0, 2.0, 1.0]), "oracle": known, "model_uncorrected": known}
    one = _Ranks(canvas, canvas, canvas, ranks)
    means = means_by_canvas({"unified": {0: one, 1: one}})
    assert means["home"]["unified, 2 seeds"]["hr@1"] == 0.5 and means["similar"] == {}
    assert means["home"]["order oracle"] == means["home"]["unified, queries of the oracle"]
    assert means["search"]["order oracle"]["hr@1"] == 0 and means["search"]["order oracle"]["queries"] == 1
    assert not any("uncorrected" in name for name in means["home"])
