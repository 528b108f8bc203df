"""Features that are labels of the target: who may read them, and what they leave unchanged."""

from dataclasses import replace

import pytest

from jaxrec.config.schema import Config, Data, Feature, Head, Label, Objective, Sampling, Signal
from jaxrec.config.serialization import digest, from_json, to_json
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.core.row_format import FeatureSpec
from jaxrec.data.runners.partition_job import layout_of

TITLE = Feature("title_id", "category", "title", 4)
EARLY = Feature("day", "number", "label", 4, available="after")
LABELS = (Label("month", "happened", hours=720, of_drawn="unknown"), Label("day", "completion"))
SPECS = (FeatureSpec("title_id", "category", "title", 4),)
HEADS = Objective(ctr=0.0, ranking=0.0, regression=0.0, heads=(Head("month", "month"),))
OFFLINE = Config(offline=True, features=(TITLE, EARLY), labels=LABELS, objective=HEADS)


def test_an_offline_model_may_read_early_labels_and_shares_the_dataset():
    check(OFFLINE)
    assert from_json(to_json(OFFLINE)) == OFFLINE and OFFLINE.observed_labels == (EARLY,)
    online = replace(OFFLINE, offline=False, features=(TITLE,))
    assert (
        digest(OFFLINE)
        == digest(online)
        != digest(replace(online, features=(TITLE, replace(TITLE, name="x"))))
    )
    assert layout_of(OFFLINE, 3, SPECS).features == layout_of(online, 3, SPECS).features == SPECS


def edited(**edits) -> Config:
    return replace(OFFLINE, **edits)


def early(**edits) -> tuple[Feature, ...]:
    return (TITLE, replace(EARLY, **edits))


WRONG = {
    "no label": (
        edited(labels=(), objective=Objective()),
        "features[1].where='label' must not be label: the config declares none",
    ),
    "another name": (
        edited(features=early(name="days")),
        "features[1].name='days' must be one of month, day",
    ),
    "a category": (
        edited(features=early(kind="category")),
        "features[1].kind='category' must be number, as of every label",
    ),
    "known at the request": (
        edited(features=early(available="request")),
        "features[1].available='request' must be after in a config with offline=True: a label is an outcome",
    ),
    "an online run": (
        edited(offline=False),
        "features[1].available='after' must be request: 'day' is known after the request, and only "
        "offline=True allows that",
    ),
    "click": (
        edited(objective=replace(HEADS, ctr=1.0)),
        "objective.ctr=1.0 must be 0 with features of where='label', which are labels of the first "
        "target alone",
    ),
    "several targets": (
        edited(sampling=Sampling(next_k=2)),
        "sampling.next_k=2 must be 1 with features of where='label', which are labels of the first "
        "target alone",
    ),
    "no later label": (
        edited(objective=replace(HEADS, heads=(Head("day", "day"),))),
        "objective.heads[0].of='day' must read labels of more than 24 hours, those that features hold; 'day' "
        "has 24",
    ),
    "drawn titles": (
        edited(labels=(replace(LABELS[0], of_drawn="zero"), LABELS[1])),
        "objective.heads[0].of='month' must read labels with of_drawn='unknown' with features of",
    ),
}  # fmt: skip


@pytest.mark.parametrize("config, text", WRONG.values(), ids=WRONG)
def test_a_wrong_use_of_an_early_label_is_one_line(config, text):
    with pytest.raises(InputError) as caught:
        check(config)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_exposures_need_no_unknown_labels_of_drawn_titles():
    """Rows of exposures draw no titles."""
    exposures = edited(
        labels=(replace(LABELS[0], of_drawn="zero"), LABELS[1]),
        signals=(Signal("impression"),),
        data=Data(examples="impressions", num_targets=1),
        evaluate=replace(OFFLINE.evaluate, next_k=(1,)),
    )
    check(exposures)
