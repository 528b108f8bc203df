"""Both updates of the benchmark differ in the day alone."""

from dataclasses import asdict

from benchmarks import day_start
from jaxrec.config.validation import check


def test_both_updates_start_from_the_first_day(tmp_path):
    configs = day_start.days(tmp_path)
    for config in configs.values():
        check(config)
    same, grown = (asdict(configs[name]) for name in (day_start.SAME, day_start.GROWN))
    assert same["start"] == grown["start"] and same["start"]["workdir"] == str(tmp_path / day_start.FIRST)
    differing = {key for key in same["data"] if same["data"][key] != grown["data"][key]}
    assert differing == {"until", "directory"}
    del same["data"], grown["data"]
    assert same == grown
