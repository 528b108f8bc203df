"""A training step compiled from shapes alone, without allocating its tables.

The model is a config's, by default Table 3's. Rows have the layout of `stream.paper_layout`, with a chosen
number of titles and width of their id embeddings. The devices are those of the process: XLA_FLAGS makes
several of a CPU before jax starts.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.collectives import collectives
from benchmarks.stream import paper_layout
from jaxrec.checkpoints.state_tree import with_shardings
from jaxrec.config.loading import load_config
from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.ids import TITLE_ID
from jaxrec.core.row_format import Layout
from jaxrec.runtime import device_batch, mesh, parallel_step
from jaxrec.tasks.base import Task
from jaxrec.tasks.loading import build_task
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

TABLE_3 = "configs/smoe.py:paper"
_STEPS = 1000  # per epoch and per run; neither number changes the program


def layout_of(titles: int, width: int) -> Layout:
    """Return the paper's row layout with V = `titles` and id embeddings of `width`."""
    paper = paper_layout()
    id_feature = next(f for f in paper.features if f.name == TITLE_ID)
    other_features = tuple(f for f in paper.features if f.name != TITLE_ID)
    features = (dataclasses.replace(id_feature, width=width, size=titles), *other_features)
    return dataclasses.replace(paper, num_titles=titles, features=features)


def program_of(
    titles: int, width: int, batch: int, kind: Any, dtype: Any = "float32", spec: str = TABLE_3
) -> Task:
    """Return the task with `model.item_table_sharding` = `kind`, for shapes alone.

    A global batch has `batch` examples. The rest of the model is that of the config `spec`.
    """
    config = load_config(spec)
    config.model.item_table_sharding, config.model.dtype, config.train.batch_size = kind, dtype, batch
    return build_task(config, layout_of(titles, width), 0.5, _STEPS, _STEPS)


def arguments(
    program: Task, host: HostBatch | None = None
) -> tuple[Any, device_batch.DeviceBatch, TitleTable]:
    """Return shapes and shardings of state, batch and title table.

    Args:
        program: Task.
        host: A batch of the shapes of all batches; None: one of the config's size, with histories unpacked.
    """
    layout, everywhere = program.layout, mesh.replicated_sharding()
    state = StateInit(program).abstract()
    if host is None:
        batch, words = program.config.train.batch_size, layout.row_dtype().itemsize // 4
        host = HostBatch(np.zeros((batch, words), np.uint32), np.ones(batch, bool), None)
    spec = device_batch.batch_spec(host)
    device_shape = (jax.device_count(), 1, sum(int(np.prod(shape)) for shape, _ in spec.arrays))
    sharded = NamedSharding(mesh.mesh(), PartitionSpec(mesh.AXIS))
    categories, numbers = (
        jax.ShapeDtypeStruct((layout.num_titles, layout.columns("title", kind)), dtype, sharding=everywhere)
        for kind, dtype in (("category", np.int32), ("number", np.float32))
    )
    table = TitleTable(categories, numbers)
    device_batch_shape = device_batch.DeviceBatch(
        jax.ShapeDtypeStruct(device_shape, np.uint32, sharding=sharded), spec
    )
    return with_shardings(state, mesh.state_shardings(state)), device_batch_shape, table


def lowered(program: Task) -> jax.stages.Lowered:
    """Return the lowered step, mapped over devices with `shard_map`."""
    shapes = arguments(program)
    return parallel_step.shard_map_step(TrainStep(program), shapes[0]).lower(*shapes)


def account(program: Task) -> dict[str, Any]:
    """Return memory and communication of the compiled step, per device.

    A loop whose length depends on the data counts once. The look-ups of a row-sharded table run in rounds;
    one round is enough unless one device stores far more than an even fraction of these ids: see
    `jaxrec.models.layers.sharded_embedding`.

    Returns:
        `held`: bytes that stay from step to step. `temporaries`: bytes of temporary buffers. `sent`: kind
        of collective -> bytes and count in a step, with loops multiplied out. `largest`: bytes of the
        largest collective.
    """
    compiled = lowered(program).compile()
    memory: Any = compiled.memory_analysis()
    collective_list, sent = collectives(compiled.as_text() or ""), dict[str, dict[str, int]]()
    for c in collective_list:
        times = 1 if c.times is None else c.times
        kind_sum = sent.setdefault(c.kind, {"bytes": 0, "count": 0})
        kind_sum["bytes"] += c.bytes * times
        kind_sum["count"] += times
    return {
        "held": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "sent": sent,
        "largest": max((c.bytes for c in collective_list), default=0),
    }
