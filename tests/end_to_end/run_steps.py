"""Run a few steps of the tiny model in float64 on fixed global batches, for test_exactness.

This is a script, because the number of devices is fixed before JAX starts.

    python run_steps.py DATASET OUT {steps,again,together,gradients}/{pmap,shard_map,split} ...

With "split" the table of titles is sharded; the output has its rows in the order of ids. The output of
each WHAT/HOW is OUT/WHAT-HOW.npz. OUT/report.json has the number of devices and the late compilations. A
program is compiled once for all names: gradients are the first moments of a step from the first state, times
ten. "again" is "steps" once more, from a new first state.
"""

import copy
import functools
import itertools
import json
import os
import sys
from pathlib import Path

import jax

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def of_kind(config, data, kind):
    from jaxrec.tasks.ranking import RankingTask

    config = copy.deepcopy(config)
    config.model.item_table_sharding = kind
    return RankingTask(config, data.layout, data.manifest["completion_threshold"], 4, 40)


def main(dataset: str, out: str, *names: str) -> None:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_dtype_promotion", "standard")

    import numpy as np

    from jaxrec.config.loading import load_config
    from jaxrec.data.storage.dataset import Dataset
    from jaxrec.models.layers import sharded_embedding
    from jaxrec.runtime import device_batch, mesh, multihost, parallel_step
    from jaxrec.training.inputs.input_pipeline import training_batches
    from jaxrec.training.train_state import StateInit
    from jaxrec.training.train_step import TrainStep

    multihost.initialize(multihost.find_cluster(os.environ))
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if name.endswith("backend_compile_duration") else None
    )
    config = load_config(str(ROOT / "configs/tiny.py"))
    config.model.dtype, config.objective.balance = "float64", 0.1
    config.model.features = ("title_id", "segment", "completion")  # the fewer, the sooner all is compiled
    data = Dataset(dataset)
    whole, sharded = (of_kind(config, data, kind) for kind in ("replicated", "split"))
    batches = training_batches(whole, data.rows("train"))
    table = mesh.replicate(data.arrays.title_table())
    late, known = [], set()  # compiled when a program had been; (how, steps) of those that have been

    @functools.cache
    def mapped(how):
        program = sharded if how == "split" else whole
        mapping = "pmap" if how == "pmap" else "shard_map"
        return program, parallel_step.parallelize_step(
            TrainStep(program), mapping, StateInit(program).abstract()
        )

    def gradients(how):
        program, step = mapped(how)
        # Shares of unequal count: a mean of local means would not be the global mean.
        shares = np.arange(64).reshape(-1, jax.device_count()).T  # [devices, rows of the global batch]
        rows = np.split(shares, jax.process_count())[jax.process_index()].reshape(-1)
        batch = batches[0]._replace(valid=(rows >= 10) & (rows != 40))
        after, _ = step(StateInit(program).init_sharded(), batch, table)
        return jax.tree.map(lambda mu: mu / 0.1, after.optimizer[0].mu)

    def ten_steps(how, size):
        program, step = mapped(how)
        state = StateInit(program).init_sharded()
        ten = [batches[t] for t in range(10)]
        lists = [device_batch.transfer_group(ten[first : first + size], size) for first in range(0, 10, size)]
        seen = set()
        for batch in itertools.chain(*lists):
            before = len(compiled)
            state, _ = step(state, batch, table)
            if (how, batch.steps) in known:
                late.extend(compiled[before:])
            known.add((how, batch.steps))
            seen.add(batch.steps)
        assert seen == {size, 1}  # together, ten steps are four, four, one and one
        return state.params

    def by_id(tree):
        """Return a tree whose sharded table has row i for title i, under the name of a whole table."""
        rows = jax.jit(
            lambda x: sharded_embedding.in_order(x, data.layout.num_titles),
            out_shardings=mesh.replicated_sharding(),
        )
        of_ids = tree["title"]["title_id"]
        if "dealt" in of_ids:
            tree["title"]["title_id"] = {"embedding": rows(of_ids["dealt"])}
        return tree

    ways = {
        "gradients": gradients,
        "steps": lambda how: ten_steps(how, 1),
        "again": lambda how: ten_steps(how, 1),
        "together": lambda how: ten_steps(how, 4),
    }
    for name in names:
        what, how = name.split("/")
        tree = by_id(ways[what](how))
        if multihost.is_first_process():
            leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
            arrays = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
            np.savez(Path(out) / f"{what}-{how}.npz", **arrays)
    if multihost.is_first_process():
        report = {"devices": jax.device_count(), "late": late}
        (Path(out) / "report.json").write_text(json.dumps(report))
    multihost.barrier("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
