"""Observations of what a config changes, for test_no_dead_field.py.

An observation is a function of a config whose values can be compared: a traced program without operations
that reach no output, shapes of parameters, rows of a dataset, arguments of a collaborator.
"""

import copy
import hashlib
import re
import tempfile
import zlib
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import hand_service
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import train
from jaxrec.analysis import tokenising
from jaxrec.analysis.rewritten import preference_pairs
from jaxrec.checkpoints.state_tree import slashed_leaves
from jaxrec.codes.folder import read_codes
from jaxrec.codes.residual_codes import random_codes
from jaxrec.config.loading import load_config
from jaxrec.config.rules.declared.labels import check_rules
from jaxrec.config.rules.declared.tokens import token_kinds
from jaxrec.config.schema import Config, Expert, Feature, Gate, Objective, Post, Sampling
from jaxrec.config.serialization import digest, to_json
from jaxrec.config.validation import check
from jaxrec.core import rewards
from jaxrec.core.batch import Batch, Outcome
from jaxrec.core.errors import InputError
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.core.rows.sequence_fields import parse_kinds
from jaxrec.core.tables import Lists
from jaxrec.data.events.event_log import Log, TitleStats, event_states
from jaxrec.data.examples import user_pools
from jaxrec.data.labels.of_targets import LabelInputs, PartitionLabels
from jaxrec.data.labels.tables import LabelTitles
from jaxrec.data.loading import left_out
from jaxrec.data.loading.strata import count_strata
from jaxrec.data.runners import local
from jaxrec.data.runners.partition_job import layout_of
from jaxrec.data.signals.records import record_dtype
from jaxrec.data.storage import writer
from jaxrec.data.storage.dataset import Dataset
from jaxrec.data.tokens.merging import TokenEvents, merged_tokens
from jaxrec.evaluation import correction, evaluator, scorers
from jaxrec.evaluation.details import full_catalogue
from jaxrec.losses import next_item as losses
from jaxrec.losses import ranking as ranking_losses
from jaxrec.losses import task_weights
from jaxrec.losses.preference import Pairs, preference_loss
from jaxrec.models.layers import rng
from jaxrec.models.next_item import NextItemModel
from jaxrec.models.outputs import RankingOutput
from jaxrec.models.ranker import RankingModel
from jaxrec.runtime import compilation_cache, mesh, multihost, private_apis
from jaxrec.runtime.multihost import SyncSchedule
from jaxrec.serving.requests import RequestBuilder
from jaxrec.sources import open_source
from jaxrec.tasks import loading
from jaxrec.tasks.generative.catalogue import with_codes
from jaxrec.tasks.heads import page_of, specs_of, with_labels
from jaxrec.tasks.inputs import pool_negatives
from jaxrec.tasks.inputs.title_tables import empty_table
from jaxrec.tasks.loading import LoadedCheckpoint, build_task
from jaxrec.tasks.outputs import PolicyInputs
from jaxrec.tasks.preference import inputs
from jaxrec.training import optimizer, starting, trainer
from jaxrec.training.inputs import input_pipeline, resident_rows
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

ROOT = Path(__file__).resolve().parents[2]
STEPS_PER_EPOCH, TOTAL_STEPS = 4, 8


def ranking() -> Config:
    """Return a ranking config whose programs are traced in a fraction of a second."""
    config = load_config(str(ROOT / "configs/tiny.py"))
    config.source.users, config.source.test_only_users, config.source.titles = 60, 10, 110
    config.data.partitions, config.train.batch_size = 1, 8
    config.model.features = ("title_id", "segment", "completion")
    config.model.experts = tuple(Expert(n, 1, 2, 1.0, 0.1) for n in (3, 8))
    return config


def one_expert() -> Config:
    """Return a ranking config with one expert and a dot product, whose programs are shortest."""
    config = ranking()
    config.model.experts, config.model.head = (Expert(4, 1, 2, 1.0, 0.1),), "dot"
    config.model.features, config.objective = ("title_id",), Objective(ranking=0.0, regression=0.0)
    return config


def two_experts() -> Config:
    """Return the same with a gate."""
    config = one_expert()
    config.model.experts = tuple(Expert(n, 1, 2, 1.0, 0.1) for n in (3, 8))
    return config


