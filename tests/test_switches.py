"""Every switch of the paper's tables traces a training and a judging step, and makes what it says."""

import copy
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from jaxrec.config import TRAIN_MIXES, Config, Expert
from jaxrec.config_check import check, from_json, to_json
from jaxrec.parallel import AXIS
from jaxrec.schema import HostBatch, TitleTable
from jaxrec.step import Program


def edit(**values) -> Callable[[Config], None]:
    """Sets values by dotted keys, their dots written as two underscores."""

    def apply(config: Config) -> None:
        for key, value in values.items():
            *parts, last = key.split("__")
            holder = config
            for part in parts:
                holder = getattr(holder, part)
            setattr(holder, last, value)

    return apply


LOSSES = {"loss_ctr", "loss_ranking", "loss_regression", "loss_entropy"}
THREE = tuple(Expert(w, layers=1, heads=2, dropout=0.1) for w in (2, 4, 8))
SWITCHES = {
    **{f"mix {name}": (edit(sampling__mix=mix), LOSSES) for name, mix in TRAIN_MIXES.items()},
    "STL": (edit(objective__ranking=0.0, objective__regression=0.0), {"loss_ctr", "loss_entropy"}),
    "MTL": (
        edit(objective__regression=0.0, objective__personalised=False), LOSSES - {"loss_regression"}
    ),
    "PL": (edit(objective__regression=0.0), LOSSES - {"loss_regression"}),
    "regression": (edit(objective__personalised=False), LOSSES),
    "no target entropy": (edit(model__gate__target_entropy=None), LOSSES - {"loss_entropy"}),
    "a long-term expert": (edit(model__experts=THREE), LOSSES | {"gate_2"}),
    "K=3 equal": (edit(sampling__next_k=3, sampling__labels=(1.0, 1.0, 1.0)), LOSSES),
    "K=3 weighted": (edit(sampling__next_k=3), LOSSES),
    "soft on all": (edit(objective__soft_on="all"), LOSSES),
    "no soft labels": (edit(objective__soft_on="none"), LOSSES),
    "uncertainty": (edit(objective__weighting="uncertainty"), LOSSES | {"weight_regression"}),
    "averaging": (edit(objective__weighting="averaging"), LOSSES | {"weight_regression"}),
    "softmax": (edit(objective__ranking_loss="softmax"), LOSSES),
    "coupled decay, warm-up": (edit(optimizer__decay="coupled", optimizer__warmup=10), LOSSES),
    "abandoned titles shown": (edit(sampling__history_keeps_abandoned=True), LOSSES),
    "target in the sequence": (edit(model__target_in_sequence=True), LOSSES),
    "by time gap": (edit(model__position="time_gap"), LOSSES),
    "without position": (edit(model__position="none"), LOSSES),
}  # fmt: skip


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_checks_and_traces(tiny, tiny_config, name):
    apply, figures = SWITCHES[name]
    config = copy.deepcopy(tiny_config)
    apply(config)
    check(config)
    assert from_json(to_json(config)) == config  # as a checkpoint keeps it
    layout = tiny.layout
    program = Program(config, layout, 0.5, 10, 100)
    state = program.abstract_state()
    table = TitleTable(
        *(
            jax.ShapeDtypeStruct((layout.titles, layout.columns("title", kind)), dtype)
            for kind, dtype in (("category", jnp.int32), ("number", jnp.float32))
        )
    )

    def traced(step, first, dtype):
        words = jax.ShapeDtypeStruct((1, 64, dtype.itemsize // 4), jnp.uint32)
        batch = HostBatch(words, jax.ShapeDtypeStruct((1, 64), jnp.bool_))
        return jax.eval_shape(jax.vmap(step, in_axes=(None, 0, None), axis_name=AXIS), first, batch, table)

    after, sums = traced(program.train_step, state, layout.row_dtype())
    assert jax.tree.map(lambda x: x.shape[1:], after) == jax.tree.map(lambda x: x.shape, state)
    assert {key for key in sums if key.startswith("loss_")} == {f for f in figures if f.startswith("loss_")}
    assert figures <= {*sums}
    scores, _ = traced(program.eval_step(3, with_loss=True), state.params, layout.query_dtype())
    assert scores.shape[2:] == (2, 3, 21)
