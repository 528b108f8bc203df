"""Labels in rows: values by hand, what a split may see, the row's fields, and counts."""

import json

import numpy as np
import pytest
from test_ranking_examples import HOUR, make_log

from jaxrec.config.schema import Config, Data, Label, Signal
from jaxrec.core.errors import InputError
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.core.tables import Lists
from jaxrec.data.events.event_log import TitleStats
from jaxrec.data.examples import next_item, ranking
from jaxrec.data.examples.next_item import BesideTargets
from jaxrec.data.labels import counts as label_counts
from jaxrec.data.labels import of_targets
from jaxrec.data.labels.of_targets import LabelInputs, PartitionLabels, TargetLabels
from jaxrec.data.labels.tables import LabelTitles
from jaxrec.data.signals.records import record_dtype
from jaxrec.data.storage.arrays import Arrays, as_words

TITLES = 40
# The log of test_ranking_examples: targets are title 1 at hour 2, title 2 at 3, title 4 at 5, title 5 at 6.
SIGNALS = (Signal("thumb", "sign", table="x"), Signal("search", about="user", table="y"))
LABELS = (
    Label("done", "at_least", hours=1, at=0.9),
    Label("liked", "last", "thumb", hours=2),
    Label("searched", "returned", "search", hours=2),
)
THUMBS = [(2, 3.5, 1.0), (5, 6.0, -1.0), (2, 4.0, 1.0)]  # row of the title, hour, value
SEARCHES = [4.5, 4.0]  # hours


def make_config(task="ranking", labels=LABELS, **data):
    config = Config(signals=SIGNALS, labels=labels)
    config.data, config.task.name = Data(max_history=4, negatives=20, **data), task
    return config


def labels_of(config, log_end=6 * HOUR + 1):
    records = np.zeros(len(THUMBS) + len(SEARCHES), record_dtype(SIGNALS))
    records["user"] = 77
    records["title"] = [title for title, _, _ in THUMBS] + [-1] * len(SEARCHES)
    records["time"] = np.array([hour for _, hour, _ in THUMBS] + SEARCHES) * HOUR
    records["kind"] = [0] * len(THUMBS) + [1] * len(SEARCHES)
    records["value"] = [value for _, _, value in THUMBS] + [1] * len(SEARCHES)
    inputs = LabelInputs(LabelTitles(np.full(TITLES, 100.0), {}), np.arange(TITLES), log_end)
    return PartitionLabels(config, make_log(), records, inputs)


def layout_of(config, targets=3):
    names = tuple(label.name for label in config.labels)
    pools, negatives = ((4, 4, 4, 2), 20) if config.rows == "ranking" else ((0, 0, 0, 0), 0)
    return Layout(TITLES + 2, 4, targets, pools, negatives, (), config.rows, names)


def build(config, labels=None):
    catalogue = TitleStats(
        np.full(TITLES, 100.0), np.arange(2, TITLES + 2), 10, np.arange(TITLES, dtype=np.uint64)
    )
    data, log = config.data, make_log()
    if config.rows == "next_item":
        return next_item.build(log, catalogue, layout_of(config, 1), data, BesideTargets(labels)).rows[
            "train"
        ]
    data.hard, data.trending, data.tailing, data.random = 4, 4, 4, 2
    return ranking.build(log, catalogue, layout_of(config), data, labels)[0].rows["train"]


# Minutes of the targets within an hour: 1, 80, 90, 100. At the end of the log the window of title 5 is not
# over, nor is that of two hours for title 4. Title 1 has no thumb.
# The second half of two hours holds searches at 4 and 4.5 for the target at hour 3 alone.
Y = [[0, 0, 0], [0, 1, 1], [1, 0, 0], [1, -1, 0]]
KNOWN = [[True, False, True], [True, True, True], [True, False, False], [False, False, False]]