def next_item() -> Config:
    """Return a config of next-item prediction."""
    config = ranking()
    config.task.name, config.data.num_targets, config.model.head = "next_item", 1, "dot"
    config.features = tuple(f for f in config.features if f.where == "title")
    config.model.features, config.evaluate.next_k = ("title_id",), (1,)
    config.model.experts = (Expert(4, 1, 2, 1.0, 0.1, "sasrec"),)
    return config


# ---------------------------------------------------------------- data


@cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="jaxrec-fields-")


@cache
def _dataset(name: str) -> Dataset:
    return Dataset(Path(_folder().name) / name)


def dataset_of(config: Config) -> Dataset:
    """Return the dataset of a config, prepared once for each digest."""
    name = digest(config)[:20]
    if not (Path(_folder().name) / name).exists():
        source = open_source(config.source, config.features, config.data.path)
        local.prepare(source, config, f"{_folder().name}/{name}")
    return _dataset(name)


def rows(config: Config) -> dict[str, str]:
    """Return the hashes of all arrays and rows of the prepared dataset, without its manifest."""
    dataset = dataset_of(config)
    out = {path.name: path.read_bytes() for path in sorted(Path(dataset.directory).glob("*.npy"))}
    for split in ("train", "validation", "test"):
        out[split] = dataset.rows(split).all().tobytes()
    return {name: hashlib.sha256(content).hexdigest() for name, content in out.items()}


def continued(config: Config) -> dict[str, str]:
    """Return `rows` of a config that may continue a dataset of the log's first weeks."""
    if config.data.continues:
        earlier = copy.deepcopy(config)
        earlier.data.continues, earlier.data.until = "", "2024-12-10"
        config = copy.deepcopy(config)
        config.data.continues = str(dataset_of(earlier).directory)
    return rows(config)


def _plain(value):
    if isinstance(value, Lists):
        return [value.values.tolist(), value.offsets.tolist()]
    return value.tolist() if isinstance(value, np.ndarray) else value


def read(config: Config):
    """Return the tables of a source, its signals among them, or the line of an InputError."""
    try:
        source = open_source(config.source, config.features, config.data.path, config.signals)
        titles, log = source.titles(), list(source.interactions())
        users, signals = list(source.users()), list(source.signals())
    except InputError as error:
        return str(error)
    chunks = [titles, *users, *log, *signals]
    arrays = [{k: _plain(v) for k, v in vars(c).items() if k not in ("features", "context")} for c in chunks]
    features = [{k: _plain(v) for k, v in getattr(c, "features", {}).items()} for c in chunks]
    context = [{k: _plain(v) for k, v in getattr(c, "context", {}).items()} for c in chunks]
    return repr((arrays, features, context, source.drops.counts))


def labels(config: Config):
    """Return the labels of one user's three plays, which events of each signal follow."""
    hours = np.array([0, 1, 5])
    nothing = np.zeros((3, 0))
    log = Log(
        np.array([7], np.uint64), np.zeros(1, np.int8), np.zeros(3, np.int64), np.arange(3),
        hours * 3_600_000, np.array([600_000, 2_400_000, 3_000_000]),
        nothing, nothing, nothing[:1], nothing[:1],
    )  # fmt: skip
    signals = np.zeros(3 * len(config.signals), record_dtype(config.signals))
    signals["user"], signals["time"] = 7, 19_000_000
    signals["title"] = np.arange(3).repeat(len(config.signals))
    signals["kind"] = np.tile(np.arange(len(config.signals)), 3)
    signals["value"] = 1000.0 * (1 + np.arange(len(config.signals)))[signals["kind"]]
    categories = {
        f.name: Lists(np.array([2, 3, 2 if f.name == "genres" else 4]), np.arange(4))
        for f in config.features
        if f.where == "title" and f.kind != "number"
    }
    inputs = LabelInputs(LabelTitles(np.full(3, 50.0), categories), np.arange(3), 10 * 3_600_000)
    check_rules(config.labels)
    values = PartitionLabels(config, log, signals, inputs).at(np.arange(3), np.zeros(3, np.int8))
    specs = tuple(FeatureSpec(f.name, f.kind, f.where, 4) for f in config.features)
    names = layout_of(config, 3, specs).labels
    return repr((names, values.y.tolist(), values.known.tolist()))


