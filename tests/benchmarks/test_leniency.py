"""The benchmark of leniency: a small run of one seed at one spread, in which beta is an input of the step."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import leniency
from configs import policy
from jaxrec.core.ids import TRUTH
from jaxrec.studies.plan import CurvePremise

PREMISE = CurvePremise(
    "by leniency", "source.leniency", ("A-SFT", ("asft_0.5", "asft_1")), ("Exp-RSFT", ("exp_rsft_1",)), (1.0,)
)


@pytest.mark.slow  # 60 s: five programs are compiled
def test_a_small_run_compares_methods_and_ends_of_beta(monkeypatch, tmp_path, capsys):
    def config_of(users, spread, name, seed):
        config = policy.get_config("tiny")
        config.source = dataclasses.replace(config.source, leniency=spread)
        config.train.seed, config.train.duration, config.train.resident = seed, "2 epochs", "never"
        if name != "small":
            config.post = policy.OBJECTIVES[name]
        return config

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(leniency, "_config", config_of)
    monkeypatch.setattr(leniency, "PREMISE", PREMISE)
    report = leniency.main(SimpleNamespace(users=240, seeds=1))
    rows = report.figures["rows"]
    assert {"imitation", "bc", "reward", "asft_0.25", "asft_4", "exp_rsft_1"} <= set(rows)
    values = [rows[name][0]["model"]["value"] for name in ("imitation", "asft_0.5", "asft_1", "asft_4")]
    assert len(set(values)) == len(values) and 0 < min(values) < max(values) < 1  # beta is read
    assert [point["value"] for point in report.figures["premise"]["points"]] == [1.0]
    assert "All rows:" in capsys.readouterr().out and len(report.rows) == 4


def test_values_of_users_are_means_of_their_queries():
    result = {TRUTH: {}}
    measured = leniency.Measured("w", np.array([3, 1, 3]), np.array([0.2, 0.5, 0.4]), result)
    assert measured.users.tolist() == [1, 3]
    np.testing.assert_allclose(measured.of_user("truth/value"), [0.5, 0.3])
