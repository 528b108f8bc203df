"""Rounds of pairs that are killed: the final parameters are those of the study left alone.

`pytest -m slow tests/end_to_end/test_killed_rounds.py` kills the tiny study of `configs/study_onerec.py` ten
times, also while a round writes its pairs and between rounds; JAXREC_KILLS is another number.
"""

import random
import sys

import pytest
from killed_studies import (
    assert_same_parameters,
    finish_study,
    kill,
    number_of_kills,
    saved,
    start_study,
    wait_until,
)

STUDY = "configs/study_onerec.py:tiny"
RUNS = {"title", "raters", "vectors", "vectors_round_1", "vectors_round_2", "vectors_round_3"}
FIRST = ("vectors", "vectors_round_1", "vectors_round_2")  # runs that give the pairs of a round


def moments(folder, draws):
    """Return the moments of ten kills in their order: name, condition that starts the wait, seconds."""

    def partial_pairs(row):
        return folder / "pairs" / row / ".seed-0.partial"

    def writes_pairs(row):
        return lambda: partial_pairs(row).exists() or (folder / "pairs" / row / "seed-0").exists()

    def is_evaluated(row):
        return lambda: any((folder / "runs" / row / "seed-0").glob("eval-test-*-per-query.parquet"))

    anywhere = [("anywhere", lambda: True, draws.uniform(3, 30)) for _ in range(5)]
    in_rounds = []
    for row in FIRST:
        in_rounds.append((f"pairs of {row}", writes_pairs(row), draws.uniform(0, 1)))
        in_rounds.append((f"between {row} and the next", is_evaluated(row), 0.0))
    return [*anywhere[:2], *in_rounds[:3], anywhere[2], *in_rounds[3:5], anywhere[3], in_rounds[5]]


@pytest.mark.timeout(3600)
@pytest.mark.slow  # a dozen starts of a study; the short form is in test_alignment_rounds.py
@pytest.mark.skipif(sys.platform != "linux", reason="finds the jobs of a study in /proc")
def test_rounds_that_are_killed_end_in_the_same_parameters(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings = STUDY, "rounds", "--config.train.duration=120 steps"
    finish_study(start_study(whole, *settings), whole)
    jobs, partial = 0, set()
    for name, is_reached, seconds in moments(cut, random.Random(0))[: number_of_kills()]:
        process = start_study(cut, *settings)
        assert wait_until(process, is_reached, seconds), f"the study ended before {name}"
        jobs += len(kill(process))
        partial |= {path.parent.name for path in cut.glob("pairs/*/.seed-0.partial")}
        print(f"killed {name}: {', '.join(sorted(saved(cut))) or 'no run'} with a checkpoint", flush=True)
    assert jobs >= min(number_of_kills(), 5)
    assert len(partial) >= 2 or number_of_kills() < 10, f"pairs were half written after {partial} alone"
    finish_study(start_study(cut, *settings), cut)
    assert_same_parameters(cut, whole, RUNS)
