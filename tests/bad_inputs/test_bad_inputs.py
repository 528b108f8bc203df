"""Every case of the corpus has the right answer: one line and a status, or a dataset."""

from collections import Counter

import pytest

from tests.bad_inputs import DOORS, is_short
from tests.bad_inputs.case import fault_of
from tests.bad_inputs.stock import make_stock


@pytest.fixture(scope="session")
def stock(once, tiny_run, tiny_directory, export_folder):
    """The stock, made from the tiny run and an export of it."""
    made = {"trained": tiny_run / "run", "dataset": tiny_directory, "export": export_folder}
    return make_stock(once("bad-inputs", lambda folder: make_stock(folder, **made)), **made)


def _parameters(door):
    parameters = []
    for case in DOORS[door]:
        marks = [] if is_short(door, case) else [pytest.mark.slow]
        parameters.append(pytest.param(case, id=case.name[:80], marks=marks))
    return parameters


@pytest.mark.parametrize("case", _parameters("tables"))
def test_tables(case, tmp_path, stock):
    assert fault_of(case, tmp_path, stock) == ""


@pytest.mark.parametrize("case", _parameters("configs and flags"))
def test_configs_and_flags(case, tmp_path, stock):
    assert fault_of(case, tmp_path, stock) == ""


# TensorStore may end a read of a damaged file after the event loop of Orbax is closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("case", _parameters("workdirs and checkpoints"))
def test_workdirs_and_checkpoints(case, tmp_path, stock):
    assert fault_of(case, tmp_path, stock) == ""


def test_the_corpus_is_large_and_each_case_is_another():
    names = Counter(case.name for cases in DOORS.values() for case in cases)
    assert names.most_common(1)[0][1] == 1
    wrong = [case for cases in DOORS.values() for case in cases if case.status]
    assert len(wrong) >= 300 and all(case.text for case in wrong)
    assert len(names) - len(wrong) >= 50  # well-formed inputs, which must pass


def test_a_wrong_answer_is_noticed(tmp_path, stock):
    """The harness itself: another status, another text, and a second line of error are faults."""
    case = next(case for case in DOORS["configs and flags"] if case.name == "train alone")
    faults = [
        fault_of(wrong, tmp_path, stock).splitlines()[0]
        for wrong in (case._replace(status=1), case._replace(text="another"), case._replace(status=0))
    ]
    assert faults == ["status 2 in place of 1", "no 'another' in the line", "status 2 in place of 0"]
