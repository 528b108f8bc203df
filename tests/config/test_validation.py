"""The rules of a config, one bad value each, and the JSON round trip."""

import json
import math
from dataclasses import replace

import pytest

from jaxrec.config.schema import (
    LIST_MIXES,
    TRAIN_MIXES,
    Columns,
    Config,
    Data,
    Evaluate,
    Expert,
    Feature,
    KuaiRand,
    Mix,
    Model,
    Objective,
    Sampling,
    Simulator,
    Tables,
    Task,
    Tfds,
)
from jaxrec.config.serialization import dataset_directory, digest, from_json, run_differences, to_json
from jaxrec.config.validation import check, check_devices, check_sharding, mix_counts, parse_length
from jaxrec.core.errors import InputError

RATINGS = ": a Tfds source holds ratings, which do not contain watch times"
PLAIN = ": a log without source.columns.seconds does not contain watch times"
TITLE = Feature("title_id", "category", "title", 32)
GENRES = Feature("genres", "categories", "title", 8, most=3)


def good() -> Config:
    return Config(features=(TITLE, GENRES, Feature("age", "number", "interaction", 4)))


def setting(key: str, value) -> Config:
    """A good config with one value set, by a path as `model.experts[0].max_len`."""
    config = good()
    *parts, last = key.replace("[", ".").replace("]", "").split(".")
    holder = config
    for part in parts:
        holder = holder[int(part)] if part.isdigit() else getattr(holder, part)
    setattr(holder, last, value)
    return config


def test_the_default_with_features_passes():
    check(good())


def test_a_split_table_where_there_can_be_none():
    config = good()
    config.model.item_table_sharding = "split"
    check(config)
    for devices in (1, 2, 1024):
        check_sharding(config, devices)
    for devices in (3, 2048):
        allowed = f"must be replicated on {devices} devices"
        with pytest.raises(InputError, match=rf"^model\.item_table_sharding='split' {allowed}"):
            check_sharding(config, devices)
    config.model.retrieval_dim, config.objective.retrieval = 8, 0.5
    with pytest.raises(
        InputError, match=r"^model\.retrieval_dim=8 must be 0 with model\.item_table_sharding='split'"
    ):
        check(config)
    config.model.retrieval_dim, config.objective.retrieval = 0, 0
    config.features = (TITLE,)
    config.task.name, config.data.num_targets, config.model.head = "next_item", 1, "dot"
    config.model.experts, config.evaluate.next_k = (Expert(32, encoder="sasrec"),), (1,)
    with pytest.raises(InputError, match=r"^model\.item_table_sharding='split' must be replicated with task"):
        check(config)


def test_a_head_for_retrieval_where_there_can_be_none():
    config = good()
    config.model.retrieval_dim, config.objective.retrieval = 8, 0.5
    check(config)
    config.model.target_in_sequence = True
    with pytest.raises(
        InputError, match=r"model.retrieval_dim=8 must be 0 with model.target_in_sequence=True"
    ):
        check(config)
    config.model.target_in_sequence, config.task.name = False, "next_item"
    config.model.experts, config.model.head = (Expert(encoder="sasrec"),), "dot"
    config.data.num_targets, config.evaluate.next_k, config.sampling.next_k = 1, (1,), 1
    config.features = tuple(f for f in config.features if f.where == "title")
    with pytest.raises(InputError, match=r"model.retrieval_dim=8 must be 0 with task.name='next_item'"):
        check(config)


def test_a_trunk_where_there_can_be_none():
    config = good()
    config.model.trunk, config.model.trunk_levels = "ple", 2
    check(config)
    config.model.trunk = "mmoe"
    with pytest.raises(InputError, match=r"model.trunk_levels=2 must be 1 with model.trunk='mmoe'"):
        check(config)
    config.model.trunk, config.objective.ranking, config.objective.regression = "ple", 0, 0
    with pytest.raises(InputError, match=r"model.trunk='ple' must be shared or mmoe with a single head"):
        check(config)
    config.model.trunk, config.model.trunk_levels = "mmoe", 1
    check(config)
    config.model.head = "dot"
    with pytest.raises(InputError, match=r"model.trunk='mmoe' must be shared with model.head='dot'"):
        check(config)
    config.task.name, config.model.experts = "next_item", (Expert(encoder="sasrec"),)
    config.data.num_targets, config.evaluate.next_k, config.sampling.next_k = 1, (1,), 1
    config.features = tuple(f for f in config.features if f.where == "title")
    with pytest.raises(InputError, match=r"model.trunk='mmoe' must be shared with task.name='next_item'"):
        check(config)


