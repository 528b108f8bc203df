"""A training step at given sizes, lowered from shapes alone: nothing of its tables is allocated.

A config's model, Table 3's, over rows as `stream.paper_layout` has them, with so many titles, their own
embeddings so wide. The devices are those there are: XLA makes several of a CPU before jax starts.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.collectives import collectives
from benchmarks.stream import paper_layout
from jaxrec.checkpoints.checkpointer import with_shardings
from jaxrec.config.loading import load_config
from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.ids import TITLE_ID
from jaxrec.core.row_format import Layout
from jaxrec.runtime import device_batch, mesh, parallel_step
from jaxrec.tasks import build
from jaxrec.tasks.base import Task
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

TABLE_3 = "configs/smoe.py:paper"
_STEPS = 1000  # of an epoch, and of the run: neither changes the program


def layout_of(titles: int, width: int) -> Layout:
    """The paper's rows with V = `titles`, their ids' embeddings `width` wide."""
    paper = paper_layout()
    own = next(f for f in paper.features if f.name == TITLE_ID)
    others = tuple(f for f in paper.features if f.name != TITLE_ID)
    features = (dataclasses.replace(own, width=width, size=titles), *others)
    return dataclasses.replace(paper, titles=titles, features=features)


def program_of(
    titles: int, width: int, batch: int, kind: str, dtype: str = "float32", spec: str = TABLE_3
) -> Task:
    """Of a `model.title_table` of that kind, for global batches of `batch` examples; the rest of the model is
    the config's."""
    config = load_config(spec)
    config.model.title_table, config.model.dtype, config.train.batch_size = kind, dtype, batch
    return build.build_task(config, layout_of(titles, width), 0.5, _STEPS, _STEPS)


def arguments(program: Task) -> tuple[Any, device_batch.DeviceBatch, TitleTable]:
    """The shapes of a state, a batch and the titles' table, with where they lie; histories unpacked."""
    layout, everywhere = program.layout, mesh.replicated_sharding()
    batch, words = program.config.train.batch_size, layout.row_dtype().itemsize // 4
    state = StateInit(program).abstract()
    form = device_batch.batch_spec(HostBatch(np.zeros((batch, words), np.uint32), np.ones(batch, bool), None))
    of_device = (jax.device_count(), 1, sum(int(np.prod(shape)) for shape, _ in form.arrays))
    dealt = NamedSharding(mesh.mesh(), PartitionSpec(mesh.AXIS))
    table = TitleTable(
        *(jax.ShapeDtypeStruct((layout.titles, layout.columns("title", kind)), dtype, sharding=everywhere)
          for kind, dtype in (("category", np.int32), ("number", np.float32)))
    )  # fmt: skip
    placed = device_batch.DeviceBatch(jax.ShapeDtypeStruct(of_device, np.uint32, sharding=dealt), form)
    return with_shardings(state, mesh.state_shardings(state)), placed, table


def lowered(program: Task) -> jax.stages.Lowered:
    """The step as `parallel.map_over_devices` maps it with "shard_map"."""
    given = arguments(program)
    return parallel_step.shard_map_step(TrainStep(program), given[0]).lower(*given)


def account(program: Task) -> dict[str, Any]:
    """The compiled step's own: bytes of each device, `held` from step to step and `temporaries`; what each
    kind of collective gives a device in a step (`sent`: bytes, loops multiplied out; and how many there are),
    and the `largest` of one.

    A loop whose length the data decide counts once: a split table's look-ups go in rounds, of which one is
    enough unless a device is asked for far more than an even share: `nn.dealt`."""
    compiled = lowered(program).compile()
    memory: Any = compiled.memory_analysis()
    found, sent = collectives(compiled.as_text() or ""), dict[str, dict[str, int]]()
    for c in found:
        times = 1 if c.times is None else c.times
        of_kind = sent.setdefault(c.kind, {"bytes": 0, "count": 0})
        of_kind["bytes"] += c.bytes * times
        of_kind["count"] += times
    return {
        "held": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "sent": sent,
        "largest": max((c.bytes for c in found), default=0),
    }
