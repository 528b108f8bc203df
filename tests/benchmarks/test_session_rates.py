"""The benchmarks of sessions: sizes of the model, and tables of a study by hand."""

import copy
from pathlib import Path

import numpy as np
import pytest

from benchmarks import session, session_study
from jaxrec.config.loading import load_config
from jaxrec.core.errors import InputError
from jaxrec.evaluation.sessions.of_session import SessionValues

ROOT = Path(__file__).resolve().parents[2]


def test_the_longest_expert_reads_all_titles_and_the_sessions_all_events():
    config = load_config(str(ROOT / "configs/session.py"))
    sized = session.sized(config, 128, 8)
    assert [e.max_len for e in sized.model.experts] == [7, 128, 8]
    assert [e.max_len for e in session.sized(config, 4, 8).model.experts] == [4, 4, 8]
    assert (sized.data.max_history, sized.data.session) == (128, 8)
    assert config.data.max_history == 32  # the config itself is unchanged


def test_both_ways_give_equal_vectors_and_return_after_their_work():
    """`rivals_of` compares the vectors of both."""
    config = load_config(str(ROOT / "configs/session.py") + ":tiny")
    rivals = session.rivals_of(session.sized(config, 8, 4), 30, 2)
    assert {run().shape for run in rivals.values()} == {(2, session_width(config))}
    without = copy.deepcopy(config)
    without.model.experts = without.model.experts[:2]
    with pytest.raises(InputError, match="allowed: a model with an expert of the session"):
        session.rivals_of(without, 30, 2)


def session_width(config):
    """Return the width of the user's vector: mixture, user and context features."""
    return config.model.width + sum(f.width for f in config.features if f.where in ("user", "context"))


def test_rows_are_compared_with_the_row_of_their_setting():
    assert session_study.base_of("all") == "no_tail"
    assert session_study.base_of("all-mood-0") == "no_tail-mood-0"


def test_values_of_seeds_are_averaged_query_by_query():
    of = [SessionValues({"on": {"ndcg@1": np.array(x)}}, np.array([True, False])) for x in ([1, 0], [0, 0])]
    mean = session_study.mean_values(of)
    assert mean.by_session["on"]["ndcg@1"].tolist() == [0.5, 0.0]
    assert mean.is_shuffled.tolist() == [True, False]


def test_finished_runs_are_found_in_the_order_of_their_seeds(tmp_path):
    for run in ("all/seed-1", "all/seed-0", "plays/seed-0"):
        (tmp_path / "runs" / run).mkdir(parents=True)
    for run in ("all/seed-1", "all/seed-0"):
        (tmp_path / "runs" / run / "eval-test-best-per-query.parquet").touch()
    runs = session_study.finished_runs(tmp_path, [])
    assert [path.name for path in runs["all"]] == ["seed-0", "seed-1"] and [*runs] == ["all"]
    with pytest.raises(InputError, match="no finished run"):
        session_study.finished_runs(tmp_path, ["plays"])
