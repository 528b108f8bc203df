"""Labels of random logs, equal to those of a loop over events."""

import numpy as np
import pytest
from naive_labels import MS_PER_HOUR, NEVER, one_label

from jaxrec.config.declarations import Label
from jaxrec.core.registry import LABEL_RULES
from jaxrec.core.tables import Lists
from jaxrec.data.labels import discovery, extraction
from jaxrec.data.labels.extraction import extract
from jaxrec.data.labels.tables import Anchors, Events, LabelTitles

pytest.importorskip("hypothesis", reason="hypothesis is of the extra `test`")
from hypothesis import given, settings
from hypothesis import strategies as st

SHORT = settings(max_examples=300, derandomize=True, database=None, deadline=None)
LONG = settings(max_examples=20_000, derandomize=True, database=None, deadline=None)
SIGNALS = ("thumb", "trailer")
BLOCK = 4  # anchors of a block
LAST = 3  # titles that discovery looks back to, so that small logs have more
FEW = 8  # titles
# Times are few, so that many are equal and at the ends of windows. The extremes are those of int64.
ORIGINS = st.sampled_from([0, 1_700_000_000_000, -(2**63), 2**63 - 1 - 12 * MS_PER_HOUR, None])
EXTREMES = np.array([-(2**63), 1 - 2**63, -1, 0, 1, MS_PER_HOUR // 2, 2**63 - 2, 2**63 - 1])
HOURS = st.sampled_from([1e-9, 0.5, 1.0, 1.5, 4.0, 1e12])
SIZES = st.sampled_from([0, 1, 2, 3, 5, 8, 13])
LOGS = st.tuples(st.integers(0, 2**32 - 1), ORIGINS, SIZES, SIZES, SIZES, st.sampled_from([1, 2, 3]), HOURS)
VALUES = np.array([0, 0.02, 1, 27, 59.999, 60, 540, 541, 600, 7e4, np.nan, -1], np.float32)


def sorted_events(events: Events) -> Events:
    return events.take(np.lexsort((events.time, events.title, events.user)))


def random_log(seed, origin, plays, events, anchors, users, hours):
    """Return the arguments of `extract`."""
    rng = np.random.default_rng(seed)
    names = rng.choice([np.arange(users), 2**62 + np.arange(users)][int(rng.random() < 0.2)], users, False)

    def times(size):
        if origin is None:
            return rng.choice(EXTREMES, size)
        return origin + rng.integers(0, 13, size) * (MS_PER_HOUR // 2)

    def table(size, lowest, kinds):
        kind = rng.integers(*kinds, size).astype(np.int8)
        value = rng.choice(VALUES if rng.random() < 0.3 else VALUES[:-2], size)
        return sorted_events(
            Events(rng.choice(names, size), rng.integers(lowest, titles, size), times(size), kind, value)
        )

    titles = int(rng.integers(1, FEW))
    seen = table(plays, 0, (-1, 0))
    is_new = np.append(
        True, (np.diff(seen.user) != 0) | (np.diff(seen.title) != 0) | (np.diff(seen.time) != 0)
    )
    runtime = rng.choice([10.0, 10.0, 1.0, 90.0, 0.0, np.nan], titles)
    sizes = rng.integers(0, 3, titles)
    lists = Lists(rng.integers(0, 4, int(sizes.sum())), np.append(0, np.cumsum(sizes)))
    end = times(anchors if rng.random() < 0.5 else None)
    labels = [
        Label(
            f"{rule}_{signal}", rule, signal, hours, at=float(rng.choice([0, 0.1, 0.9, 1])), feature="genre"
        )
        for rule in LABEL_RULES
        for signal in ("play", *SIGNALS)
        if signal == "play" or rule not in ("discovery", "continues", "switched_off")
    ]
    labels = [labels[i] for i in rng.permutation(len(labels))[:12]]
    return (
        Anchors(rng.choice(names, anchors), rng.integers(-1, titles, anchors), times(anchors)),
        seen.take(is_new[: len(seen.user)]),  # cleaning leaves one play of a user, a title and a time
        table(events, -1, (0, len(SIGNALS))),
        LabelTitles(runtime, {"genre": lists}),
        labels,
        end,
    )


def check(log):
    anchors, plays, events, titles, labels, end = random_log(*log)
    extracted = extract(anchors, plays, events, titles, labels, end, SIGNALS)
    assert list(extracted) == [label.name for label in labels]
    ends = np.broadcast_to(end, len(anchors.time))
    for label in labels:
        values = extracted[label.name]
        assert [array.dtype for array in values] == [np.float32, bool, np.int64]
        for i in range(len(anchors.time)):
            y, defined, final = one_label(
                i, anchors, plays, events, titles, label, ends, SIGNALS, last_titles=LAST
            )
            known = defined and final <= ends[i] and final < NEVER
            assert tuple(column[i] for column in values) == (np.float32(y), known, final), (label, i)


@pytest.fixture(autouse=True, scope="module")
def small_limits():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discovery, "LAST_TITLES", LAST)
        patch.setattr(extraction, "_BLOCK", BLOCK)
        yield


@SHORT
@given(LOGS)
def test_labels_equal_those_of_a_loop(log):
    check(log)


@pytest.mark.slow
@LONG
@given(LOGS)
def test_labels_of_many_logs_equal_those_of_a_loop(log):
    check(log)
