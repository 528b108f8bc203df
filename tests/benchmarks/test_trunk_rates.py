"""The benchmark of trunks: a small run of all trunks with three and with eight tasks."""

from types import SimpleNamespace

from benchmarks import trunks
from benchmarks.measure import Timing


def test_a_small_run_reports_every_trunk(monkeypatch):
    monkeypatch.setattr(trunks, "TRUNKS", ("shared", "ple of 2 levels"))
    monkeypatch.setattr(trunks, "TASKS", (1, 2))
    settings = SimpleNamespace(batch=4, candidates=3, titles=9, rounds=1, dtype="float32", whole=False)
    report = trunks.main(settings)
    rates = report.figures["steps_per_second"]
    assert [*rates] == [f"{trunk}, {n} tasks" for trunk in ("shared", "ple of 2 levels") for n in (1, 2)]
    assert min(rate["least"] for rate in rates.values()) > 0
    assert {*report.figures["of_three"]} == {"shared", "ple of 2 levels"}
    assert [bool(row[2]) for row in report.rows] == [False, True, False, True]


def test_whole_steps_of_five_tasks_more_are_those_of_training(monkeypatch):
    monkeypatch.setattr(trunks, "TRUNKS", ("mmoe",))
    monkeypatch.setattr(trunks, "_STEPS", 3)
    monkeypatch.setattr(trunks, "interleaved", lambda calls, rounds: dict.fromkeys(calls, Timing((2.0,))))
    steps = []
    ours = trunks.step_parts.ours

    def counted(*arguments):
        run, together = ours(*arguments)
        steps.append(together * -(-3 // together))
        return run, together

    monkeypatch.setattr(trunks.step_parts, "ours", counted)
    settings = SimpleNamespace(
        batch=8, rounds=1, dtype="float32", whole=True, config="configs/tiny.py", users=100
    )
    report = trunks.main(settings)
    assert [*report.figures["steps_per_second"]] == ["mmoe, 3 tasks", "mmoe, 8 tasks"]
    rates = [rate["median"] for rate in report.figures["steps_per_second"].values()]
    assert len(steps) == 2 and rates == [count / 2.0 for count in steps]  # a call took two seconds
    assert report.figures["of_three"]["mmoe"]["median"] == 1.0
    assert report.figures["config"] == "configs/tiny.py"