def tokens(config: Config) -> int:
    """Return the number of tokens of a play of an hour and of an event 5 minutes after its end."""
    none = np.zeros((1, 0))
    log = Log(
        np.array([7], np.uint64), np.zeros(1, np.int8), np.zeros(1, np.int64), np.zeros(1, np.int64),
        np.zeros(1, np.int64), np.array([3_600_000]), none, none, none, none,
    )  # fmt: skip
    records = np.zeros(1, record_dtype(config.signals))
    records["user"], records["time"] = 7, 3_900_000
    ids, kinds = np.array([2], np.int32), parse_kinds(token_kinds(config))
    catalogue = TitleStats(np.full(1, 90.0), ids, 1, np.zeros(1, np.uint64))
    events = TokenEvents(records, config.signals, ids, kinds)
    made = merged_tokens(log, event_states(log, catalogue.runtime), catalogue, events, config.data)
    return len(made.time)


def stored_fields(config: Config) -> str:
    """Return the fields of training and held-out rows."""
    specs = tuple(FeatureSpec(f.name, f.kind, f.where, 4, size=3) for f in config.features)
    layout = layout_of(config, 3, specs)
    return str((layout.row_dtype(), layout.query_dtype()))


def shown(config: Config) -> int:
    """Return the number of impressions joined to a play that comes a minute after a half of them."""
    log = SimpleNamespace(user=np.zeros(2, int), time=np.array([0, 100_000]))
    states = SimpleNamespace(start=np.array([0, 1]), user_start=np.zeros(2, int))
    window = 1000 * config.data.request_window_seconds
    titles = user_pools.ShownTitles(
        np.zeros(4, int), np.arange(4), np.array([40_000, 40_000, 100_000, 100_000]), window
    )
    return len(titles.at(log, states, np.array([1]))[1])


def reward(config: Config):
    """Return the values and versions of rewards of two labels, one unknown at the second title."""
    y = {"x": np.array([0.2, 0.8, 0.9]), "z": np.array([1.0, 2.0, 300.0])}
    known = {"x": np.ones(3, bool), "z": np.array([True, False, True])}
    return repr([(r.name, rewards.value(r, y, known, np), rewards.version(r)) for r in config.rewards])


def declared_heads(config: Config) -> str:
    """Return declared heads, the values of their terms on one example, and the scores of the blends."""
    layout = Layout(20, 4, 2, (1, 1, 1, 1), 2, dataset_of(config).layout.features, labels=("x", "z"))
    specs = specs_of(config, layout, {"x": 0.5, "z": 0.25})
    outcome = Outcome(
        jnp.array([[0.9, 0.2]]), jnp.array([[[1.0, 0.0], [0.0, 0.5]]]), jnp.array([[3, 3]], jnp.uint32)
    )
    batch = Batch(
        None, jnp.array([[5, 6]]), outcome, jnp.array([[7, 8]]), jnp.zeros((1, 2), bool), jnp.ones(1, bool)
    )
    batch = with_labels(batch, specs, config, layout, dataset_of(config).arrays.title_table())
    scores = {head.name: jnp.linspace(-1.0, i, 4)[None] for i, head in enumerate(specs)}
    outputs = RankingOutput(scores, jnp.ones((1, 1)), jnp.ones((1, 1)))
    value, _ = ranking_losses.objective(outputs, batch, config.objective, Sampling(next_k=2), 0.5, None)
    model = RankingModel("float32", layout.features, 20, config.model, "", specs, 0, config.evaluate.blends)
    blends = [model._blended(blend.name, scores.__getitem__).tolist() for blend in config.evaluate.blends]
    return repr((specs, float(value), blends, [blend.name for blend in config.evaluate.blends]))


def pages(config: Config) -> str:
    """Return the requests that the blends serve."""
    dataset = dataset_of(config)
    categories = dataset.manifest["categories"]
    blends = config.evaluate.blends
    return repr([page_of(b, i, dataset.layout, categories, "ctr") for i, b in enumerate(blends) if b.where])