def test_cross_layers_where_there_can_be_none():
    config = good()
    config.model.cross = 2
    check(config)
    config.model.trunk = "mmoe"
    with pytest.raises(InputError, match=r"model.cross=2 must be 0 with model.trunk='mmoe'"):
        check(config)
    config.model.trunk, config.model.head = "shared", "dot"
    config.objective.ranking, config.objective.regression = 0, 0
    with pytest.raises(InputError, match=r"model.cross=2 must be 0 with model.head='dot'"):
        check(config)
    config.task.name, config.model.experts = "next_item", (Expert(encoder="sasrec"),)
    config.data.num_targets, config.evaluate.next_k, config.sampling.next_k = 1, (1,), 1
    config.features = tuple(f for f in config.features if f.where == "title")
    with pytest.raises(InputError, match=r"model.cross=2 must be 0 with task.name='next_item'"):
        check(config)


WRONG = [
    # against annotations
    ("train.batch_size", 512.0, "train.batch_size=512.0 must be a whole number"),
    ("train.batch_size", None, "train.batch_size=None must be a whole number"),
    ("train.batch_size", True, "train.batch_size=True must be a whole number"),
    ("objective.personalised", 1, "objective.personalised=1 must be True or False"),
    ("objective.alpha", math.nan, "objective.alpha=nan must be a finite number"),
    ("model.gate.target_entropy", math.inf, "model.gate.target_entropy=inf must be a finite number or None"),
    ("model.gate.target_entropy", "x", "model.gate.target_entropy='x' must be a finite number or None"),
    ("model.head_hidden", [64], "model.head_hidden=[64] must be a tuple, each a whole number"),
    ("model.head_hidden", (64, "x"), "model.head_hidden[1]='x' must be a whole number"),
    ("sampling.target_weights", (1.0, math.nan), "sampling.target_weights[1]=nan must be a finite number"),
    ("model.experts", (7,), "model.experts[0]=7 must be an Expert"),
    ("model.experts[1].max_len", 20.5, "model.experts[1].max_len=20.5 must be a whole number"),
    ("source", None, "source=None must be a Simulator or a Tables or a KuaiRand or a Tfds"),
    ("data", Mix(), "must be a Data"),
    ("train.batchsize", 3, "train.batchsize does not exist; there are seed, duration, patience, "),
    ("name", "a/b", "name='a/b' must be letters"),
    # names
    ("data.targets", "old", "data.targets='old' must be one of new, any"),
    ("model.dtype", "float16", "model.dtype='float16' must be one of float32, bfloat16"),
    ("objective.soft_on", "some", "must be one of hard, all, none"),
    ("optimizer.weight_decay_mode", "l2", "must be one of decoupled, coupled"),
    ("evaluate.ranking_head", "hinge", "must be auto, or a head with a weight or a blend: ctr, ranking"),
    ("evaluate.checkpoint", "first", "must be one of best, last"),
    # features
    ("features", (), "features=() must hold at least one of where='title'"),
    ("features", (TITLE, TITLE), "features[1].name='title_id' must be unlike the features before it"),
    ("features", (replace(TITLE, kind="id"),), "features[0].kind='id' must be one of category, "),
    ("features", (replace(TITLE, where="item"),), "features[0].where='item' must be one of title, user"),
    ("features", (replace(TITLE, width=0),), "features[0].width=0 must be at least 1"),
    ("features", (replace(TITLE, most=2),), "features[0].most=2 must be 0 unless"),
    ("features", (replace(GENRES, most=0),), "features[0].most=0 must be at least 1"),
    ("features", (TITLE, replace(GENRES, where="user")), "features[1].where='user' must be title"),
    ("features", (replace(TITLE, name=""),), "features[0].name='' must not be empty"),
    ("features", (TITLE, Feature("x", "number", "interaction", 4)), "must be one of completion, sessions"),
    ("features", (TITLE, Feature("age", "category", "interaction", 4)), "[1].kind='category' must be number"),
    # data
    ("data.max_history", 30, "data.max_history=30 must be a multiple of 4"),
    ("data.hard", 6, "data.hard=6 must be a multiple of 4"),
    ("data.hard", 4, "data.hard=4 must be at least 6, which sampling.mix takes"),
    ("data.trending", 7, "data.trending=7 must be at least 8, which sampling.mix takes"),
    ("data.negatives", 15, "data.negatives=15 must give the enabled list a whole count of hard negatives"),
    ("data.train_share", 0.9, "data.validation_share=0.1 must leave a share of users for the test"),
    ("data.validation_share", 0.0, "data.validation_share=0.0 must be above 0"),
    ("data.abandon_threshold", 1.5, "data.abandon_threshold=1.5 must be in [0, 1]"),
    ("data.earliest", "1990-13-01", "data.earliest='1990-13-01' must be a date"),
    ("data.latest", "1980-01-01", "data.earliest='1990-01-01' must be before latest='1980-01-01'"),
    ("data.seed", -1, "data.seed=-1 must be in [0, 2**32)"),
    ("data.workers", -1, "data.workers=-1 must be at least 0"),
    ("data.truth_queries", -1, "data.truth_queries=-1 must be at least 0"),
    ("data.targets", "all", "data.targets='all' must be one of new, any, every"),
    ("data.partitions", 0, "data.partitions=0 must be at least 1"),
    # sampling
    ("sampling.mix", Mix(0.3, 0.4, 0.2, 0.0), "add to 1, not 0.9"),
    ("sampling.mix", Mix(0.33, 0.37, 0.3, 0.0), "hard=0.33 must give a whole count of 20 negatives, not 6.6"),
    ("sampling.mix", Mix(-0.1, 0.5, 0.3, 0.3), "sampling.mix.hard=-0.1 must be in [0, 1]"),
    ("sampling.mix", Mix(0.0, 0.0, 0.0, 1.0), "data.random=8 must be at least 20"),
    ("sampling.next_k", 4, "sampling.next_k=4 must be at most 3"),
    ("sampling.target_weights", (), "sampling.next_k=1 must be at most 0"),
    ("sampling.target_weights", (1.0, 0.0), "sampling.target_weights[1]=0.0 must be in (0, 1]"),
    ("sampling.negatives", 0, "sampling.negatives=0 must be at least 1"),
    ("sampling.id_dropout", 1.01, "sampling.id_dropout=1.01 must be in [0, 1]"),
    # model and objective
    ("model.width", 0, "model.width=0 must be at least 1"),
    ("model.experts[1].encoder", "bert", "[1].encoder='bert' must be one of transformer, sasrec"),
    ("model.head", "cosine", "model.head='cosine' must be one of matcher, dot"),
    ("model.head", "dot", "model.head='dot' must be matcher unless ctr or ranking is the only task"),
    ("model.attention_impl", "flash", "attention_impl='flash' must be one of auto, einsum, dot_product"),
    ("model.position", "sine", "model.position='sine' must be one of index, time_gap, none"),
    ("model.features", ("title_id", "genre"), "[1]='genre' must be one of title_id, genres, age"),
    ("model.features", ("age",), "model.features=('age',) must be empty, for all, or hold at least"),
    ("model.embedding_init_std", 0.0, "model.embedding_init_std=0.0 must be above 0"),
    ("model.dropout", 1, "model.dropout=1 must be in [0, 1)"),
    ("model.experts[0].num_layers", 0, "model.experts[0].num_layers=0 must be at least 1"),
    ("model.experts[0].mlp_ratio", 0.0, "model.experts[0].mlp_ratio=0.0 must give a width"),
    ("model.gate.noise_std", -0.1, "model.gate.noise_std=-0.1 must be at least 0"),
    ("model.gate.anneal_fraction", 2, "model.gate.anneal_fraction=2 must be in [0, 1]"),
    ("model.width", 100, "model.width=100 must divide by num_heads=12"),
    ("model.experts", (), "model.experts=() must hold at least one Expert"),
    ("model.experts[1].max_len", 33, "model.experts[1].max_len=33 must be at most data.max_history=32"),
    ("model.experts[0].dropout", 1.0, "model.experts[0].dropout=1.0 must be in [0, 1)"),
    ("model.gate.hidden", (0,), "model.gate.hidden[0]=0 must be at least 1"),
    ("model.gate.target_entropy", 0.6932, "model.gate.target_entropy=0.6932 must be in [0, 0.693)"),
    ("model.gate.temperature", 0.0, "model.gate.temperature=0.0 must be above 0"),
    ("model.trunk", "moe", "model.trunk='moe' must be one of shared, mmoe, ple"),
    ("model.cross", -1, "model.cross=-1 must be at least 0"),
    ("model.cross", 33, "model.cross=33 must be at most 32"),
    ("model.trunk_experts", 0, "model.trunk_experts=0 must be at least 1"),
    ("model.trunk_width", 0, "model.trunk_width=0 must be at least 1"),
    ("model.trunk_levels", 3, "model.trunk_levels=3 must be 1 or 2"),
    ("model.trunk_levels", 2, "model.trunk_levels=2 must be 1 with model.trunk='shared'"),
    ("objective.ranking", -1.0, "objective.ranking=-1.0 must be at least 0"),
    ("model.retrieval_dim", -1, "model.retrieval_dim=-1 must be at least 0"),
    ("model.retrieval_dim", 8, "objective.retrieval=0.0 must be above 0, or model.retrieval_dim 0"),
    ("objective.retrieval", 0.1, "objective.retrieval=0.1 must be 0 with model.retrieval_dim=0"),
    ("objective.retrieval", -0.1, "objective.retrieval=-0.1 must be at least 0"),
    ("objective.retrieval_negatives", 0, "objective.retrieval_negatives=0 must be at least 1"),
    ("objective.weighting", "dwa", "objective.weighting='dwa' must be one of fixed, uncertainty, averaging"),
    ("objective.ranking_loss", "bpr", "objective.ranking_loss='bpr' must be one of hinge, softmax"),
    ("objective.margin", 0, "objective.margin=0 must be above 0"),
    ("objective.soft_negative", 2, "objective.soft_negative=2 must be in [0, 1]"),
    # the run
    ("train.duration", "20", "train.duration='20' must be a whole number of epochs or steps"),
    ("train.steps_per_call", -1, "train.steps_per_call=-1 must be at least 0"),
    ("train.preemption_exit_code", 256, "train.preemption_exit_code=256 must be in [0, 255]"),
    ("train.seed", 2**32, "train.seed=4294967296 must be in [0, 2**32)"),
    ("train.checkpoint_every_seconds", 0, "train.checkpoint_every_seconds=0 must be above 0"),
    ("train.grace_seconds", 0, "train.grace_seconds=0 must be above 0"),
    ("train.heartbeat_seconds", 0, "train.heartbeat_seconds=0 must be at least 1"),
    ("train.heartbeat_seconds", 0.5, "train.heartbeat_seconds=0.5 must be a whole number"),
    ("train.join_seconds", 0, "train.join_seconds=0 must be at least 1"),
    ("evaluate.batch_size", 0, "evaluate.batch_size=0 must be at least 1"),
    ("optimizer.warmup_steps", -1, "optimizer.warmup_steps=-1 must be at least 0"),
    ("optimizer.weight_decay", -1, "optimizer.weight_decay=-1 must be at least 0"),
    ("optimizer.ema_decay", 1.0, "optimizer.ema_decay=1.0 must be in [0, 1)"),
    ("optimizer.plateau_factor", 1.5, "optimizer.plateau_factor=1.5 must be in (0, 1]"),
    ("evaluate.next_k", (1, 4), "evaluate.next_k[1]=4 must be in 1..3 (data.num_targets)"),
    ("evaluate.next_k", (1, 1), "evaluate.next_k=(1, 1) must hold at least one number, each once"),
    # sources
    ("source", Tables(), "source.interactions='' must name the files"),
    ("source", Tables("a", "b", "", Columns(time_unit="h")), "source.columns.time_unit='h' must be one of s"),
    ("source", Tables("a", "b", "", Columns(user="")), "source.columns.user='' must not be empty"),
    ("source", Tables("a", "b", "", Columns(user="u|")), "source.columns.user='u|' must name a column on"),
    ("source", Tables("a", ""), "source.titles='' must name the titles table: source.columns.seconds='"),
    ("source", Tables("a", "b", "", Columns(runtime="")), "source.columns.runtime='' must not be empty: "),
    ("source", KuaiRand(), "source.directory='' must not be empty"),
    ("source", Tfds(name="x"), "sampling.mix.hard=0.3 must be 0, for nobody is known"),
]  # fmt: skip