def test_rows_hold_the_labels_of_all_next_titles():
    config = make_config()
    rows = build(config, labels_of(config))
    assert rows["target"].tolist() == [[3, 4, 6], [4, 6, 7], [6, 7, 0], [7, 0, 0]]
    bits = [sum(known << i for i, known in enumerate(target)) for target in KNOWN]
    nothing = [0, 0, 0]
    for q in range(4):
        ahead = [*range(q, 4)][:3]
        assert rows["label"][q].tolist() == ([Y[i] for i in ahead] + [nothing] * 3)[:3]
        assert rows["label_known"][q].tolist() == ([bits[i] for i in ahead] + nothing)[:3]


def test_other_fields_are_those_of_rows_without_labels():
    plain = build(make_config(labels=()))
    labelled = build(make_config(), labels_of(make_config()))
    assert plain.dtype.names == labelled.dtype.names[: len(plain.dtype.names)]
    for name in plain.dtype.names:
        assert plain.dtype.fields[name][1] == labelled.dtype.fields[name][1]
        np.testing.assert_array_equal(plain[name], labelled[name])


def test_sequences_hold_the_labels_of_every_position():
    """Also of the first play, which has no history: title 0 at hour 1, seen for 50 minutes."""
    config = make_config("next_item")
    [row] = build(config, labels_of(config))
    assert row["title"][-5:].tolist() == [2, 3, 4, 6, 7] and not row["title"][:-5].any()
    assert row["label"].dtype == np.float16 and row["label"].shape == (10, 3)
    assert row["label"][-5:].tolist() == [[0, 0, 0], *Y]
    assert row["label_known"][-5:].tolist() == [0b101, 0b101, 0b111, 0b001, 0]
    assert not row["label"][:-5].any() and not row["label_known"][:-5].any()


def test_a_query_of_sequences_has_the_label_of_its_target():
    config = make_config("next_item", split="last", validation_share=0.0)
    labels = labels_of(config)
    catalogue = TitleStats(
        np.full(TITLES, 100.0), np.arange(2, TITLES + 2), 10, np.arange(TITLES, dtype=np.uint64)
    )
    examples = next_item.build(
        labels.log, catalogue, layout_of(config, 1), config.data, BesideTargets(labels)
    )
    [query] = examples.rows["test"]
    assert query["target"].tolist() == [7] and query["label"].tolist() == [Y[3]]
    # Training ends at hour 6, the time of the test's target, where the window of title 4 is over.
    assert examples.rows["train"][0]["label_known"][-4:].tolist() == [0b101, 0b101, 0b111, 0b001]


def test_a_value_beyond_float16_is_refused_in_sequences():
    values = TargetLabels(np.array([[1, 65504], [1, 65536]], np.float32), np.zeros(2, np.uint32))
    of_targets.check_half(TargetLabels(values.y[:1], values.known[:1]), ("a", "b"))
    with pytest.raises(InputError, match=r"^label 'b' has the value 65536; allowed: at most 65,504"):
        of_targets.check_half(values, ("a", "b"))


DAY = 24 * HOUR
USER, TIME, SPLIT = (np.array(x) for x in ([0, 0, 0, 1, 1], [1, 2, 3, 1, 5], [0, 1, 2, 0, 2]))


@pytest.mark.parametrize(
    "settings, log_end, expected",
    [
        ({"split": "users"}, 9, [9, 9, 9, 9, 9]),
        # The days 1970-01-03 and -05 begin after two days and after four.
        ({"split": "time", "validation_from": "1970-01-03", "test_from": "1970-01-05"}, 9, [2, 4, 9, 2, 9]),
        ({"split": "time", "validation_from": "1970-01-03", "test_from": "1970-01-05"}, 3, [2, 3, 3, 2, 3]),
        # The first user's validation begins on day 2, the test on day 3; the second has no validation.
        ({"split": "last"}, 9, [2, 3, 9, 5, 9]),
    ],
)
def test_labels_of_a_split_end_where_later_splits_begin(settings, log_end, expected):
    ends = of_targets.split_ends(Data(**settings), USER, TIME * DAY, SPLIT, log_end * DAY)
    assert (ends / DAY).tolist() == expected