def features(config: Config):
    """Return names, kinds, places, sizes, columns and imputed values of the features of a dataset."""
    specs = dataset_of(config).layout.features
    return [(s.name, s.kind, s.where, s.size, s.columns, s.imputed) for s in specs]


def partitions(config: Config) -> set[int]:
    """Return the number of partitions of a preparation, as its progress reports it."""
    totals = set()
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(config.source, config.features, config.data.path)
        report = lambda stage, done, total: totals.add(total)  # noqa: E731
        local.prepare(source, config, f"{folder}/d", report)
    return totals - {0}


def threads(config: Config) -> int:
    """Return the number of threads of a preparation."""
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(config.source, config.features, config.data.path)
        writer = SimpleNamespace(partial=folder)
        return local._Preparation(source, config, writer, lambda *_: None).workers


def audits(config: Config) -> int:
    """Return the number of audits of a preparation."""
    source = open_source(config.source, config.features, config.data.path)
    audit = mock.patch.object(writer, "audit_dataset", wraps=writer.audit_dataset)
    with tempfile.TemporaryDirectory() as folder, audit as called:
        local.prepare(source, config, f"{folder}/d")
    return called.call_count


def invalid_rows(config: Config) -> str:
    """Return the line about one invalid row of ten."""
    drops = local.Drops({"a reason": 1}, {"a reason": "a row"})
    try:
        local.check_dropped(drops, 10, config.data)
    except InputError as error:
        return str(error)
    return "allowed"


def _refused(action) -> str:
    """Return the line that an action is refused with."""
    try:
        action()
    except InputError as error:
        return str(error)
    return "allowed"


def refused_online(config: Config) -> str:
    """Return the line about a config whose model may rank titles."""
    return _refused(lambda: check(replace(config, offline=False)))


def refused_feature(name: str):
    """Return an observation of the line about a context feature of this name."""
    feature = Feature(name, "number", "context", 4)
    return lambda config: _refused(lambda: check(replace(config, features=(*config.features, feature))))


def requests(config: Config) -> str:
    """Return the line about requests of a checkpoint of the config."""
    dataset = dataset_of(config)
    categories = dataset.manifest["categories"]
    return _refused(lambda: RequestBuilder(config, dataset.layout, dataset.arrays, categories))


def batch(config: Config) -> list[bytes]:
    """Return the arrays of the first training batch."""
    dataset = dataset_of(config)
    made = input_pipeline.training_batches(_task(config), dataset.rows("train"))[0]
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(made)]


def batches_of_last_epoch(config: Config) -> int:
    return input_pipeline.count_steps(config, dataset_of(config).rows("train"))[0]


def rows_on_devices(config: Config) -> bool:
    return resident_rows.keeps_rows_on_devices(config, dataset_of(config).rows("train"))


# ---------------------------------------------------------------- programs


def program(function, *arguments) -> str:
    """Return the text of a traced program, without operations that reach no output."""
    closed = jax.make_jaxpr(function, axis_env=[(mesh.AXIS, 1)])(*arguments)
    text = re.sub(r"0x[0-9a-f]+", "", str(private_apis.live_jaxpr(closed.jaxpr)))
    return text + "".join(str(np.asarray(x).tobytes()) for x in closed.consts if hasattr(x, "dtype"))


def _task(config: Config):
    dataset = dataset_of(config)
    strata = count_strata(dataset, config.sampling.strata)
    return build_task(config, dataset.layout, 0.5, STEPS_PER_EPOCH, TOTAL_STEPS, strata=strata)


def _host(config: Config, task):
    return input_pipeline.training_batches(task, dataset_of(config).rows("train"))[0]


def _shapes(config: Config, task):
    """Return the shapes of the parameters, made once for models that differ in rates and the like alone."""
    model = copy.deepcopy(config.model)
    model.gate, model.dropout, model.dtype = Gate(hidden=model.gate.hidden), 0.0, "float32"
    model.attention_impl, model.remat = "auto", False
    for expert in model.experts:
        expert.dropout = 0.0
    key = digest(config), config.task.name, repr(model), repr(config.objective), repr(config.post)
    if key not in _SHAPES:
        _SHAPES[key] = task.abstract_params
    return _SHAPES[key]


_SHAPES: dict = {}