def sequences(**fields) -> Config:
    data = {"num_targets": 1} | fields
    model = Model(experts=(Expert(max_len=32, encoder="sasrec"),), head="dot")
    task, evaluate = Task(name="next_item"), Evaluate(next_k=(1,))
    return Config(features=(TITLE, GENRES), task=task, data=Data(**data), model=model, evaluate=evaluate)


DAYS = {"split": "time", "validation_from": "2024-02-01", "test_from": "2024-03-01"}


@pytest.mark.parametrize("fields", [{}, {"split": "last", "validation_share": 1.0}, DAYS])
def test_sequences_pass(fields):
    check(sequences(**fields))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_targets": 3}, "data.num_targets=3 must be 1 where task.name is 'next_item'"),
        ({"split": "last", "validation_share": 1.1}, "data.validation_share=1.1 must be at most 1"),
        ({"split": "last", "validation_share": 0.0}, "data.validation_share=0.0 must be above 0"),
        (
            {"validation_share": 1.0},
            "data.validation_share=1.0 must leave a share of users for the test with train_share=0.8 "
            "(they add to 1.8)",
        ),
        ({"split": "time"}, "data.validation_from='' must be a date, as '2024-01-31'"),
        (DAYS | {"test_from": "soon"}, "data.test_from='soon' must be a date, as '2024-01-31'"),
        (
            DAYS | {"test_from": "2024-02-01"},
            "data.validation_from='2024-02-01' must be before test_from='2024-02-01'",
        ),
        (DAYS | {"split": "last"}, "data.validation_from='2024-02-01' must be empty unless split is 'time'"),
        ({"test_from": "2024-02-01"}, "data.test_from='2024-02-01' must be empty unless split is 'time'"),
        (
            {"earliest": "1969-12-31"},
            "data.earliest='1969-12-31' must be 1970-01-01 or later, for sequences keep seconds since 1970 "
            "in 32 bits",
        ),
        (
            {"latest": "2106-02-08"},
            "data.latest='2106-02-08' must be 2106-02-07 or earlier, for sequences keep seconds since 1970 "
            "in 32 bits",
        ),
        ({"path": "x.csv"}, "data.path='x.csv' must be empty: only a Tables source has its log there"),
    ],
)
def test_sequences_refuse(fields, message):
    with pytest.raises(InputError) as caught:
        check(sequences(**fields))
    assert str(caught.value) == message


