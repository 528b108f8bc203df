"""The benchmark of labels: its inputs, and a small run with all rules."""

from types import SimpleNamespace

import numpy as np

from benchmarks import labels
from jaxrec.core.registry import LABEL_RULES


def test_inputs_are_sorted_and_anchors_are_plays():
    anchors, plays, events, titles = labels.draw_inputs(300, 400)
    assert len(anchors.time) == 300 and len(plays.time) == len(events.time) == 200
    assert (np.lexsort((anchors.time, anchors.user)) == np.arange(300)).all()
    at = set(zip(*(column.tolist() for column in (plays.user, plays.title, plays.time)), strict=True))
    assert set(zip(*(column.tolist() for column in anchors), strict=True)) == at  # 200 plays, some twice
    assert set(events.kind.tolist()) == {0, 1, 2} and set(plays.kind.tolist()) == {-1}
    assert len(titles.categories["genre"].offsets) == len(titles.runtime) + 1


def test_a_small_run_reports_every_rule():
    report = labels.main(SimpleNamespace(anchors=300, events=400, rounds=1))
    rates = report.figures["anchors_per_second"]
    assert set(rates) == {*LABEL_RULES, "five labels", "all rules"}
    assert min(rate["least"] for rate in rates.values()) > 0
    assert len(report.rows) == len(rates) and "5 labels" in report.table()
    known = report.figures["share_known"]
    assert set(known) == set(LABEL_RULES) and known["completion"] > 0.9 > known["last"] > 0.1
