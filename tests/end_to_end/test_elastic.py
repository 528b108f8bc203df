"""A run that goes on upon other devices than it began on ends as the one that stayed: in float64, to 1e-8.

`pytest -m slow tests/end_to_end/test_elastic.py` has a replicated title table too; of a state with a split
one all but that table is replicated.
"""

import json
from types import SimpleNamespace

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from processes import environment, environments, finish, launch

pytestmark = pytest.mark.slow  # 180 s: ten trainings; restores on other devices are in tests/checkpoints

TABLES = ("replicated", "split")  # model.item_table_sharding
STEPS, PER_EPOCH = 112, 28
CUT, AGAIN = 60, 90  # about where it moves to other devices, in mid-epoch
TIMES = ("input_stall", "save_stall", "examples_per_second")


@pytest.fixture(scope="module", params=TABLES)
def runs(request, tiny_directory, tmp_path_factory):
    """Workdirs: `whole` stayed on four devices; `cut` was stopped there, and `same` went on there from `cut`;
    `two` on two devices until it was stopped, and `one`, from that, on one; `pair` on two processes."""
    folder = tmp_path_factory.mktemp("elastic")
    whole, cut, same, two, one, pair = (folder / n for n in ("whole", "cut", "same", "two", "one", "pair"))

    def start(env, *arguments):
        log = folder / f"{len(list(folder.glob('*.log')))}.log"
        return launch("run_loop.py", log, env, tiny_directory, request.param, *arguments)

    finish(start(environment(4), whole, f"{cut}:{CUT}", f"{same}={cut}"))
    finish(start(environment(2), f"{two}={cut}:{AGAIN}"))
    finish(start(environment(1), f"{one}={two}"))
    pair.mkdir()
    # Orbax's own note of the writer's devices, without which all that follows must do.
    (state(cut) / "_sharding").unlink()
    (cut / "metrics.jsonl").rename(pair / "metrics.jsonl")
    (cut / "checkpoints").rename(pair / "checkpoints")
    finish(*(start(env, pair) for env in environments(processes=2)))
    return SimpleNamespace(whole=whole, same=same, two=two, one=one, pair=pair)


def state(workdir):
    """The folder of the newest checkpoint's state."""
    steps = [int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()]
    return workdir / f"checkpoints/{max(steps)}/state"


def held(folder):
    """Dotted name -> array, of what Orbax wrote there, whatever devices it was on."""
    reader = ocp.PyTreeCheckpointer()
    tree = reader.metadata(folder).item_metadata.tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    arrays = reader.restore(folder, ocp.args.PyTreeRestore(restore_args=as_numpy))
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}


def lines(workdir):
    """(step, split) -> what was logged of it."""
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {(x.pop("step"), x.pop("split")): {k: v for k, v in x.items() if k not in TIMES} for x in records}


def apart(a, b):
    assert a.keys() == b.keys()
    return max(np.abs(a[k].astype(np.float64) - b[k]).max() for k in a)


def test_the_run_ends_as_if_it_had_stayed(runs):
    whole = held(state(runs.whole))
    assert len(whole) > 100 and whole["step"] == STEPS
    assert sum(x.dtype == np.float64 for x in whole.values()) > 90
    for moved in (runs.one, runs.pair):
        assert apart(whole, held(state(moved))) < 1e-8


def test_on_the_same_devices_it_ends_bit_for_bit(runs):
    whole, same = held(state(runs.whole)), held(state(runs.same))
    assert whole.keys() == same.keys()
    for name, x in whole.items():
        np.testing.assert_array_equal(x, same[name], name)


def test_every_step_has_the_same_batch_dropout_noise_and_metrics(runs):
    """A step's loss, its terms (the entropy's among them), the gate's use, the gradients' norm: of the global
    batch, whatever the devices; the learning rate too, which the plateau has lowered."""
    whole = lines(runs.whole)
    every = {(step, "train") for step in range(1, STEPS + 1)}
    every |= {(step, "validation") for step in range(PER_EPOCH, STEPS + 1, PER_EPOCH)}
    assert whole.keys() == every
    for moved in (runs.same, runs.one, runs.pair):
        moved_by_step = lines(moved)
        assert moved_by_step.keys() == every
        for at, values in moved_by_step.items():
            assert values.keys() == whole[at].keys()
            for name, value in values.items():
                assert value == pytest.approx(whole[at][name], abs=1e-10), (moved, at, name)
    assert {"loss_entropy", "loss_balance", "gate_entropy", "gradient_norm"} <= whole[STEPS, "train"].keys()
    rates = [lines(runs.one)[step, "train"]["learning_rate"] for step in (1, CUT - 1, AGAIN - 1, STEPS)]
    assert rates == pytest.approx([0.01, 0.01, 0.005, 0.005])
    moves = max(step for step, _ in lines(runs.two))  # where it went on to the one device, in mid-epoch
    assert AGAIN <= moves < STEPS and moves % PER_EPOCH


def test_a_checkpoint_does_not_depend_on_the_devices_that_wrote_it(runs):
    """Compare meta, catalogue, and the names, shapes and dtypes of the state.

    The chunks of an array and the file `_sharding` do depend on the devices. Neither is read when a
    checkpoint is restored.
    """
    written = [state(workdir) for workdir in (runs.whole, runs.one, runs.pair)]
    meta = [(folder.parent / "meta/metadata").read_text() for folder in written]
    assert meta[0] == meta[1] == meta[2]
    catalogue = [held(folder.parent / "arrays") for folder in written]
    forms = [{k: (x.shape, x.dtype) for k, x in held(folder).items()} for folder in written]
    for i in (1, 2):
        assert forms[0] == forms[i] and apart(catalogue[0], catalogue[i]) == 0


def test_two_processes_each_write_a_part_of_every_array_that_can_be_cut(runs):
    """Orbax gives each device that holds an array a slice to write, where an axis of it divides by their
    number; the other arrays are the first one's."""
    folder = state(runs.pair)
    metadata = [json.loads((folder / f"array_metadatas/process_{i}").read_text()) for i in (0, 1)]
    parts = [
        {x["array_metadata"]["param_name"]: x["array_metadata"]["write_shape"] for x in s["array_metadatas"]}
        for s in metadata
    ]
    whole = held(folder)
    halves = {k for k, x in parts[1].items() if 2 * np.prod(x) == whole[k].size}
    assert len(halves) > 60 and halves == {k for k, x in whole.items() if any(n % 2 == 0 for n in x.shape)}
    assert all(parts[0][k] == parts[1][k] for k in halves)
    written = [sum(f.stat().st_size for f in folder.glob(f"ocdbt.process_{i}/d/*")) for i in (0, 1)]
    assert min(written) > 0.25 * sum(written)