@pytest.mark.parametrize("where", ["user", "context", "interaction"])
def test_sequences_have_features_of_titles_alone(where):
    with pytest.raises(InputError) as caught:
        check(replace(sequences(), features=(TITLE, Feature("age", "number", where, 4))))
    assert str(caught.value) == (
        f"features[1].where={where!r} must be title where task.name is 'next_item': "
        "their positions have features of titles alone"
    )


def test_a_plain_log_is_of_sequences_or_of_ratings():
    plain = Tables(columns=Columns("user|userId", "movie", "time", "s", seconds="", runtime=""))
    config = replace(sequences(path="log.csv"), source=plain)
    check(config)
    check(replace(sequences(), source=replace(plain, interactions="log.csv")))
    check(ratings(source=plain, data=Data(path="log.csv")))
    for both, message in (
        (
            replace(plain, interactions="a.csv"),
            "data.path='log.csv' must be empty where source.interactions=",
        ),
        (Simulator(), "data.path='log.csv' must be empty: only a Tables source has its log there"),
    ):
        with pytest.raises(InputError) as caught:
            check(replace(config, source=both))
        assert str(caught.value).startswith(message)
    config.next_item.personalised = True
    with pytest.raises(InputError) as caught:
        check(config)
    key = "next_item.personalised=True"
    assert str(caught.value) == f"{key} must be False, for Eq. 13 weighs by completion" + PLAIN
    with pytest.raises(InputError) as caught:
        check(ratings(source=plain, data=Data(path="log.csv"), sampling=Sampling()))
    key = "sampling.mix.hard=0.3"
    assert str(caught.value) == f"{key} must be 0, for nobody is known to have abandoned one" + PLAIN