def loss(config: Config, host=None, params=None) -> str:
    """Return the program of a step's loss, metrics and task state, without gradients."""
    task, table = _task(config), dataset_of(config).arrays.title_table()

    def run(params, host, table, state, step):
        key = rng.row_keys(config.train.seed, step, jnp.arange(len(host.valid)))
        context = task.device_context(state, step, host, table)
        context = task.with_kept(context, params, params, table)
        total, sums = task.loss(params, host, table, state, step, key, None, context)
        return total, task.update_task_state(state, params, step, sums)

    state = jax.eval_shape(task.init_task_state)
    params = params or _shapes(config, task)
    return program(run, params, host or _host(config, task), table, state, jnp.int32(0))


def of_pairs(config: Config) -> str:
    """Return the program of the objective of pairs that are inputs of the program."""
    pairs = Pairs(*(jnp.zeros((2, 3)),) * 2, *(jnp.ones((2, 3), bool),) * 2)
    return program(lambda *x: preference_loss(Pairs(*x), config.post).total, *pairs)


def pair_candidates(config: Config) -> str:
    """Return the program that finds the titles among which `python -m jaxrec.pairs` looks for a pair."""
    task, table = _task(replace(config, post=Post())), dataset_of(config).arrays.title_table()

    def run(params, host, table, key):
        x = inputs.training(host.words, task.layout, config, task.size, key)
        positions = PolicyInputs(x.windows.window, x.played)
        return task.pair_candidates(params, table, positions, key, config.post)

    key = jnp.zeros((config.train.batch_size, 2), jnp.uint32)
    return program(run, _shapes(config, task), _host(config, task), table, key)


def pair_users(config: Config) -> bytes:
    """Return which of 100 users have pairs."""
    return preference_pairs.chosen_users(np.arange(100), config, 0).tobytes()


def _coded_table(config: Config):
    """Return the titles of a dataset with drawn codes."""
    arrays = dataset_of(config).arrays
    tokens = np.zeros((len(arrays.rank_of_id), config.codes.levels + 1), np.int32)
    tokens[2:] = random_codes(len(tokens) - 2, config.codes.levels, config.codes.size, 0).tokens
    return replace(arrays, title_codes=tokens).title_table()


def coded_loss(config: Config) -> str:
    """Return the program of the loss of a model that generates codes."""
    task, table = _task(config), _coded_table(config)
    key = jnp.zeros((config.train.batch_size, 2), jnp.uint32)

    def run(params, host, table, least):
        return task.loss(params, host, table, (), jnp.int32(0), key, None, least)

    least = None if config.codes.titles == 1 else jnp.float32(0.0)  # mean reward of sessions
    return program(run, task.abstract_params, _host(config, task), table, least)


def coded_beam(config: Config) -> str:
    """Return the program of the recommendations of a model that generates codes."""
    task, dataset = _task(config), dataset_of(config)
    host = scorers.EvalBatches(dataset.rows("test"), 8)[0]
    return program(task.encode_queries, task.abstract_params, host, _coded_table(config))


def tokenised(config: Config) -> str:
    """Return the tokens that a config gives the titles of its dataset."""
    dataset = dataset_of(config)
    vectors = lambda start, keys: np.random.default_rng(0).normal(size=(len(keys), 4))  # noqa: E731
    with tempfile.TemporaryDirectory() as folder, _patched((tokenising, "_model_vectors", vectors)):
        tokenising.tokenise(config, dataset, folder)
        return repr(read_codes(folder).codes.tokens.tolist())


def codes_path(config: Config) -> str:
    """Return the line about codes that do not exist."""
    return _refused(lambda: with_codes(dataset_of(config).arrays, config))


def terms(config: Config) -> str:
    """Return the program of the loss of outputs of the model that are inputs of the program."""
    task, dataset = _task(config), dataset_of(config)
    host = _host(config, task)
    B, K = config.train.batch_size, config.sampling.next_k
    L, V, N = config.model.experts[0].max_len, dataset.layout.num_titles, config.sampling.negatives
    shapes = {"scores": (B, K + N), "gate": (B, 2), "h": (B, L, 4), "titles": (V, 4)}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    if config.objective.weighting == "uncertainty":
        params[task_weights.PARAMETERS] = task_weights.init_log_variances(task.fixed_weights)

    def output(self, variables, *_, **__):
        made = variables["params"]
        scores = {
            head: made["scores"][:, :K] if head == "completion" else made["scores"] for head in task.heads
        }
        return RankingOutput(scores, made["gate"], made["gate"])

    def positions(self, variables, *_, method=None):
        return variables["params"]["h" if method is None else "titles"]

    with _patched((RankingModel, "apply", output), (NextItemModel, "apply", positions)):
        return loss(config, host, params)


