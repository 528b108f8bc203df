"""Every field of a config, changed to another valid value, changes what it is documented to change."""

import copy
import dataclasses
import typing
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import observations as o
import pytest
from absl import logging

from jaxrec.config import schema
from jaxrec.config.schema import (
    Blend,
    BlendTerm,
    FileFormat,
    Head,
    KuaiRand,
    Label,
    Mix,
    Reward,
    Signal,
    Simulator,
    Tables,
    Term,
    Tfds,
)
from jaxrec.config.serialization import dataset_directory
from jaxrec.config.validation import check
from jaxrec.sources import tfds

# ---------------------------------------------------------------- small sources

LOG = """user_id,title_id,time,seconds_viewed,person,film,when,watched,length,segment
ann,t1,1600000000000,60,anna,f1,1600000009000,120,90,v
ann,t2,1600000100000,600,anna,f2,1600000109000,660,80,v
NA,t1,1600000200000,30,nora,f3,1600000209000,90,90,v
bob,t3,1600000300000.5,45,bert,f1,1600000309000,105,70,v
"""
TITLES = """title_id,film,runtime_minutes,minutes,genres
t1,f1,90,91,"x;y,z"
t2,f2,80,81,"x,y"
t3,f3,,71,z
"""
USERS = "user_id,person,segment\nann,anna,s\nbob,bert,t\n"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Return configs of small sources by name: tables, kuairand, tfds."""
    folder = tmp_path_factory.mktemp("sources")
    for name, text in {"log": LOG, "titles": TITLES, "users": USERS}.items():
        (folder / f"{name}.csv").write_text(text)
        (folder / f"other_{name}.csv").write_text("".join(text.splitlines(keepends=True)[:-1]))
    (folder / "single.csv").write_text(TITLES.replace('"', "'"))
    (folder / "latin.csv").write_bytes(TITLES.replace("z\n", "é\n").encode("latin-1"))
    config = o.ranking()
    config.features = (
        schema.Feature("title_id", "category", "title", 4),
        schema.Feature("genres", "categories", "title", 4, 3),
        schema.Feature("segment", "category", "user", 4),
    )
    config.model.features = ()
    paths = [str(folder / f"{name}.csv") for name in ("log", "titles", "users")]
    tables = copy.deepcopy(config)
    tables.source = Tables(*paths)
    kuairand = copy.deepcopy(config)
    kuairand.features = config.features[:1]
    for place, day in (("one", 1), ("two", 2)):
        (folder / place).mkdir()
        write_kuairand(folder / place, day)
    kuairand.source = KuaiRand(str(folder / "one"))
    ratings = copy.deepcopy(config)
    ratings.features = config.features[:1]
    ratings.objective.personalised = False
    ratings.objective.regression = 0.0
    ratings.sampling.mix = Mix(0.0, 0.5, 0.3, 0.2)
    ratings.source = Tfds("movies")
    return {"tables": tables, "kuairand": kuairand, "tfds": ratings, "folder": folder}


def write_kuairand(folder, day):
    head = "user_id,video_id,hourmin,time_ms,play_time_ms,duration_ms\n"
    (folder / "log_standard_a.csv").write_text(head + f"5,1,2359,165081274143{day},30000,60000\n")
    (folder / "log_random_a.csv").write_text(head + f"6,2,100,165081274153{day},20000,60000\n")
    (folder / "video_features_basic_a.csv").write_text("video_id,video_duration\n1,60000\n2,60000\n")
    (folder / "user_features_a.csv").write_text("user_id\n5\n6\n")


class Ratings:
    """Three ratings in memory, as TFDS gives them, which name the arguments they were opened with."""

    def __init__(self, name, split, data_dir):
        opened = f"{name}/{split}/{data_dir}"
        users = {"user_id": [opened, "b", "b"], "person": ["c", "d", "d"]}
        titles = {"movie_id": ["x", "y", "x"], "film": ["u", "v", "u"]}
        times = {"timestamp": [1, 2, 3], "when": [4, 5, 6]}
        self._columns = {**users, **titles, **times}
        kinds = {name: np.dtype(type(column[0])) for name, column in self._columns.items()}
        infos = {
            name: SimpleNamespace(get_tensor_info=lambda d=d: SimpleNamespace(np_dtype=d, shape=()))
            for name, d in kinds.items()
        }
        self.dataset_info = SimpleNamespace(features=infos)

    def __len__(self):
        return 3

    def __getitems__(self, rows):
        return [{name: column[i] for name, column in self._columns.items()} for i in rows]


# ---------------------------------------------------------------- the table


BASES = ("ranking", "one_expert", "two_experts", "next_item")


class Case(NamedTuple):
    """A change of a field, and the observation that must change with it.

    Attributes:
        key: Dotted key of the field in the base config.
        value: The other value.
        observe: Function of a config.
        base: One of BASES, or a small source of `sources`.
        edits: Dotted key -> value, changed in both configs. With `also`, in the changed one alone: for
            shares that must add to 1.
        also: As `edits`.
    """

    key: str
    value: Any
    observe: Callable[[schema.Config], Any]
    base: str = "ranking"
    edits: Mapping[str, Any] = {}
    also: Mapping[str, Any] = {}


def table(prefix: str, observe: Callable, base: str = "ranking", /, **values: Any) -> dict[str, list[Case]]:
    """Return cases of the fields of one class, all with one observation."""
    return {name: [Case(f"{prefix}.{name}", value, observe, base)] for name, value in values.items()}


def _simulator() -> dict[str, list[Case]]:
    values = dict(
        seed=1, users=61, test_only_users=9, titles=111, weeks=5, plays_per_user=7.0, sitting=2.0, slate=10,
        taste=0.5, interest=0.5, interest_moves=0.5, mood=0.5, popularity=0.5, appeal=0.5, satisfaction=0.5,
        clickbait=0.5, match=0.5, patience=0.5, interruptions=0.5, replay_watched=0.5, replay_abandoned=0.5,
        habit=0.5, launches=0.5, novelty=2.0, trend=0.5, countries=3, mood_moves=0.5, regimes=1.0,
        search=0.5, similar=0.5,
    )  # fmt: skip
    by_country = {
        name: [Case(f"source.{name}", 0.5, o.read, edits={"source.countries": 2})]
        for name in ("country_taste", "unlicensed")
    }
    by_country["kinship"] = [Case("source.kinship", 1.0, o.read, edits={"source.similar": 0.5})]
    signals = dict(
        surprise=0.0, thumbs=0.5, leniency=0.0, ratings=0.5, lists=0.5, impressions_logged=0.5,
        test_impressions_logged=0.5, trailers=0.5,
    )  # fmt: skip
    drawn = {"signals": tuple(Signal(name, value) for name, value in Simulator.generated_signals.items())}
    return (
        table("source", o.read, **values)
        | by_country
        | {name: [Case(f"source.{name}", value, o.read, edits=drawn)] for name, value in signals.items()}
    )


def _columns() -> dict[str, list[Case]]:
    values = dict(
        user="person", title="film", time="when", time_unit="us", seconds="watched", title_key="film",
        runtime="minutes", user_key="person", list_separator=";", time_decimals=True, seconds_unit="min",
        runtime_unit="s", log_runtime="length", null_words=(),
    )  # fmt: skip
    own = {
        "value": [Case("source.columns.value", "watched", o.read, "tables", OWN)],
        "outcomes": [Case("source.columns.outcomes", ("length",), o.refused_feature("length"), "tables")],
    }
    return table("source.columns", o.read, "tables", **values) | own


OWN = {"signals": (Signal("visit", "number", table="log.csv"),)}
LABELLED = {
    "signals": (Signal("extra", "seconds", column="watched"),),
    "labels": (Label("x", "at_least", "extra", hours=6, at=0.9),),
}
REWARDED = {
    "labels": (Label("x", "count"), Label("z", "count")),
    "rewards": (Reward("r", (Term("x", 2.0, "step", 0.5), Term("z", 0.1))),),
}
# Two heads on the labels of the rows, and an order by both.
HEADS = {
    "labels": (Label("x", "at_least", at=0.9), Label("z", "completion")),
    "objective.heads": (Head("x", "x"), Head("z", "z")),
    "evaluate.blends": (Blend("top", (BlendTerm("x"), BlendTerm("z", 0.5))),),
}
ONLY_HEADS = {name: HEADS[name] for name in ("labels", "objective.heads")}
OF_LOG = {"signals": (Signal("extra", "seconds", column="watched"),)}


FEATURE_CASES = {
    "name": [
        Case(
            "features",
            ("name", "segment2"),
            o.rows,
            edits={
                "features": tuple(f for f in o.ranking().features if f.name != "segment2"),
                "model.features": (),
            },
        )
    ],
    "kind": [Case("features", ("kind", "number"), o.features, edits={"model.features": ()})],
    "where": [Case("features", ("where", "context"), o.read, "tables")],
    "width": [Case("features", ("width", 3), o.params, "one_expert")],
    "most": [Case("features", ("most", 2), o.features)],
    "available": [Case("features", ("available", "after"), o.refused_online, edits={"offline": True})],
    "impute": [Case("features", ("impute", "most_frequent"), o.features)],
}
# Index in the features of configs/smoe.py that each change of a feature is made at.
FEATURE_AT = {"name": 4, "kind": 7, "where": 2, "width": 0, "most": 1, "available": 2, "impute": 6}

EXPOSURES = {
    "signals": (Signal("impression", column="*"),), "data.num_targets": 1, "evaluate.next_k": (1,),
}  # fmt: skip
SESSIONS = {"signals": (Signal("trailer", "seconds"),), "data.session": 8}
# An expert of the session beside one of the history, and the categories that it counts.
READS_SESSION = SESSIONS | {
    "model.features": ("title_id", "genres", "form"),
    "model.experts": tuple(schema.Expert(8, 1, 2, 1.0, 0.1, e) for e in ("transformer", "session")),
}
COUNTS = READS_SESSION | {
    "model.experts": (schema.Expert(8, 1, 2, 1.0, 0.1), schema.Expert(8, 1, 2, 1.0, 0.1, "session_counts")),
}
SERVED = {"signals": (Signal("impression"),), "data.served": 20}
SEARCHED = {
    "source.search": 0.5,
    "features": (
        *o.ranking().features,
        schema.Feature("name", "text", "title", 4),
        schema.Feature("query", "text", "context", 4),
    ),
}
DATA = table(
    "data", o.rows, seed=1, max_history=12, num_targets=4, abandon_threshold=0.2, targets="any",
    split="last", train_share=0.5, validation_share=0.15, hard=20, trending=36, tailing=24, random=12,
    negatives=10,
) | {
    "earliest": [Case("data.earliest", "2024-11-15", o.rows, edits={"data.max_invalid_fraction": 1.0})],
    "latest": [Case("data.latest", "2025-01-10", o.rows, edits={"data.max_invalid_fraction": 1.0})],
    "truth_queries": [Case("data.truth_queries", 9, o.rows, edits={"data.targets": "every"})],
    "validation_truth_queries": [
        Case("data.validation_truth_queries", 9, o.rows, edits={"data.targets": "every"})
    ],
    "directory": [Case("data.directory", "elsewhere", dataset_directory)],
    "path": [Case("data.path", "other_log.csv", o.read, "tables",
                  {"source.interactions": "", "data.path": "log.csv"})],
    "partitions": [Case("data.partitions", 3, o.partitions)],
    "workers": [Case("data.workers", 3, o.threads)],
    "verify": [Case("data.verify", False, o.audits)],
    "max_invalid_fraction": [Case("data.max_invalid_fraction", 0.2, o.invalid_rows)],
    "examples": [Case("data.examples", "impressions", o.stored_fields, "tables", EXPOSURES,
                      {"objective.ctr": 0.0, "objective.ranking": 0.0})],
    "served": [
        Case("data.served", 8, o.stored_fields, edits=SERVED),
        Case("data.served", 8, o.stored_fields, "next_item", SERVED | {"task.name": "preference"}),
    ],
    "matching": [Case("data.matching", 8, o.stored_fields, edits=SEARCHED)],
    "session": [Case("data.session", 8, o.stored_fields)],
    "session_gap_minutes": [Case("data.session_gap_minutes", 5.0, o.rows, edits={"data.session": 8})],
    "request_window_seconds": [Case("data.request_window_seconds", 60, o.shown, edits=SERVED)],
    "since": [Case("data.since", "2024-12-10", o.rows, base) for base in ("ranking", "next_item")],
    "until": [Case("data.until", "2025-01-10", o.rows, base) for base in ("ranking", "next_item")],
    "replay": [Case("data.replay", 0.5, o.rows, base, {"data.since": "2024-12-10"})
               for base in ("ranking", "next_item")],
    "only": [Case("data.only", "device=tv", o.rows)],
    "continues": [Case("data.continues", "EARLIER", o.continued)],
    "capacity": [Case("data.capacity", 64, o.rows, base) for base in ("ranking", "next_item")],
    "tokens": [Case("data.tokens", ("play", "trailer"), o.rows, "next_item",
                    {"signals": (Signal("trailer", "seconds"),)})],
    "merge_minutes": [Case("data.merge_minutes", 2.0, o.tokens, "next_item",
                           {"signals": (Signal("trailer", "seconds"),), "data.tokens": ("play", "trailer")})],
    "fold": [Case("data.fold", "2/3", o.rows, base, {"source.test_only_users": 0})
             for base in ("ranking", "next_item")],
}  # fmt: skip
DATA["targets"].append(Case("data.targets", "every", o.rows))
BY_TIME = {
    "data.split": "time",
    "data.validation_from": "2024-12-10",
    "data.test_from": "2025-01-01",
}
DATA["validation_from"] = [Case("data.validation_from", "2024-12-03", o.rows, edits=BY_TIME)]
DATA["test_from"] = [Case("data.test_from", "2025-01-08", o.rows, edits=BY_TIME)]

MIX = {
    name: [Case(f"sampling.mix.{name}", value, o.drawn_from(i), also=also)]
    for i, (name, value, also) in enumerate((
        ("hard", 0.2, {"sampling.mix.random": 0.1}),
        ("trending", 0.3, {"sampling.mix.random": 0.1}),
        ("tailing", 0.2, {"sampling.mix.random": 0.1}),
        ("random", 0.1, {"sampling.mix.hard": 0.2}),
    ))
} | {
    "served": [Case("sampling.mix.served", 0.1, o.drawn_from(4), edits=SERVED,
                    also={"sampling.mix.hard": 0.2})]
}  # fmt: skip

SAMPLING = {
    "negatives": [Case("sampling.negatives", 10, o.terms)],
    "history_keeps_abandoned": [
        Case("sampling.history_keeps_abandoned", True, o.batch),
        Case("sampling.history_keeps_abandoned", True, o.scores, "one_expert"),
    ],
    "matching": [Case("sampling.matching", 5, o.loss, "one_expert", SEARCHED | {"data.matching": 8})],
    "context_dropout": [
        Case(
            "sampling.context_dropout", 0.3, o.loss, "one_expert", {"model.features": ("title_id", "device")}
        ),
    ],
    "id_dropout": [
        Case("sampling.id_dropout", 0.3, o.loss, "one_expert"),
        Case("sampling.id_dropout", 0.3, o.loss, "next_item"),
    ],
    "window": [
        Case("sampling.window", "random", o.loss, "next_item"),
        Case("sampling.window", "mixed", o.loss, "next_item"),
    ],
    "latest_share": [
        Case("sampling.latest_share", 0.9, o.loss, "next_item", {"sampling.window": "mixed"}),
    ],
    "stochastic_length": [Case("sampling.stochastic_length", 1.5, o.loss, "next_item")],
    "session_events": [Case("sampling.session_events", ("play",), o.scores, edits=READS_SESSION)],
    "next_k": [Case("sampling.next_k", 2, o.terms)],
    "strata": [Case("sampling.strata", "segment2", o.terms, also={"sampling.strata_power": 0.5})],
    "strata_power": [
        Case(
            "sampling.strata_power",
            0.0,
            o.terms,
            edits={"sampling.strata": "segment", "sampling.strata_power": 0.5},
        )
    ],
    "target_weights": [Case("sampling.target_weights", (1.0, 0.9), o.terms, edits={"sampling.next_k": 2})],
}


DROPS = [
    Case("model.experts.0.dropout", 0.3, o.loss, base, {"model.experts.0.encoder": encoder})
    for base, encoders in (
        ("one_expert", ("transformer", "sasrec", "gru4rec", "hstu", "ligr", "fuxi")),
        ("next_item", ("sasrec", "gru4rec", "hstu", "ligr", "fuxi")),
    )
    for encoder in encoders
]
EXPERT = table(
    "model.experts.0", o.params, "one_expert", num_layers=2, mlp_ratio=2.0, encoder="gru4rec",
) | {
    "max_len": [Case("model.experts.0.max_len", 5, o.loss, "one_expert")],
    "num_heads": [Case("model.experts.0.num_heads", 3, o.loss, "one_expert")],
    "dropout": DROPS,
}  # fmt: skip

GATE = table(
    "model.gate", o.loss, "two_experts", noise_std=0.3, start_temperature=3.0, temperature=0.7,
    anneal_fraction=0.3,
    target_entropy=0.3,
) | {"hidden": [Case("model.gate.hidden", (4, 4), o.params, "two_experts")]}  # fmt: skip
GATE["temperature"].append(Case("model.gate.temperature", 0.7, o.scores, "two_experts"))

METADATA = {"model.features": ("title_id", "runtime")}
MODEL = table(
    "model", o.params, "one_expert", width=8, features=("title_id", "form"), item_table_sharding="split",
    position="time_gap", experts=o.two_experts().model.experts,
) | table(
    "model", o.params, head_hidden=(4,), matcher_product=False,
) | table(
    "model", o.loss, "one_expert", dropout=0.3, target_in_sequence=True, attention_impl="dot_product",
    dtype="bfloat16",
) | {
    "head": [Case("model.head", "dot", o.params, "one_expert", {"model.head": "matcher"})],
    "intent_of": [
        Case("model.intent_of", "form", o.params, edits={"objective.intent": 0.2, **READS_SESSION}),
        Case("model.intent_of", "form", o.params, edits=COUNTS),
    ],
    "cross": [Case("model.cross", 1, o.params)],
    "cross_rank": [Case("model.cross_rank", 3, o.params, edits={"model.cross": 1})],
    "trunk": [Case("model.trunk", kind, o.params) for kind in ("mmoe", "ple")],
    "trunk_experts": [Case("model.trunk_experts", 2, o.params, edits={"model.trunk": "mmoe"})],
    "trunk_width": [Case("model.trunk_width", 8, o.params, edits={"model.trunk": "mmoe"})],
    "trunk_levels": [Case("model.trunk_levels", 2, o.params, edits={"model.trunk": "ple"})],
    "output_maps": [
        Case("model.output_maps", True, o.params, base) for base in ("one_expert", "next_item")
    ],
    "cosine": [Case("model.cosine", True, o.loss, "next_item")],
    "scaled_inputs": [Case("model.scaled_inputs", False, o.loss, "next_item")],
    "untied_item_embeddings": [Case("model.untied_item_embeddings", True, o.params, "next_item")],
    "embedding_init_std": [Case("model.embedding_init_std", 0.1, o.initial, "one_expert")],
    "retrieval_dim": [
        Case("model.retrieval_dim", 6, o.params, "one_expert", also={"objective.retrieval": 0.5})
    ],
    "project": [Case("model.project", 2, o.params, "next_item")],
    "attention_span": [Case("model.attention_span", 2, o.loss, "next_item")],
    "remat": [Case("model.remat", True, o.loss, base) for base in ("one_expert", "next_item")],
    "entity": [Case("model.entity", "mixed", o.params, "one_expert", METADATA)],
    "reads_history": [Case("model.reads_history", False, o.loss, "one_expert")],
    "launch_day": [Case("model.launch_day", "runtime", o.maturity, "one_expert",
                        METADATA | {"model.entity": "mixed"})],
    "cold_masking": [Case("model.cold_masking", 0.3, o.step, "one_expert",
                          METADATA | {"model.cold_masking_new": 0.5})],
    "cold_masking_new": [Case("model.cold_masking_new", 0.5, o.step, "one_expert", METADATA)],
}  # fmt: skip
MODEL["dropout"].append(Case("model.dropout", 0.3, o.loss, "next_item"))

RETRIEVAL = {"model.retrieval_dim": 6, "objective.retrieval": 0.5}
OBJECTIVE = table(
    "objective", o.terms, ctr=0.5, ranking=0.5, regression=0.5, entropy=0.5, balance=0.5, personalised=False,
    alpha=2.0, weighting="uncertainty", ranking_loss="softmax", margin=2.0, soft_negative=0.3, soft_on="all",
) | {
    "distil": [Case("objective.distil", 0.5, o.step, "one_expert", {"start.workdir": "old"})],
    "heads": [Case("objective.heads", HEADS["objective.heads"], o.declared_heads,
                   also={"labels": HEADS["labels"]})],
    "intent": [
        Case("objective.intent", 0.2, o.params, edits={"model.features": ("title_id", "genres")}),
        Case("objective.intent", 0.3, o.loss,
             edits={"model.features": ("title_id", "genres"), "objective.intent": 0.2}),
    ],
    "retrieval": [Case("objective.retrieval", 0.7, o.loss, "one_expert", RETRIEVAL)],
    "retrieval_negatives": [Case("objective.retrieval_negatives", 32, o.loss, "one_expert", RETRIEVAL)],
}  # fmt: skip
OBJECTIVE["weighting"].append(Case("objective.weighting", "averaging", o.terms))

SAMPLED = {"next_item.loss": "sampled_softmax"}
SEVERAL = {"next_item.horizon_hours": 72.0}
OF_GENRES = {"objective.heads": (Head("genre", "title:genres", "state", "softmax"),)}
NEXT_ITEM = {
    "loss": [Case("next_item.loss", "bce", o.terms, "next_item")],
    "negatives": [Case("next_item.negatives", 64, o.terms, "next_item", SAMPLED)],
    "negative_distribution": [
        Case("next_item.negative_distribution", "in_batch", o.terms, "next_item", SAMPLED)
    ],
    "negatives_shared_by": [Case("next_item.negatives_shared_by", "sequence", o.terms, "next_item", SAMPLED)],
    "logq_correction": [Case("next_item.logq_correction", True, o.terms, "next_item", SAMPLED)],
    "calibration": [Case("next_item.calibration", 0.5, o.terms, "next_item", {"next_item.loss": "gbce"})],
    "temperature": [
        Case("next_item.temperature", 0.5, o.terms, "next_item"),
        Case("next_item.temperature", 0.5, o.terms, "next_item", SAMPLED),
        Case("next_item.temperature", 0.5, o.validation_loss, "next_item"),
    ],
    "logits_budget_mib": [Case("next_item.logits_budget_mib", 1, o.chunks, "next_item")],
    "horizon_hours": [Case("next_item.horizon_hours", 72.0, o.terms, "next_item")],
    "half_life_hours": [Case("next_item.half_life_hours", 6.0, o.terms, "next_item", SEVERAL)],
    "most": [Case("next_item.most", 2, o.terms, "next_item", SEVERAL)],
    "weight": [Case("next_item.weight", 0.5, o.step, "next_item", OF_GENRES)],
    "personalised": [
        Case("next_item.personalised", True, o.terms, "next_item"),
        Case("next_item.personalised", True, o.terms, "next_item", SEVERAL),
    ],
    "alpha": [Case("next_item.alpha", 2.0, o.terms, "next_item", {"next_item.personalised": True})],
}

POSTED = {
    "task.name": "preference", "labels": (Label("x", "count"), Label("z", "count")),
    "rewards": (Reward("r", (Term("x"),)), Reward("s", (Term("z"),))), "evaluate.checkpoint": "last",
    "post.objective": "exponential", "post.reward": "r",
}  # fmt: skip
DRAWN = POSTED | {
    "post.objective": "ppo", "post.source": "model", "post.reward_models": 2, "start.workdir": "runs/bc",
}  # fmt: skip
PAIRED = POSTED | {"post.objective": "dpo", "start.workdir": "runs/bc"}
POST = {
    name: [Case(f"post.{name}", value, o.loss, "next_item", POSTED)]
    for name, value in {"reward": "s", "clip": 5.0, "reward_models": 2}.items()
} | {
    "objective": [
        Case("post.objective", value, o.loss, "next_item", POSTED, also)
        for value, also in (
            ("reward", {}), ("bc", {}), ("cql", {}), ("ppo", DRAWN),
            ("wbc", {"signals": (Signal("impression"),), "data.served": 4}),
        )
    ],
    "beta": [
        Case("post.beta", 0.3, o.loss, "next_item", POSTED),
        Case("post.beta", 0.3, o.of_pairs, "next_item", PAIRED),
        Case("post.beta", 0.3, o.of_pairs, "next_item", PAIRED | {"post.objective": "ipo"}),
    ],
    "eta": [Case("post.eta", 0.3, o.of_pairs, "next_item", PAIRED)],
    "rest": [Case("post.rest", 0.3, o.of_pairs, "next_item", PAIRED)],
    "candidates": [Case("post.candidates", "best", o.pair_candidates, "next_item", PAIRED)],
    "pair_users": [Case("post.pair_users", 0.5, o.pair_users, "next_item", PAIRED)],
    **{
        name: [Case(f"post.{name}", value, o.loss, "next_item", DRAWN)]
        for name, value in {"ratio_clip": 0.3, "kappa": 0.5, "samples": 3}.items()
    },
    "refresh": [Case("post.refresh", 3, o.step, "next_item", DRAWN)],
    "source": [
        Case("post.source", value, o.loss, "next_item", POSTED | {"post.reward_models": 2})
        for value in ("model", "ensemble")
    ],
    "baseline": [
        Case("post.baseline", value, o.loss, "next_item", POSTED)
        for value in ("zero", "user", "title", "soft")
    ]
    + [Case("post.baseline", "group", o.loss, "next_item", DRAWN)],
    **{
        name: [Case(f"post.{name}", 2.0, o.loss, "next_item", POSTED | {"post.objective": "cql"})]
        for name in ("alpha", "tau")
    },
    "pessimism": [
        Case("post.pessimism", 2.0, o.loss, "next_item",
             POSTED | {"post.reward_models": 2, "post.source": "ensemble"})
    ],
    "reward_gradient": [Case("post.reward_gradient", True, o.step, "next_item", POSTED)],
}  # fmt: skip

CODED = {"task.name": "generative"}
CODES = {
    name: [Case(f"codes.{name}", value, observe, "next_item", CODED) for observe in observations]
    for name, value, observations in (
        ("levels", 2, (o.tokenised, o.coded_loss)), ("size", 12, (o.tokenised, o.params)),
        ("vectors", "random", (o.tokenised,)), ("path", "other", (o.codes_path,)),
        ("places", 2, (o.coded_loss,)), ("decoder", 1, (o.params,)), ("experts", 3, (o.params, o.coded_loss)),
        ("beam", 8, (o.coded_beam,)), ("titles", 2, (o.coded_loss, o.params, o.coded_beam)),
    )
}  # fmt: skip
CODES["gap_hours"] = [Case("codes.gap_hours", 1.0, o.coded_loss, "next_item", CODED | {"codes.titles": 2})]
CODES["reward"] = [
    Case("codes.reward", "r", o.coded_loss, "next_item",
         CODED | {"codes.titles": 2, "labels": POSTED["labels"], "rewards": POSTED["rewards"]})
]  # fmt: skip

OPTIMIZER = table(
    "optimizer", o.updates, learning_rate=0.01, beta2=0.9, warmup_steps=3, weight_decay=0.1,
    weight_decay_mode="coupled", plateau_factor=0.25, plateau_patience=1,
) | {"ema_decay": [Case("optimizer.ema_decay", 0.9, o.step, "one_expert")]}  # fmt: skip
OPTIMIZER["beta2"].append(Case("optimizer.beta2", 0.9, o.step, "one_expert"))  # the step has this optimizer

TRAIN = {
    # Initialisation, order of the rows, and draws of dropout, of the gate and of negatives.
    "seed": [
        Case("train.seed", 1, o.key, "one_expert"),
        Case("train.seed", 1, o.batch),
        Case("train.seed", 1, o.step, "one_expert"),
        Case("train.seed", 1, o.step, "next_item"),
    ],
    "duration": [Case("train.duration", "9 steps", o.batches_of_last_epoch)],
    "batch_size": [Case("train.batch_size", 16, o.batch)],
    "patience": [Case("train.patience", 3, o.ends_after_three_epochs, "one_expert")],
    "microbatch_size": [Case("train.microbatch_size", 4, o.microbatches)],
    "steps_per_call": [Case("train.steps_per_call", 4, o.steps_of_a_call)],
    "on_nonfinite": [
        Case("train.on_nonfinite", "skip", o.step, "one_expert"),
        Case("train.on_nonfinite", "skip", o.stops_at_nan, "one_expert"),
    ],
    "log_seconds": [Case("train.log_seconds", 9.0, o.log_seconds, "one_expert")],
    "checkpoint_every_seconds": [
        Case("train.checkpoint_every_seconds", 2000.0, o.saves_after_1000_seconds, "one_expert")
    ],
    "prefetch": [Case("train.prefetch", 5, o.prefetch, "one_expert")],
    "resident": [Case("train.resident", "always", o.rows_on_devices)],
    "preemption_exit_code": [Case("train.preemption_exit_code", 75, o.command("status"))],
    "grace_seconds": [Case("train.grace_seconds", 9.0, o.command("grace"))],
    "heartbeat_seconds": [Case("train.heartbeat_seconds", 9, o.command("heartbeat"))],
    "join_seconds": [Case("train.join_seconds", 9, o.command("join"))],
}
STARTED = {"start.workdir": "old"}
START = {
    name: [Case(f"start.{name}", value, o.started, "one_expert", STARTED)]
    for name, value in {
        "workdir": "other", "which": "last", "take": ("title/*",), "optimizer": "kept", "rows": "mean",
        "noise": 0.1,
    }.items()
} | {
    "freeze": [Case("start.freeze", ("title/*",), o.step, "one_expert", STARTED)],
    "low_rank": [Case("start.low_rank", 2, o.step, "one_expert", STARTED)],
    "adapt": [
        Case("start.adapt", ("history/*kernel",), o.step, "one_expert", STARTED | {"start.low_rank": 2})
    ],
    "anchor": [Case("start.anchor", 0.1, observe, "one_expert", STARTED) for observe in (o.started, o.step)],
}  # fmt: skip
EVALUATE = {
    "batch_size": [Case("evaluate.batch_size", 32, o.queries_of_a_step)],
    "ranking_head": [Case("evaluate.ranking_head", "ctr", o.head)],
    "blends": [
        Case(
            "evaluate.blends",
            HEADS["evaluate.blends"],
            o.declared_heads,
            also={name: HEADS[name] for name in ("labels", "objective.heads")},
        )
    ],
    "checkpoint": [Case("evaluate.checkpoint", "last", o.evaluation("which"))],
    "next_k": [Case("evaluate.next_k", (1, 2), o.evaluation("blocks"))],
    "seen": [Case("evaluate.seen", "kept", o.evaluation("seen"))],
    "delay_hours": [Case("evaluate.delay_hours", (0.0, 24.0), o.delays, "next_item")],
    "report": [Case("evaluate.report", False, o.evaluation("report"))],
    "report_users": [Case("evaluate.report_users", 2, o.evaluation("examples"))],
}
SEMICOLONS = FileFormat(separator=";")
FIELDS: dict[str, dict[str, list[Case]]] = {
    "Feature": FEATURE_CASES,
    "Simulator": _simulator(),
    "Columns": _columns(),
    "FileFormat": {
        "separator": [Case("source.titles_format.separator", ";", o.read, "tables")],
        "header": [Case(
            "source.titles_format.header", ("title_id", "runtime_minutes", "minutes", "film", "genres"),
            o.read, "tables",
        )],
        "encoding": [Case("source.titles_format.encoding", "latin-1", o.read, "tables",
                          {"source.titles": "latin.csv"})],
        "quote": [Case("source.titles_format.quote", "'", o.read, "tables",
                       {"source.titles": "single.csv"})],
    },
    "Tables": {
        "interactions": [Case("source.interactions", "other_log.csv", o.read, "tables")],
        "titles": [Case("source.titles", "other_titles.csv", o.read, "tables")],
        "users": [Case("source.users", "other_users.csv", o.read, "tables")],
        "interactions_format": [Case("source.interactions_format", SEMICOLONS, o.read, "tables")],
        "titles_format": [Case("source.titles_format", SEMICOLONS, o.read, "tables")],
        "users_format": [Case("source.users_format", SEMICOLONS, o.read, "tables")],
        "signals_format": [Case("source.signals_format", SEMICOLONS, o.read, "tables", OWN)],
    },
    "Signal": {
        name: [Case(f"signals.0.{name}", value, o.read, "tables", OF_LOG)]
        for name, value in {
            "name": "other", "value": "event", "about": "user", "column": "length", "unit": 60.0,
        }.items()
    } | {"table": [Case("signals.0.table", "other_log.csv", o.read, "tables",
                        {"signals": (Signal("visit", table="log.csv"),)})]},
    "Label": {
        name: [Case(f"labels.0.{name}", value, o.labels, "tables", LABELLED)]
        for name, value in {
            "name": "y", "signal": "play", "hours": 0.5, "at": 0.1,
        }.items()
    } | {"of_drawn": [Case("labels.0.of_drawn", "unknown", o.declared_heads, "ranking", HEADS)],
        "rule": [Case("labels.0.rule", "seconds", o.labels, "tables",
                       {"labels": (Label("x", "count"),)})],
        "feature": [Case("labels.0.feature", "title_id", o.labels, "tables",
                          {"labels": (Label("x", "discovery", feature="genres"),)})]},
    "Term": {
        name: [Case(f"rewards.0.terms.0.{name}", value, o.reward, "tables", REWARDED)]
        for name, value in {"label": "z", "weight": 3.0, "at": 0.85}.items()
    } | {"shape": [Case("rewards.0.terms.0.shape", "linear", o.reward, "tables",
                        REWARDED | {"rewards": (Reward("r", (Term("x", 2.0, "log1p"),)),)})]},
    "Reward": {
        name: [Case(f"rewards.0.{name}", value, o.reward, "tables", REWARDED)]
        for name, value in {
            "name": "other", "terms": (Term("x"),), "base": 2.0, "low": 0.0, "high": 3.5,
            "unknown": "observed",
        }.items()
    },
    "Head": {
        name: [Case(f"objective.heads.0.{name}", value, o.declared_heads, "ranking", ONLY_HEADS)]
        for name, value in {
            "name": "y", "of": "z", "on": "state", "loss": "mse", "weight": 0.3, "personalised": True,
        }.items()
    },
    "Blend": {"name": [Case("evaluate.blends.0.name", "other", o.declared_heads, "ranking", HEADS)],
              "terms": [Case("evaluate.blends.0.terms", (BlendTerm("x"),), o.declared_heads, "ranking",
                             HEADS)],
              "where": [Case("evaluate.blends.0.where", "device=tv", o.pages, "ranking", HEADS)]},
    "BlendTerm": {
        name: [Case(f"evaluate.blends.0.terms.0.{name}", value, o.declared_heads, "ranking", HEADS)]
        for name, value in {"head": "ctr", "weight": 2.0}.items()
    },
    "KuaiRand": {
        "directory": [Case("source.directory", "two", o.read, "kuairand")],
        "logs": [Case("source.logs", "log_*.csv", o.read, "kuairand")],
    },
    "Tfds": table(
        "source", o.read, "tfds", name="songs", split="test", data_dir="there", user="person", title="film",
        time="when",
    ),
    "Task": {"name": [Case("task.name", "next_item", o.params, also={
        name: getattr(o.next_item(), name) for name in ("features", "data", "model", "evaluate")
    })]},
    "Data": DATA,
    "Mix": MIX,
    "Sampling": SAMPLING,
    "Expert": EXPERT,
    "Gate": GATE,
    "Model": MODEL,
    "Objective": OBJECTIVE,
    "NextItem": NEXT_ITEM,
    "Post": POST,
    "Codes": CODES,
    "Optimizer": OPTIMIZER,
    "Start": START,
    "Train": TRAIN,
    "Evaluate": EVALUATE,
    "Config": {
        "name": [Case("name", "other", o.evaluation("name")), Case("name", "other", o.command("saved"))],
        "offline": [Case("offline", True, o.requests, "one_expert")],
        "signals": [Case("signals", OF_LOG["signals"], o.read, "tables")],
        "labels": [Case("labels", (Label("x", "count"), Label("y", "count")), o.labels, "tables",
                        {"labels": (Label("x", "count"),)})],
        "rewards": [Case("rewards", REWARDED["rewards"], o.reward, "tables",
                         {"labels": REWARDED["labels"]})],
        "features": [Case("features", o.ranking().features[:4], o.features, edits={"model.features": ()})],
    },
}  # fmt: skip


def classes_of(cls: type) -> dict[type, list[str]]:
    """Return dataclass -> its fields whose values are no single dataclass, from `cls` down."""
    out: dict[type, list[str]] = {cls: []}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        inner = [hints[field.name], *typing.get_args(hints[field.name])]
        nested = [kind for kind in inner if dataclasses.is_dataclass(kind)]
        is_tuple = typing.get_origin(hints[field.name]) is tuple
        if not nested or is_tuple or FileFormat in nested:
            out[cls].append(field.name)
        for kind in nested:
            out |= classes_of(kind)
    return out


def test_every_field_has_a_case():
    """A new field is entered in FIELDS, with the observation that it changes."""
    expected = {cls.__name__: sorted(names) for cls, names in classes_of(schema.Config).items()}
    assert {name: sorted(cases) for name, cases in FIELDS.items()} == expected
    for name, cases in FIELDS.items():
        for field, of_field in cases.items():
            assert of_field, f"{name}.{field} has no case"


# ---------------------------------------------------------------- the tests


def changed(config: schema.Config, edits: Mapping[str, Any]) -> schema.Config:
    """Return a copy with values at dotted keys, whose parts may be indices."""
    out = copy.deepcopy(config)
    for key, value in edits.items():
        *parents, last = key.split(".")
        node: Any = out
        for part in parents:
            node = node[int(part)] if part.isdigit() else getattr(node, part)
        assert hasattr(node, last), key
        setattr(node, last, copy.deepcopy(value))
    return out


# Observations of programs and of tables, the first of which is made twice: what differs has a cause.
REPEATED = (o.read, o.loss, o.terms, o.batch)
_VALUES: dict[tuple[Callable, str], Any] = {}


def observed(observe: Callable, config: schema.Config) -> Any:
    """Return an observation of a base config, made once."""
    key = (observe, repr(config))
    if key not in _VALUES:
        is_first = observe in REPEATED and observe not in {kind for kind, _ in _VALUES}
        _VALUES[key] = observe(config)
        if is_first:
            assert _VALUES[key] == observe(copy.deepcopy(config))
    return _VALUES[key]


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    logging.set_verbosity(logging.ERROR)  # the level before is set again after the file


CASES = [
    pytest.param(name, field, case, id=f"{name}.{field}-{i}" if i else f"{name}.{field}")
    for name, cases in FIELDS.items()
    for field, of_field in cases.items()
    for i, case in enumerate(of_field)
]


@pytest.mark.parametrize(("name", "field", "case"), CASES)
def test_a_changed_field_changes_what_it_is_said_to_change(name, field, case, sources, monkeypatch):
    monkeypatch.chdir(sources["folder"])
    monkeypatch.setattr(tfds.tfds, "data_source", Ratings)
    base = getattr(o, case.base)() if case.base in BASES else sources[case.base]
    before = changed(base, case.edits)
    if name == "Feature":
        attribute, value = case.value
        features = list(before.features)
        at = FEATURE_AT[field]
        assert getattr(features[at], attribute) != value
        features[at] = dataclasses.replace(features[at], **{attribute: value})
        after = changed(before, {case.key: tuple(features)})
    else:
        after = changed(before, {case.key: case.value} | dict(case.also))
    for config in (before, after):
        check(config)
    assert before != after
    assert observed(case.observe, before) != case.observe(after)