def ratings(**fields) -> Config:
    objective = Objective(personalised=False, regression=0.0)
    sampling = Sampling(mix=Mix(0.0, 0.5, 0.3, 0.2))
    config = Config(source=Tfds(name="r"), features=(TITLE,), objective=objective, sampling=sampling)
    return replace(config, **fields)


def test_ratings_train_stl_with_negatives_of_nobody_in_particular():
    check(ratings())


@pytest.mark.parametrize(
    "wrong, message",
    [
        (
            {"sampling": Sampling()},
            "sampling.mix.hard=0.3 must be 0, for nobody is known to have abandoned one",
        ),
        (
            {"objective": Objective(regression=0.0)},
            "objective.personalised=True must be False, for Eq. 13 weighs by completion",
        ),
        (
            {"objective": Objective(personalised=False)},
            "objective.regression=0.2 must be 0, for it predicts completion",
        ),
        (
            {"features": (TITLE, Feature("completion", "number", "interaction", 4))},
            "features[1].name='completion' must be sessions or age",
        ),
    ],
)
def test_ratings_refuse_what_needs_watch_time(wrong, message):
    with pytest.raises(InputError) as caught:
        check(ratings(**wrong))
    assert str(caught.value) == message + RATINGS


def test_without_watch_times_no_target_is_abandoned():
    message = "data.targets='every' must be new or any, for no title counts as abandoned"
    with pytest.raises(InputError) as caught:
        check(ratings(data=Data(targets="every")))
    assert str(caught.value) == message + RATINGS