def chunks(config: Config) -> str:
    """Return the program of the loss over 4,096 titles at 1,024 positions."""
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((128, 8, 4), (4096, 4))]

    def run(h, titles, target):
        return losses.next_item_loss(losses.Positions(h, titles, target, None, None), config.next_item)

    return program(run, *inputs, jax.ShapeDtypeStruct((128, 8), jnp.int32))


def step(config: Config) -> str:
    """Return the program of a whole training step."""
    task = _task(config)
    table = task.title_table(dataset_of(config).arrays)
    arguments = StateInit(task).abstract(), _host(config, task), table
    return program(TrainStep(task), *arguments)


def maturity(config: Config) -> str:
    """Return the ages and plays of titles in the title table."""
    return repr(_task(config).title_table(dataset_of(config).arrays).maturity)


def initial(config: Config) -> str:
    """Return the program of the initial parameters."""
    task = _task(config)
    return program(task.init_params, jax.random.key(0), empty_table(task.layout, task.config))


def key(config: Config) -> list[int]:
    """Return the key of the initial parameters."""
    return jax.random.key_data(StateInit(_task(config))._key()).tolist()


def params(config: Config) -> str:
    """Return names and shapes of the parameters."""
    return str(jax.tree_util.tree_leaves_with_path(_task(config).abstract_params))


def scores(config: Config) -> str:
    """Return the program that scores frozen lists."""
    task, dataset = _task(config), dataset_of(config)
    host = scorers.EvalBatches(dataset.rows("test"), 8)[0]
    heads = task.ranking_heads[:1]

    def run(params, host, table):
        return task.score_lists(params, None, host, table, 1, heads, False)

    return program(run, _shapes(config, task), host, dataset.arrays.title_table())


def validation_loss(config: Config) -> str:
    """Return the program of the validation loss of a next-item model."""
    task, dataset = _task(config), dataset_of(config)
    temperature = task.protocols().temperature
    orders = {"model": scorers.Correction(task.catalogue_heads[0])}
    run = scorers._rank_step(task, orders, "stored", 0, temperature)
    host = scorers.EvalBatches(dataset.rows("validation"), 8)[0]
    return program(run, task.abstract_params, host, dataset.arrays.title_table())


def drawn_from(pool: int):
    """Return an observation: the number of negatives that a step draws from a pool."""

    def observe(config: Config) -> int:
        task, widths = _task(config), {"hard": 16, "trending": 32, "tailing": 20, "random": 8}
        widths |= {"served": 20}
        stored = {f"pool_{n}": np.full((1, w), i, np.int32) for i, (n, w) in enumerate(widths.items())}
        stored["pool_hard_filled"] = np.zeros((1, 16), np.uint8)
        chosen, _ = pool_negatives.choose_negatives(stored, task.pool_mix, jnp.int32(0))
        return int((np.asarray(chosen) == pool).sum())

    return observe


def updates(config: Config) -> str:
    """Return the program of an update of the parameters, and of its rate."""
    params, chosen = {"kernel": jnp.zeros(2)}, config.optimizer
    state = jax.eval_shape(optimizer.make(chosen).init, params)

    def run(grads, state, params, value, fresh):
        params, state = optimizer.step(chosen, grads, state, params, value=value, fresh=fresh)
        return params, state, optimizer.learning_rate(state, chosen)

    return program(run, params, state, params, jnp.float32(0), jnp.bool_(False))


# ---------------------------------------------------------------- the start


