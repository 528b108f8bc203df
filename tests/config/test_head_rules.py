"""Refusals of declared heads and blends: one line that names the key, the value and what is allowed."""

import copy

import pytest

from jaxrec.config.rules.declared.heads import check_heads
from jaxrec.config.schema import Blend, BlendTerm, Expert, Feature, Head, Label, Reward, Signal, Term
from jaxrec.config.serialization import digest
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError

LABELS = (
    Label("finished", "at_least", at=0.9),
    Label("plays", "count"),
    Label("watched", "seconds"),
)
REWARDS = (Reward("joy", (Term("finished"),)), Reward("share", (Term("finished"),), 0.0, 0.0, 1.0))


@pytest.fixture
def config(tiny_config):
    out = copy.deepcopy(tiny_config)
    out.labels, out.rewards = LABELS, REWARDS
    return out


def refused(config, text):
    with pytest.raises(InputError) as caught:
        check(config)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("head", "text"), [
    (Head("2x", "finished"), "objective.heads[0].name='2x' must be a name of letters"),
    (Head("ctr", "finished"), "objective.heads[0].name='ctr' must not be one of ctr, ranking, completion"),
    (Head("entropy", "finished"), "objective.heads[0].name='entropy' must not be one of"),
    (Head("x", "finishd"), "objective.heads[0].of='finishd' must be one of finished, plays, watched"),
    (Head("x", "finishd"), "did you mean finished?"),
    (Head("x", "reward:hate", loss="mse"), "objective.heads[0].of='reward:hate' must be one of"),
    (Head("x", "title:colour", on="state", loss="softmax"), "of='title:colour' must be one of"),
    (Head("x", "title:title_id", on="state", loss="softmax"), "of='title:title_id' must be one of"),
    (Head("x", "title:genres", loss="softmax"), "objective.heads[0].on='pair' must be state with of='title:"),
    (Head("x", "title:genres", on="state"), "objective.heads[0].loss='bce' must be softmax with of='title:"),
    (Head("x", "finished", on="state", loss="hinge"), "loss='hinge' must be one of bce, mse, softmax"),
    (Head("x", "finished", on="state", loss="softmax"), "loss='softmax' must be bce or mse with of='"),
    (Head("x", "plays"), "objective.heads[0].loss='bce' must be mse: 'plays' may be outside [0, 1]"),
    (Head("x", "watched"), "objective.heads[0].loss='bce' must be mse"),
    (Head("x", "reward:joy"), "objective.heads[0].loss='bce' must be mse: 'reward:joy' may be outside"),
    (Head("x", "finished", weight=-1.0), "objective.heads[0].weight=-1.0 must be at least 0"),
    (Head("x", "finished", weight=float("nan")), "objective.heads[0].weight=nan must be"),
])  # fmt: skip
def test_refused_heads(config, head, text):
    config.objective.heads = (head,)
    refused(config, text)


def test_values_that_may_be_negative_weigh_no_ranking(config):
    config.labels = (Label("sign", "last", "thumb"),)
    config.rewards = ()
    config.signals = (Signal("thumb", "sign"),)
    config.objective.heads = (Head("x", "sign", loss="hinge"),)
    with pytest.raises(InputError, match="must be mse: 'sign' may be below 0"):
        check_heads(config)


@pytest.mark.parametrize("head", [
    Head("x", "finished"), Head("x", "finished", loss="softmax"), Head("x", "plays", loss="mse"),
    Head("x", "plays", loss="hinge"), Head("x", "reward:joy", loss="mse"), Head("x", "reward:share"),
    Head("x", "finished", on="state"), Head("x", "title:genres", on="state", loss="softmax"),
])  # fmt: skip
def test_allowed_heads(config, head):
    config.objective.heads = (head,)
    check(config)


def test_two_heads_of_one_name_and_heads_without_labels(config):
    config.objective.heads = (Head("x", "finished"), Head("x", "plays", loss="mse"))
    refused(config, "objective.heads[1].name='x' must be unlike the objective.heads before it")
    config.objective.heads, config.labels, config.rewards = (Head("x", "finished"),), (), ()
    refused(config, "objective.heads[0].of='finished' must be a label or a reward: the config declares none")