@pytest.mark.parametrize("key, value, message", WRONG, ids=[f"{k}={v!r}"[:50] for k, v, _ in WRONG])
def test_a_wrong_value_is_named_in_one_line(key, value, message):
    with pytest.raises(InputError) as caught:
        check(setting(key, value))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rules_that_depend_on_others():
    check(setting("model.gate.target_entropy", None))
    check(setting("model.gate.target_entropy", 0.693))
    one = setting("model.experts", (Expert(),))
    one.model.gate.target_entropy = 5.0  # one expert has no gate to hold to it
    check(one)
    stl = setting("objective.ranking", 0.0)
    check(stl)
    stl.evaluate.ranking_head = "ranking"
    with pytest.raises(
        InputError, match=r"evaluate.ranking_head='ranking' must be auto, or a head with a weight"
    ):
        check(stl)
    stl.objective.ctr = 0.0
    with pytest.raises(InputError, match=r"objective.ctr=0.0 must be above 0 where ranking is 0"):
        check(stl)


def test_a_dot_product_scores_one_task():
    for name in ("ctr", "ranking"):
        config = replace(good(), objective=replace(Objective(ctr=0, ranking=0, regression=0), **{name: 1.0}))
        config.model.head = "dot"
        check(config)
        config.objective.regression = 0.2
        with pytest.raises(InputError, match=r"model.head='dot' must be matcher unless"):
            check(config)


def test_mixes_are_table_2():
    counts = {name: mix_counts(mix, 20) for name, mix in {**TRAIN_MIXES, **LIST_MIXES}.items()}
    assert counts == {
        "hard": (10, 6, 4, 0, 0), "medium": (6, 8, 6, 0, 0), "easy": (4, 6, 10, 0, 0),
        "none": (0, 10, 6, 4, 0), "enabled": (6, 6, 4, 4, 0), "disabled": (0, 10, 6, 4, 0),
    }  # fmt: skip


def test_lengths():
    assert parse_length("20 epochs") == (20, "epochs")
    assert parse_length("1 epoch") == (1, "epochs")
    assert parse_length("5000 steps") == (5000, "steps")
    for text in ("0 steps", "-1 steps", "1.5 epochs", "5000", "epochs", "20 epochs ", "20 hours", ""):
        with pytest.raises(InputError, match=r"train.duration="):
            parse_length(text)


def test_batches_divide_by_devices():
    check_devices(good(), 8)
    with pytest.raises(InputError, match=r"train.batch_size=8192 must divide by the 3 devices"):
        check_devices(good(), 3)
    config = good()
    config.evaluate.batch_size = 12
    with pytest.raises(InputError, match=r"evaluate.batch_size=12 must divide by the 8 devices"):
        check_devices(config, 8)


