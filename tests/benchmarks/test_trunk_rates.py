"""The benchmark of trunks: a small run of all trunks with three and with eight tasks."""

from types import SimpleNamespace

from benchmarks import trunks


def test_a_small_run_reports_every_trunk(monkeypatch):
    monkeypatch.setattr(trunks, "TRUNKS", ("shared", "ple of 2 levels"))
    monkeypatch.setattr(trunks, "TASKS", (1, 2))
    settings = SimpleNamespace(batch=4, candidates=3, titles=9, rounds=1, dtype="float32")
    report = trunks.main(settings)
    rates = report.figures["steps_per_second"]
    assert [*rates] == [f"{trunk}, {n} tasks" for trunk in ("shared", "ple of 2 levels") for n in (1, 2)]
    assert min(rate["least"] for rate in rates.values()) > 0
    assert {*report.figures["of_three"]} == {"shared", "ple of 2 levels"}
    assert [bool(row[2]) for row in report.rows] == [False, True, False, True]
