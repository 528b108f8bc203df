"""Rows that are chosen on validation: the metric read, the row chosen, and the claims on it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from jaxrec.core.errors import InputError
from jaxrec.studies import choices, markdown
from jaxrec.studies.plan import Choice, Claim, ResultTable, Row, Study, every_run

LOSSES = {"a": (0.5, 0.7), "b": (0.4, 0.6), "c": (0.9,)}  # of seeds 0 and 1; c has seed 0 alone


@pytest.fixture
def row_results(tmp_path):
    """Return row -> seed -> a run whose validation at the evaluated step, 20, has a loss and a metric."""
    out = {}
    for row, losses in LOSSES.items():
        out[row] = {}
        for seed, loss in enumerate(losses):
            folder = tmp_path / f"{row}-{seed}"
            folder.mkdir()
            lines = [
                {"step": 10, "split": "validation", "loss_thumb": 0.0},
                {"step": 20, "split": "train", "loss_thumb": 0.0},
                {"step": 20, "split": "validation", "loss_thumb": loss, "disabled/ndcg@1": loss},
                {"step": 30, "split": "validation", "loss_thumb": 0.0},
            ]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            out[row][seed] = SimpleNamespace(workdir=str(folder), result={"step": 20})
    return out


def test_a_loss_is_lowest_and_another_metric_highest_in_the_chosen_row(row_results):
    two = Choice("x", ("a", "b", "missing"), "loss_thumb")
    expected = {"name": "x", "metric": "loss_thumb", "row": "b", "seeds": [0, 1]}
    chosen = choices.choose(two, row_results)
    assert chosen.pop("rows") == pytest.approx({"a": 0.6, "b": 0.5})
    assert chosen == expected
    assert choices.choose(replace(two, metric="disabled/ndcg@1"), row_results)["row"] == "a"


def test_means_are_over_the_common_seeds(row_results):
    chosen = choices.choose(Choice("x", ("a", "b", "c"), "loss_thumb"), row_results)
    assert chosen["seeds"] == [0] and chosen["row"] == "b"
    assert chosen["rows"] == pytest.approx({"a": 0.5, "b": 0.4, "c": 0.9})


def test_nothing_is_chosen_without_results(row_results):
    assert choices.choose(Choice("x", ("d", "e"), "loss"), row_results) is None


def test_a_metric_that_validation_lacks_is_refused(row_results):
    with pytest.raises(InputError, match=r"a-0.*has no loss_click of validation at step 20; there are"):
        choices.choose(Choice("x", ("a",), "loss_click"), row_results)


def test_claims_name_the_chosen_rows():
    claim = Claim("better", (("x", "c"), ("c", "x")))
    (resolved,) = choices.claims_on_rows([claim], [{"name": "x", "row": "b"}])
    assert resolved == Claim("better", (("b", "c"), ("c", "b")))


@pytest.fixture
def study(tiny_config):
    """Return a function from a claim's first name and a choice to a study with both."""

    def rows(base):
        return Row("a", {}, {"t": "A"}), Row("b", {"train.batch_size": 64}, {"t": "B"})

    def make(name: str, choice: Choice) -> Study:
        claims = (Claim("better", ((name, "a"),)),)
        return Study("s", tiny_config, rows, (ResultTable("t", "T"),), ("t",), claims, choices=(choice,))

    return make


@pytest.mark.parametrize(
    ("choice", "message"),
    [(Choice("a", ("b",), "loss"), "choice 'a': there is a row of this name"),
     (Choice("x", ("b", "z"), "loss"), r"rows.*z")],
)  # fmt: skip
def test_a_choice_needs_a_name_of_its_own_and_rows_that_exist(choice, message, study, tmp_path):
    with pytest.raises(InputError, match=message):
        every_run(study(choice.name, choice), ("t",), 1, tmp_path)


def test_a_claim_may_name_a_choice(study, tmp_path):
    assert len(every_run(study("x", Choice("x", ("b",), "loss")), ("t",), 1, tmp_path)) == 2


def test_the_report_marks_the_chosen_row():
    chosen = {"name": "x", "metric": "loss", "row": "b", "seeds": [0], "rows": {"a": 0.51, "b": 0.5}}
    lines = markdown._choices([chosen])
    assert lines[-2:] == ["| x | a | loss | .5100 |  |", "| x | b | loss | .5000 | chosen |"]