SOURCES = [Simulator(users=7), Tables("a.csv", "b.csv"), KuaiRand("d"), Tfds("movielens/1m-ratings")]


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: type(s).__name__)
def test_json_round_trip_is_exact(source):
    config = good()
    config.source = source
    config.model.gate.target_entropy = None
    config.sampling.mix = Mix(0.0, 0.5, 0.3, 0.2)
    config.objective.personalised, config.objective.regression = False, 0.0
    config.optimizer.learning_rate = 0.1 + 0.2
    tree = json.loads(json.dumps(to_json(config), allow_nan=False))
    assert tree["source"]["class"] == type(source).__name__
    assert from_json(tree) == config
    assert to_json(from_json(tree)) == tree


def test_json_of_another_shape_is_refused():
    def refused(change) -> str:
        tree = to_json(good())
        change(tree)
        with pytest.raises(InputError) as caught:
            from_json(tree)
        return str(caught.value)

    assert refused(lambda t: t["train"].update(speed=3)).startswith(
        "train.speed does not exist; there are seed, "
    )
    assert refused(lambda t: t["features"][0].pop("width")).endswith("must hold width")
    assert "source.class='Csv' must be one of Simulator, Tables, " in refused(
        lambda t: t["source"].update({"class": "Csv"})
    )
    assert "model.head_hidden=64 must be a list" in refused(lambda t: t["model"].update(head_hidden=64))
    assert "data=[] must be an object" in refused(lambda t: t.update(data=[]))
    assert "model.width='96' must be a whole number" in refused(lambda t: t["model"].update(width="96"))


def test_a_config_of_before_a_field_has_its_default():
    now = to_json(good())
    kept = to_json(good())
    del kept["objective"]["balance"], kept["model"]["experts"][1]["encoder"]
    assert to_json(from_json(kept)) == now and run_differences(kept, now) == {}
    now["objective"]["balance"] = 0.5
    assert run_differences(kept, now) == {"objective.balance": (0.0, 0.5)}


def test_an_old_config_with_minutes_between_saves_is_read_in_seconds():
    kept, now = to_json(good()), to_json(good())
    del kept["train"]["checkpoint_every_seconds"], kept["train"]["grace_seconds"]
    kept["train"]["save_minutes"] = 0.5
    assert from_json(kept).train.checkpoint_every_seconds == 30.0
    assert run_differences(kept, now) == {}
    kept["train"]["save_minutes"] = "x"
    with pytest.raises(InputError, match=r"train.save_minutes='x' must be a finite number"):
        from_json(kept)


def test_a_run_may_resume_with_what_does_not_change_what_is_computed():
    kept, now = to_json(good()), to_json(good())
    now["model"] |= {"attention_impl": "einsum", "width": 48}
    now["train"]["microbatch_size"] = 64
    assert run_differences(kept, now) == {"model.width": (96, 48)}


def test_the_digest_is_of_what_decides_the_bytes():
    base = digest(good())
    assert len(base) == 64 and base == digest(good())
    same = {
        "data.directory": "x",
        "data.workers": 3,
        "data.partitions": 2,
        "train.seed": 5,
        "name": "b",
        "model.width": 24,
    }
    assert {digest(setting(k, v)) for k, v in same.items()} == {base}
    other = {"data.seed": 1, "source.users": 5, "data.hard": 20, "features": (TITLE,)}
    other |= {"task.name": "next_item", "data.split": "last", "data.path": "a.csv"}
    other |= {"data.validation_from": "2024-01-01", "data.test_from": "2024-01-01"}
    assert len({base} | {digest(setting(k, v)) for k, v in other.items()}) == 10
    assert digest(setting("source.plays_per_user", 12)) == base  # 12 and 12.0 are one config


def test_datasets_prepared_before_a_field_stay_valid(tiny_config):
    """The digest that configs/tiny.py had before there were sequences."""
    assert digest(tiny_config) == "cb640e3cd2ac11c1be2bab46a5a688de2c6a50e1280630574cf63312e53364cc"


def test_where_the_dataset_lies():
    assert dataset_directory(good()) == f"data/simulator-{digest(good())[:12]}"
    assert dataset_directory(setting("data.directory", "elsewhere")) == "elsewhere"
