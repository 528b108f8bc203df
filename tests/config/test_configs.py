"""Every file in configs/ loads, passes its checks, and traces a training and an evaluation step."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxrec.config.loading import load_config
from jaxrec.config.schema import Config
from jaxrec.config.validation import check
from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.runners import partition_job
from jaxrec.evaluation.scorers import eval_step
from jaxrec.runtime.mesh import AXIS
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SCALED = ("smoe.py", "bst.py", "vmoe.py", "sasrec.py", "gru4rec.py", "hstu.py")
ARGUMENTS = dict.fromkeys(SCALED, (":small", ":paper"))
ARGUMENTS["delayed.py"] = (":offline", ":online")
ARGUMENTS["best.py"] = (":small", ":paper", ":kuairand")
# No requests, or no config of a run: each has a test of its own.
APART = ("study", "policy.py", "onerec.py", "sequences.py", "foundation.py", "live.py")
FILES = [p.name for p in sorted(CONFIGS.glob("*.py")) if not p.name.startswith(APART)]
# A trace takes seconds. The other configs have the models of these in other sizes, or with other features.
TRACED = (
    "smoe.py:paper",
    "bst.py:small",
    "vmoe.py:small",
    "sasrec.py:small",
    "gru4rec.py:small",
    "hstu.py:small",
    "best.py:kuairand",
    "delayed.py:offline",
    "session.py",
    "unicorn.py",
)
EVERY = [f"{name}{a}" for name in FILES for a in ARGUMENTS.get(name, ("",))]


@pytest.fixture(autouse=True)
def _a_folder_of_kuairand(monkeypatch):
    """configs/kuairand.py reads the folder of its source from the environment."""
    monkeypatch.setenv("JAXREC_KUAIRAND", "kuairand")


def layout_of(config: Config) -> Layout:
    """Return the layout that preparation makes, for 1000 titles and 20 values of a category."""
    specs = tuple(
        FeatureSpec(f.name, f.kind, f.where, f.width, 0 if f.kind == "number" else 22, max(f.most, 1))
        if f.name != "title_id"
        else FeatureSpec(f.name, f.kind, f.where, f.width, 1002, 0)
        for f in config.features
        if f.where != "label"
    )
    return partition_job.layout_of(config, 1000, specs)


def steps_trace(config: Config) -> None:
    """A training and an evaluation step of the config, in shapes alone."""
    layout = layout_of(config)
    program = RankingTask(config, layout, 0.5, 10, 100)
    state = StateInit(program).abstract()
    table = TitleTable(
        jax.ShapeDtypeStruct((layout.num_titles, layout.columns("title", "category")), jnp.int32),
        jax.ShapeDtypeStruct((layout.num_titles, layout.columns("title", "number")), jnp.float32),
    )

    def batch(dtype, size):  # one device's share
        words = jax.ShapeDtypeStruct((size, dtype.itemsize // 4), jnp.uint32)
        return HostBatch(words, jax.ShapeDtypeStruct((size,), jnp.bool_))

    def traced(step, first, share):
        return jax.make_jaxpr(step, axis_env=[(AXIS, 1)], return_shape=True)(first, share, table)[1]

    after, sums = traced(TrainStep(program), state, batch(layout.row_dtype(), config.train.batch_size))
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, state)
    assert {"loss", "gradient_norm", "learning_rate"} <= set(sums)
    if not layout.has_candidates:
        return
    queries = batch(layout.query_dtype(), config.evaluate.batch_size)
    scores, gate, _, _ = traced(
        eval_step(program, 3, True, (program.score_task,)), (state.params, None), queries
    )
    (scores,) = scores.values()
    assert gate.shape == (config.evaluate.batch_size, len(config.model.experts))
    assert scores.shape == (config.evaluate.batch_size, 2, 3, 21) and scores.dtype == jnp.float32


@pytest.mark.parametrize("name", EVERY)
def test_a_config_loads(name, capsys):
    check(load_config(str(CONFIGS / name)))
    assert capsys.readouterr().err == ""  # no old name of a field


@pytest.mark.parametrize(
    "name", [n if n in TRACED else pytest.param(n, marks=pytest.mark.slow) for n in EVERY]
)
def test_a_configs_steps_trace(name):
    steps_trace(load_config(str(CONFIGS / name)))


def test_kuairand_splits_by_user_or_by_time():
    by_user, by_time = (load_config(str(CONFIGS / f"kuairand.py{a}")) for a in ("", ":time"))
    check(by_time)
    assert (by_user.name, by_user.data.split) == ("kuairand", "users")
    assert (by_time.name, by_time.data.split) == ("kuairand-time", "time")
    assert by_time.data.validation_from < by_time.data.test_from and by_time.model == by_user.model
    with pytest.raises(InputError, match=r"kuairand\.py:last: the argument must be one of users, time"):
        load_config(str(CONFIGS / "kuairand.py:last"))
