"""The benchmark of post-training: a small run of two objectives."""

from types import SimpleNamespace

from benchmarks import post


def test_a_small_run_reports_every_objective(monkeypatch):
    monkeypatch.setattr(post, "OBJECTIVES", ("bc", "wbc", "dpo"))
    report = post.main(SimpleNamespace(batch=4, titles=40, rounds=1, processor_time=True))
    rates = report.figures["positions_per_second"]
    assert [*rates] == ["bc", "wbc", "dpo"] and min(rate["least"] for rate in rates.values()) > 0
    assert report.figures["of_control"]["bc"]["median"] == 1.0
    assert len(report.rows) == 3