class _Saved:
    """Checkpointer of a run on the same dataset without its last two titles, whose values name it."""

    def __init__(self, directory):
        self._directory = directory

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def step(self, which):
        return 5

    def restore_arrays(self, which):
        return {"title_key": dataset_of(one_expert()).arrays.title_key[:-2]}

    def restore_on_host(self, which, *fields):
        draws = np.random.default_rng(zlib.crc32(f"{self._directory} {which}".encode()))
        out = {}
        for name, x in slashed_leaves(_once(_abstract_state, one_expert())).items():
            rows = (x.shape[0] - 2, *x.shape[1:]) if name.endswith("title_id/embedding") else x.shape
            if name.startswith(fields):
                out[name] = draws.normal(size=rows)
        return out


def _abstract_state(config: Config):
    return StateInit(_task(config)).abstract()


def started(config: Config) -> dict[str, bytes]:
    """Return the first values of a run that come from another run."""
    dataset = dataset_of(config)
    layout = dataset.manifest["layout"]
    layout = layout | {"num_titles": layout["num_titles"] - 2}  # that of `_Saved`
    meta = {"categories": dataset.manifest["categories"], "layout": layout, "dataset": ""}
    with _patched((starting, "Checkpointer", _Saved), (starting, "read_meta", lambda *_: meta)):
        point = starting.read_start(_task(config), dataset, _once(_abstract_state, one_expert()))
    return {name: value.tobytes() for name, value in point.values.items()}


# ---------------------------------------------------------------- the run

_MADE: dict = {}


def _once(make, config: Config):
    """Return `make(config)`, made once for equal configs."""
    key = make, repr(config)
    if key not in _MADE:
        _MADE[key] = make(config)
    return _MADE[key]


class _Stopped(Exception):
    """Ends a command at the call that is observed."""


@contextmanager
def _patched(*patches):
    with pytest.MonkeyPatch.context() as patch:
        for where, name, value in patches:
            patch.setattr(where, name, value)
        yield


def _run(config: Config, folder: str) -> trainer._Run:
    return trainer._Run(config, dataset_of(config), Path(folder), SimpleNamespace(requested=None))


def _loop(config: Config) -> dict[str, float]:
    """Return arguments with which the training loop opens its log and reads its batches."""
    made = {}

    class Writer:
        def __init__(self, workdir, start, total, log_seconds, constants):
            made["log_seconds"] = log_seconds

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def start(self, *_):
            return None

    def stream(groups, prefetch, then):
        made["prefetch"] = prefetch
        return iter(())

    with tempfile.TemporaryDirectory() as folder:
        run = _run(config, folder)
        state = SimpleNamespace(params={}, fresh=True)
        run._init_or_restore = lambda *_: (state, 0, SimpleNamespace(result=lambda: None))
        with _patched((trainer, "Writer", Writer), (trainer, "stream", stream)):
            run.run()
    return made


def log_seconds(config: Config) -> float:
    return _once(_loop, config)["log_seconds"]


def prefetch(config: Config) -> float:
    return _once(_loop, config)["prefetch"]


def saves_after_1000_seconds(config: Config) -> int:
    """Return the reason to save where the last save was 1,000 seconds ago."""
    run = _run(config, "unused")
    with _patched((trainer.time, "monotonic", lambda: 1_000_000.0)):
        run.last_save = 999_000.0
        return run._save_reason(SyncSchedule(0, 1e9), 1, None)


def ends_after_three_epochs(config: Config) -> bool:
    """Return True if a run ends whose best validation was three epochs ago."""
    run = _run(config, "unused")
    store = SimpleNamespace(best_step=lambda: 1)
    return run._ran_out_of_patience(store, 1 + 3 * run.batches.steps_per_epoch)


def stops_at_nan(config: Config) -> bool:
    """Return True if a loss that is not finite ends the run."""
    run = _run(config, "unused")
    store = SimpleNamespace(wait=lambda: None, latest_step=lambda: None)

    def stop(*_):
        raise _Stopped

    with _patched((trainer, "stop_nonfinite", stop)):
        try:
            run._check_finite({"loss": (np.float32("nan"), np.float32(1))}, 0, 1, store)
        except _Stopped:
            return True
    return False


def steps_of_a_call(config: Config) -> int:
    return input_pipeline.steps_per_call(config, 100)


def microbatches(config: Config) -> int:
    return _task(config).microbatches(8)