def test_something_must_order_the_titles(config):
    config.objective.ctr = config.objective.ranking = 0.0
    refused(config, "objective.ctr=0.0 must be above 0 where ranking is 0: a completion orders no titles")
    config.objective.regression = 0.0
    refused(config, "objective.ctr=0.0 must be above 0 where ranking is 0 and no head is on pairs")
    config.objective.heads = (Head("x", "finished"),)
    check(config)


def test_a_dot_product_is_one_score(config):
    config.objective.ranking = config.objective.regression = 0.0
    config.model.head = "dot"
    check(config)
    config.objective.heads = (Head("x", "finished", on="state"),)
    refused(config, "model.head='dot' must be matcher unless ctr or ranking is the only task")


def test_a_state_for_each_candidate_has_no_head(config):
    config.objective.heads = (Head("x", "finished", on="state"),)
    config.model.target_in_sequence = True
    refused(config, "objective.heads[0].on='state' must be pair with model.target_in_sequence=True")


def blended(config, *terms, name="top"):
    config.objective.heads = (Head("x", "finished"), Head("mood", "finished", on="state"))
    config.evaluate.blends = (Blend(name, terms),)
    return config


@pytest.mark.parametrize(("name", "terms", "text"), [
    ("top", (), "evaluate.blends[0].terms=() must hold at least one BlendTerm"),
    ("top", (BlendTerm("y"),), "terms[0].head='y' must be one of ctr, ranking, completion, x"),
    ("top", (BlendTerm("mood"),), "evaluate.blends[0].terms[0].head='mood' must be one of"),
    ("top", (BlendTerm("x"), BlendTerm("x")), "evaluate.blends[0].terms[1].head='x' must be unlike"),
    ("top", (BlendTerm("x", 0.0),), "evaluate.blends[0].terms[0].weight=0.0 must be a finite number, not 0"),
    ("x", (BlendTerm("x"),), "evaluate.blends[0].name='x' must not be one of"),
    ("a-b", (BlendTerm("x"),), "evaluate.blends[0].name='a-b' must be a name of letters"),
])  # fmt: skip
def test_refused_blends(config, name, terms, text):
    refused(blended(config, *terms, name=name), text)


def test_what_orders_the_titles(config):
    blended(config, BlendTerm("ctr"), BlendTerm("x", 0.3))
    for name in ("auto", "ctr", "ranking", "x", "top"):
        config.evaluate.ranking_head = name
        check(config)
    for name in ("completion", "mood", "tpo"):
        config.evaluate.ranking_head = name
        refused(config, f"evaluate.ranking_head={name!r} must be auto, or a head with a weight or a blend")


def test_sequences_have_no_declared_heads_of_titles(config):
    config.task.name, config.objective.heads = "next_item", (Head("x", "finished"),)
    config.features = (Feature("title_id", "category", "title", 8),)
    config.model.experts = (Expert(encoder="sasrec"),)
    with pytest.raises(InputError, match=r"objective.heads\[0\].on='pair' must be state with task.name"):
        check_heads(config)


def test_what_drawn_titles_have_is_not_in_the_dataset(config):
    before = digest(config)
    config.labels = (Label("finished", "at_least", at=0.9, of_drawn="unknown"), *LABELS[1:])
    assert digest(config) == before


@pytest.mark.parametrize(("where", "text"), [
    ("tab=1", "evaluate.blends[0].where='tab=1' must be FEATURE=VALUE, with a category of the user or of the "
              "context: segment, segment2, device, hour"),
    ("genres=drama", "evaluate.blends[0].where='genres=drama' must be FEATURE=VALUE"),
    ("device", "evaluate.blends[0].where='device' must be FEATURE=VALUE"),
    ("device=", "evaluate.blends[0].where='device=' must be FEATURE=VALUE"),
])  # fmt: skip
def test_a_blend_serves_a_value_of_a_category_of_the_request(config, where, text):
    config.objective.heads = (Head("finished", "finished"),)
    config.evaluate.blends = (Blend("top", (BlendTerm("finished"),), "device=tv"),)
    check(config)
    config.evaluate.blends[0].where = where
    refused(config, text)


def test_a_page_needs_one_encoding_of_the_user(config):
    config.evaluate.blends = (Blend("top", (BlendTerm("ctr"),), "device=tv"),)
    config.model.target_in_sequence = True
    refused(config, "evaluate.blends[0].where='device=tv' must be empty with model.target_in_sequence=True")
