"""The rules of exposures as rows and of folds of users, and their place in digests and JSON."""

import copy

import pytest

from jaxrec.config import migrations
from jaxrec.config.loading import load_config
from jaxrec.config.rules.examples import parse_fold, training_share
from jaxrec.config.schema import (
    Columns,
    Config,
    Data,
    Feature,
    Head,
    Label,
    Mix,
    Objective,
    Signal,
    Simulator,
    Tables,
)  # fmt: skip
from jaxrec.config.serialization import digest, from_json, run_differences, to_json
from jaxrec.config.validation import at, check
from jaxrec.core.errors import InputError

TITLE, DEVICE = Feature("title_id", "category", "title", 4), Feature("device", "category", "context", 4)
SHOWN = Signal("impression", column="*")


def make_config(**changes):
    config = Config(source=Tables("log.csv", "titles.csv"), features=(TITLE, DEVICE), signals=(SHOWN,))
    config.data = Data(examples="impressions", num_targets=1)
    config.objective, config.evaluate.next_k = Objective(ctr=0.0, ranking=0.0), (1,)
    for key, value in changes.items():
        *parents, last = key.split("__")
        setattr(at(config, ".".join(parents)) if parents else config, last, value)
    return config


def line(config):
    with pytest.raises(InputError) as error:
        check(config)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_config_of_exposures_is_allowed():
    check(make_config())
    check(make_config(data__fold="2/5"))
    mix, heads = Mix(0.0, 0.4, 0.3, 0.3), (Head("seen", "seen"),)
    ratings = Objective(0.0, 0.0, 0.0, personalised=False, heads=heads)
    of_ratings = make_config(source__columns=Columns(seconds=""), objective=ratings, sampling__mix=mix)
    with pytest.raises(InputError, match=r"objective.heads\[0\].of='seen' must be a label or a reward"):
        check(of_ratings)
    of_ratings.labels = (Label("seen", "happened"),)
    check(of_ratings)
    of_ratings.objective.heads = ()
    with pytest.raises(InputError, match=r"objective.heads=\(\) must hold a Head with data.examples="):
        check(of_ratings)
    check(make_config(features=(TITLE,), signals=(Signal("impression", table="shown.csv"),)))
    time = {"split": "time", "validation_from": "2024-01-01", "test_from": "2024-01-02"}
    check(make_config(data=Data(examples="impressions", num_targets=1, **time)))


NO_SIGNAL = (
    "data.examples='impressions' must be 'requests' unless signals hold Signal('impression') about titles: "
    "its events are rows"
)
WITH_IT = "with data.examples='impressions'"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"signals": ()}, NO_SIGNAL),
        ({"signals": (Signal("shown", column="*"),)}, NO_SIGNAL),
        ({"signals": (Signal("impression", about="user", column="*"),)}, NO_SIGNAL),
        ({"task__name": "next_item", "features": (TITLE,)},
         "data.examples='impressions' must be 'requests' where task.name is 'next_item': exposures are rows "
         "of the task ranking"),
        ({"data__split": "last"}, f"data.split='last' must be 'users' or 'time' {WITH_IT}"),
        ({"data__num_targets": 3}, f"data.num_targets=3 must be 1 {WITH_IT}: a row has one title"),
        ({"objective__ctr": 1.0},
         f"objective.ctr=1.0 must be 0 {WITH_IT}: an exposure has no negatives"),
        ({"objective__ranking": 1.0},
         f"objective.ranking=1.0 must be 0 {WITH_IT}: an exposure has no negatives"),
        ({"objective__retrieval": 0.5},
         f"objective.retrieval=0.5 must be 0 {WITH_IT}: an exposure has no negatives"),
        ({"signals": (Signal("impression", table="shown.csv"),)},
         f"features[1].where='context' must be title, user or interaction {WITH_IT} unless the signal is a "
         "column of the log: a table has no such columns"),
        ({"data__examples": "sessions"},
         "data.examples='sessions' must be one of requests, impressions"),
        ({"data__fold": "2/5", "data__split": "time", "data__validation_from": "2024-01-01",
          "data__test_from": "2024-01-02"},
         "data.fold='2/5' must be empty with data.split='time': folds are of users"),
    ],
)  # fmt: skip
def test_what_exposures_cannot_have_is_one_line(changes, message):
    assert line(make_config(**changes)) == message


@pytest.mark.parametrize(
    "fold", ["6/5", "0/5", "x", "1/1", "2", "/5", "2/", "-1/5", "2/5 ", "2/5/7", "1/1001"]
)
def test_what_is_no_fold_is_one_line(fold):
    allowed = "must be a fold of 2 to 1,000, from '1/5' to '5/5' of five, or empty"
    assert line(make_config(data__fold=fold)) == f"data.fold={fold!r} {allowed}"


def test_users_of_the_test_alone_belong_to_no_fold():
    config = Config(source=Simulator(), features=(TITLE,), data=Data(fold="2/5"))
    message = "source.test_only_users=20000 must be 0 with data.fold: a user is tested in one fold"
    assert line(config) == message
    config.source.test_only_users = 0
    check(config)
    assert parse_fold("5/5") == (5, 5)


def test_the_share_of_training_users():
    assert training_share(Data()) == 0.8 and training_share(Data(split="last")) == 1
    assert training_share(Data(fold="1/5")) == pytest.approx(0.8 * 8 / 9)


def test_exposures_and_folds_enter_a_digest_where_they_are_set():
    base = make_config()
    requests = make_config(data__examples="requests", objective=Objective())
    digests = {
        digest(c) for c in (base, requests, make_config(data__fold="1/5"), make_config(data__fold="2/5"))
    }
    assert len(digests) == 4
    tree = to_json(requests)
    assert digest(from_json(tree)) == digest(requests)
    del tree["data"]["examples"], tree["data"]["fold"]  # as of a run before there were these fields
    assert not run_differences(tree, to_json(requests)) and digest(from_json(tree)) == digest(requests)


def test_exposures_are_read_back_and_old_values_name_the_task():
    config = make_config()
    assert from_json(to_json(config)) == config
    sequences = {"data": {"examples": "sequences"}, "name": "x"}
    assert migrations.upgrade(sequences) == {"task": {"name": "next_item"}, "name": "x", "data": {}}
    old = {"data": {"examples": "requests"}}
    assert migrations.upgrade(old) == old
    argument = ["--config.data.examples=impressions"]
    assert migrations.upgrade_arguments(argument) == argument
    data = Data(examples="impressions")
    data.examples = "sequences"
    changed = Config(data=data)
    migrations.adopt_task(changed)
    assert changed.task.name == "next_item" and changed.data.examples == "requests"
    assert copy.deepcopy(Data(examples="impressions")).examples == "impressions"


def test_the_config_of_kuairand_has_a_dataset_for_each_fold():
    config = load_config("configs/kuairand_impressions.py")
    folds = [load_config(f"configs/kuairand_impressions.py:{k}/5") for k in (1, 2)]
    assert [c.name for c in folds] == [f"kuairand_impressions-{k}-of-5" for k in (1, 2)]
    assert len({digest(c) for c in (config, *folds)}) == 3
    assert [label.name for label in config.labels] == [
        "click", "long_view", "like", "profile_enter", "comment", "follow", "forward", "hate",
    ]  # fmt: skip
