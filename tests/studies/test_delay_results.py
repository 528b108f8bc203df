"""Delays in a study: the table, and a claim that is a difference in differences."""

import copy
import json

import numpy as np
import polars as pl
import pytest

from jaxrec.core.errors import InputError
from jaxrec.evaluation import per_user
from jaxrec.studies import markdown, results
from jaxrec.studies.plan import Claim, ResultTable, Row, Study, every_run

USERS, SEEDS, LEFT_OUT = 400, (0, 1, 2), 40


@pytest.fixture
def write_run(tmp_path):
    """Return a function that writes a run: values at once, values less a loss after 48 hours."""

    def write(row, seed, value, loss):
        noise = np.random.default_rng([seed, len(row)]).normal(size=(2, USERS)) * 0.02
        at_once, later = value + noise[0], value - loss + noise[1]
        at_once, later = (x - x[LEFT_OUT:].mean() + m for x, m in ((at_once, value), (later, value - loss)))
        columns = {"user": np.arange(USERS), "catalogue/ndcg@10": at_once}
        for name, x in (("delay_0", at_once), ("delay_48", later), ("delay_48-0", later - at_once)):
            columns[f"{name}/ndcg@10"] = np.where(np.arange(USERS) < LEFT_OUT, np.nan, x)
        folder = tmp_path / f"{row}-{seed}"
        folder.mkdir()
        for kind in ("user", "query"):
            pl.DataFrame(columns).write_parquet(folder / f"eval-test-last-per-{kind}.parquet")
        metrics = {
            hours: {"hr@10": [0.3, 0.01], "ndcg@10": [mean, 0.01], "mrr@100": [0.1, 0.01]}
            for hours, mean in (("0", value), ("48", value - loss))
        }
        delay = {"metrics": metrics, "queries": USERS - LEFT_OUT, "users": USERS, "left_out": LEFT_OUT}
        (folder / "eval-test-last.json").write_text(json.dumps({"dataset": "d", "delay": delay}))
        return per_user.read(folder)

    return write


def test_a_claim_is_a_difference_in_differences_of_users_with_an_early_play(tiny_config, write_run, tmp_path):
    config = copy.deepcopy(tiny_config)
    rows = tuple(Row(name, {}, {"delay": name.upper()}) for name in ("next", "multi", "none"))
    study = Study(
        "made up", config, lambda base: rows, (ResultTable("delay", "By delay"),), ("delay",),
        (Claim("loses less", (("multi", "next"),), ("delay_48-0",), metric="ndcg@10"),
         Claim("not worse at once", (("multi", "next"),), ("delay_0",), metric="ndcg@10", margin=0.02)),
    )  # fmt: skip
    by_row = {
        "next": {seed: write_run("next", seed, 0.40 + 0.001 * seed, 0.10) for seed in SEEDS},
        "multi": {seed: write_run("multi", seed, 0.39 + 0.001 * seed, 0.06) for seed in SEEDS},
    }
    outcome = results.compute_results(study, ("delay",), by_row)
    less, at_once = outcome["claims"]
    assert (less["list"], less["verdict"]) == ("delay_48-0", "shown")
    assert less["parts"][0]["over_users"]["mean"] == pytest.approx(0.04)  # (-.06) - (-.10)
    assert at_once["parts"][0]["over_users"]["mean"] == pytest.approx(-0.01)
    block = outcome["tables"]["delay"]["delays"]
    assert [row["row"] for row in block["rows"]] == ["next", "multi"]
    of_48 = block["rows"][1]["hours"]["48"]
    assert of_48["metrics"]["ndcg@10"]["mean"] == pytest.approx(0.331)
    assert of_48["difference"]["over_users"]["mean"] == pytest.approx(0.03)
    whole = {"study": "x", "seeds": [0, 1, 2], "done": 6, "runs": 6, "date": "d", "machine": "m", **outcome}
    markdown.write(tmp_path, whole)
    page = (tmp_path / "study.md").read_text()
    assert "| MULTI | 48 | .3000 ± .0000 | .3310 ± .0010 | .1000 ± .0000 | +.0300 to next |" in page
    assert "All titles, 360 queries of 400 users; 40 without a play" in page


def test_a_metric_of_all_titles_is_of_all_titles_alone(tiny_config, tmp_path):
    rows = tuple(Row(name, {}, {"delay": name}) for name in ("a", "b"))
    claim = Claim("hits", (("a", "b"),), ("enabled", "delay_0"), metric="hr@10")
    study = Study("s", tiny_config, lambda base: rows, (ResultTable("delay", "t"),), ("delay",), (claim,))
    with pytest.raises(InputError, match="claim 'hits': metric='hr@10'; allowed: "):
        every_run(study, ("delay",), 1, tmp_path)
