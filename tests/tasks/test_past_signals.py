"""Events of signals at a request and after it change no score, bit for bit; one a millisecond before does."""

import copy
from dataclasses import replace

import jax
import numpy as np
import pytest
from test_outcomes import KNOWN, assert_same, poisoned

from jaxrec.config.schema import Data, Signal
from jaxrec.core.batch import HostBatch
from jaxrec.core.row_format import FeatureSpec
from jaxrec.data.events.event_log import Log, TitleStats
from jaxrec.data.examples import requests
from jaxrec.data.examples.histories import BesidePlays
from jaxrec.data.signals.past_values import PastSignals
from jaxrec.data.signals.records import record_dtype, sort_events
from jaxrec.data.storage.dataset import as_words
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.train_state import StateInit

USER, NOW, HOUR = 70, 1_700_000_000_000, 3_600_000
SIGNALS = (Signal("thumb", "sign"), Signal("trailer", "seconds"))
FEATURES = tuple(FeatureSpec(signal.name, "number", "interaction", 4) for signal in SIGNALS)
PLAYS = ((0, 3), (1, 2), (2, 1))  # rank of the title, hours before the request


@pytest.fixture(scope="module")
def scored(tiny, tiny_config):
    """Return a function from events (rank, milliseconds from the request, kind, value) to rows and scores."""
    config = copy.deepcopy(tiny_config)
    config.model.features = ("title_id", "thumb", "trailer")
    layout = replace(tiny.layout, features=(*tiny.layout.features, *FEATURES))
    task = RankingTask(config, layout, tiny.manifest["completion_threshold"], 4, 40)
    params, table = StateInit(task).init().params, tiny.arrays.title_table()
    program = jax.jit(lambda host: task.score_all_titles(params, host, table, task.catalogue_heads).by_head)
    titles, none = len(tiny.arrays.id_of_rank), np.zeros((len(PLAYS), 0))
    rank, hours = (np.array(column) for column in zip(*PLAYS, strict=True))
    user = np.zeros(len(PLAYS), np.int64)
    of_user, context = (
        tuple(np.zeros((1, layout.columns(where, kind))) for kind in ("category", "number"))
        for where in ("user", "context")
    )
    log = Log(
        np.array([USER], np.uint64), np.zeros(1, np.int8), user, rank, NOW - hours * HOUR,
        np.full(len(PLAYS), 60_000_000), none, none, *of_user,
    )  # fmt: skip
    catalogue = TitleStats(
        np.full(titles, 100.0), tiny.arrays.id_of_rank, 4, np.arange(titles, dtype=np.uint64)
    )

    def score(*events):
        records = np.zeros(len(events), record_dtype(SIGNALS))
        for i, (of_title, after, kind, value) in enumerate(events):
            records[i] = USER, of_title, NOW + after, kind, value
        records, _ = sort_events(records, log.hash, len(SIGNALS))
        signals = PastSignals(layout.history_signals, SIGNALS, records, log, np.arange(titles))
        rows, _ = requests.build(
            log, catalogue, layout, Data(), np.array([NOW]), context, BesidePlays(signals)
        )
        return rows, run(rows)

    def run(rows):
        return jax.device_get(program(HostBatch(as_words(rows), np.ones(len(rows), bool))))

    score.run = run
    return score


def differs(one, two):
    return {head for head in one if not np.array_equal(one[head], two[head])}


@pytest.mark.parametrize("kind, value", [(0, -1), (0, 1), (1, 30)])
def test_events_from_the_request_on_change_no_score(scored, kind, value):
    _, plain = scored()
    assert plain and all(np.isfinite(scores).all() for scores in plain.values())
    for after in (0, 1, HOUR):
        assert_same(plain, scored((1, after, kind, value))[1])
    before = scored((1, -1, kind, value))[1]
    assert differs(plain, before) == set(plain)
    later = scored((1, -1, kind, value), (1, 0, kind, -1 if kind == 0 else 1e6), (2, 5, kind, 1))[1]
    assert_same(before, later)


def test_an_event_of_a_title_outside_of_the_history_changes_no_score(scored):
    assert_same(scored()[1], scored((5, -1, 0, 1), (5, -HOUR, 1, 60))[1])


def test_outcomes_change_no_score_beside_signals(scored):
    rows, scores = scored((0, -1, 0, 1), (2, -5, 1, 30))
    assert_same(scores, scored.run(poisoned(rows, KNOWN)))