def _command(config: Config) -> dict:
    """Return what `python -m jaxrec.train` sets before it joins the cluster."""
    made, graces = {}, []

    class Grace:
        def __init__(self, seconds, status):
            made["grace"], made["status"] = seconds, status
            self.status = status
            graces.append(self)

    def initialize(cluster, heartbeat, join):
        made["heartbeat"], made["join"], made["saved"] = heartbeat, join, graces[0].describe_saved()
        raise _Stopped

    args = SimpleNamespace(
        config=config,
        workdir="",
        coordinator="",
        processes=None,
        process=None,
        hosts="",
        per_user=False,
        repeat="",
    )
    patches = (
        (train, "GracePeriod", Grace),
        (train.signal, "signal", lambda *_: None),
        (multihost, "initialize", initialize),
        (multihost, "multihost_session", lambda report: nullcontext()),
        (compilation_cache, "enable", lambda: None),
    )
    with _patched(*patches):
        try:
            train.main(args)
        except _Stopped:
            return made
    raise AssertionError("the command did not join the cluster")


def command(name: str):
    """Return an observation of one value of the command."""

    def observe(config: Config):
        return _once(_command, config)[name]

    return observe


# ---------------------------------------------------------------- evaluation


@cache
def _hand_dataset() -> Dataset:
    local.prepare(hand_service.HandSource(), hand_service.config(), f"{_folder().name}/hand")
    return _dataset("hand")


def evaluated(config: Config) -> dict:
    """Evaluate the hand service with the settings of a config's `evaluate`; return result and calls."""
    dataset, made = _hand_dataset(), {}
    hand = hand_service.config()
    hand.name, hand.evaluate = config.name, copy.deepcopy(config.evaluate)
    task = build_task(hand, dataset.layout, 0.5, 4, 8)
    values = hand_service.as_params(hand_service.parameters(1), dataset.arrays.title_key)
    meta = {"dataset": dataset.fingerprint, "categories": dataset.manifest["categories"]}

    def load(workdir, which, blend):
        made["which"] = which
        return LoadedCheckpoint(hand, task, dataset.arrays, mesh.replicate(values), 1, meta)

    def leave_out(dataset, split, rows, seen, index):
        made["seen"] = seen
        return left_out.left_out_titles(dataset, split, rows, seen, index)

    lists = evaluator.EvaluationOptions(lists=("enabled", "catalogue"))

    class Checkpoints:
        def __init__(self, directory):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def best_step(self):
            return 1

    with pytest.MonkeyPatch.context() as patch:
        hand_service.use_table(patch)
        patch.setattr(evaluator, "load_checkpoint", load)
        patch.setattr(full_catalogue, "left_out_titles", leave_out)
        patch.setattr(loading, "Checkpointer", Checkpoints)
        patch.setattr(loading, "read_meta", lambda *_: {"config": to_json(hand)})
        patch.setattr(full_catalogue, "load_or_fit_correction", lambda *_: correction.uncorrected(task))
        evaluation = evaluator.evaluate(tempfile.gettempdir(), lists, data=dataset.directory)
    examples = evaluation.measured["examples"]
    shown = {"which": made["which"], "seen": made["seen"], "name": evaluation.result["name"]}
    shown["report"] = evaluation.report
    shown["blocks"] = sorted(key for key in evaluation.result if key.startswith("lists"))
    return shown | {"examples": len(examples["users"]) if examples else 0}


def evaluation(name: str):
    """Return an observation of one value of an evaluation."""

    def observe(config: Config):
        return _once(evaluated, config)[name]

    return observe


def delays(config: Config) -> list[float]:
    """Return the delays that an evaluation without flags measures."""
    queries = SimpleNamespace(loaded=SimpleNamespace(config=config))
    with mock.patch.object(evaluator, "evaluate_delays", lambda _, hours, *__: ([*hours], {})):
        return evaluator._of_changed_rows(queries, evaluator.EvaluationOptions())[0].get("delay", [])


def queries_of_a_step(config: Config) -> int:
    """Return the number of queries that are scored at a time."""
    table = dataset_of(config).arrays.title_table()
    return scorers.ListScorer(_task(config), table, False, 1)._batch_size


def head(config: Config) -> str:
    return _task(config).ranking_heads[0]
