"""The benchmark of beams, in its quick form."""

from types import SimpleNamespace

from benchmarks import beam


def test_the_quick_benchmark_compares_the_forms_of_the_beam_search():
    flags = SimpleNamespace(
        titles=0, levels=2, size=8, width=0, history=4, requests=0, generated=0, large=0, rounds=0,
        masking_rounds=0, quick=True,
    )  # fmt: skip
    report = beam.main(flags)
    rates = report.figures["requests_per_second"]
    assert set(rates) == {"cached", "without caches"} and all(r["median"] > 0 for r in rates.values())
    assert set(report.figures["requests_per_processor_second"]) == {"cached", "open"}
    share = report.figures["masking_share"]
    assert share["low"] <= share["median"] <= share["high"] < 1 and share["rounds"] == 3
    generated = report.figures["generated"]
    assert generated == {"titles": 8 * 8 * 5 * 2, "invalid": 0, "repeated": 0}
    trie = report.figures["trie"]
    assert trie["titles"] == 2_000 and trie["bytes"] > 2_000 * 5 * 4
    assert {f"seconds of level {i}" for i in range(1, 6)} <= set(trie)