def test_categories_of_titles_are_by_rank_without_padding_and_unknown():
    arrays = Arrays(
        title_key=np.array(["a", "b"]),
        title_runtime=np.array([10.0, 20.0]),
        title_plays=np.array([0, 0, 1, 2]),
        rank_of_id=np.array([4, 4, 1, 0], np.int32),
        id_of_rank=np.array([3, 2], np.int32),
        title_categories=np.array([[0, 0, 0], [1, 1, 1], [9, 5, 0], [9, 1, 7]], np.int32),
        title_numbers=np.zeros((4, 1), np.float32),
    )
    specs = (
        FeatureSpec("id", "category", "title", 2),
        FeatureSpec("year", "number", "title", 2),
        FeatureSpec("genres", "categories", "title", 2, columns=2),
    )
    config = make_config(labels=(Label("new", "discovery", feature="genres"),))
    titles = of_targets.label_titles(config, arrays, specs)
    assert titles.runtime.tolist() == [20.0, 10.0] and titles.categories.keys() == {"genres"}
    lists = titles.categories["genres"]
    assert isinstance(lists, Lists) and (lists.values.tolist(), lists.offsets.tolist()) == ([7, 5], [0, 1, 2])


@pytest.mark.parametrize("task", ["ranking", "next_item"])
def test_counts_are_those_of_the_targets_of_training_rows(task):
    config = make_config(task)
    layout = layout_of(config, 3 if task == "ranking" else 1)
    rows = build(config, labels_of(config))
    counts = label_counts.counts_of(rows, layout) | {"other": 3}
    described, others = label_counts.describe(layout.labels, counts)
    assert others == {"other": 3}
    # Ranking: the targets are among the next three titles of one, two, three and three rows.
    times = {"ranking": [1, 2, 3, 3], "next_item": [1, 1, 1, 1]}[task]
    extra = {"ranking": 0, "next_item": 1}[task]  # title 0: two labels are known, both 0
    for i, name in enumerate(layout.labels):
        known = sum(n for n, target in zip(times, KNOWN, strict=True) if target[i]) + extra * (i != 1)
        total = sum(n * y[i] for n, y, target in zip(times, Y, KNOWN, strict=True) if target[i])
        entry = described["labels"][name]
        assert entry["entries"] == sum(times) + extra and entry["known"] == known / entry["entries"]
        assert entry["mean"] == pytest.approx(total / known, abs=1e-3)
    assert label_counts.counts_of(rows, layout_of(make_config(task, labels=()))) == {}
    assert label_counts.describe((), {"other": 3}) == ({}, {"other": 3})


def test_notes_name_labels_that_cannot_be_learned():
    labels = [Label("never", "happened", hours=9000), Label("all", "returned"), Label("some", "count")]
    entries = {
        "never": {"entries": 7, "known": 0.0},
        "all": {"entries": 7, "known": 0.5, "mean": 1.0},
        "some": {"entries": 7, "known": 0.5, "mean": 1.0},
    }
    assert label_counts.notes(labels, entries) == [
        "label 'never' (rule='happened', hours=9000) is known for none of 7 training targets: is its window "
        "longer than the log?",
        "label 'all' (rule='returned', hours=24) is 1 wherever it is known among 7 training targets",
    ]


@pytest.mark.parametrize("task", ["ranking", "next_item"])
def test_a_layout_with_labels_is_read_back_and_decoded_on_the_device(task):
    from jaxrec.tasks.ranking_inputs import decode

    config = make_config(task)
    layout = layout_of(config, 3 if task == "ranking" else 1)
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout
    assert "labels" not in layout_of(make_config(task, labels=())).to_json()
    for dtype in (layout.row_dtype(), layout.query_dtype()):
        assert all(offset % 4 == 0 for _, offset, *_ in dtype.fields.values()) and dtype.itemsize % 4 == 0
    rows = build(config, labels_of(config))
    decoded = decode(as_words(rows), layout.row_dtype())
    for name in ("label", "label_known"):
        np.testing.assert_array_equal(decoded[name], rows[name])
