"""Checkpoints, through Orbax: what it takes to resume exactly, and to be judged without the dataset.

A step directory holds three items: `state` (the arrays of a training state, restored onto whatever
devices there are), `meta` (JSON: the config, the position in the data, the layout, the dataset's
fingerprint, the metrics) and `arrays` (NumPy: id maps, title tables, popularity). The newest step is
kept, and the one with the best metric. In a bucket that Orbax cannot write it is the same: `staging`.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers as policies

from jaxrec.checkpoints.bucket_mirror import BucketMirror
from jaxrec.config.tree import among
from jaxrec.config.validation import NAMES
from jaxrec.core.errors import InputError
from jaxrec.core.json_io import plain
from jaxrec.core.paths import AnyPath, as_path, scheme_of
from jaxrec.runtime.multihost import barrier, is_first_process

CHECKPOINT_NAMES = NAMES["evaluate.which"]
_FORMAT = 1  # of meta and arrays
_LARGE = ("state", "arrays")  # items that are fetched from a bucket only when they are asked for
_ORBAX_WRITES = ("", "gs")  # schemes of paths

# Orbax warns of what is meant here: saves between validations, and reading without writing.
_MEANT = ("Requested `tracked_metric`", "Given directory is read only")
logging.get_absl_logger().addFilter(lambda record: not str(record.msg).startswith(_MEANT))


class Checkpointer:
    """The checkpoints of one run, in `directory`.

    `metric` names the entry of `save`'s metrics by which the best is chosen, larger being better.
    With `writing` the directory is made; without, it must hold a complete checkpoint, and nothing in
    it is touched. Every process of a run calls every method. A context manager.

    All processes write a checkpoint together, each its part. Where Orbax cannot write the directory, the
    first writes all of it, and sends it: the others then know of no step that was saved since they opened it.
    """

    def __init__(self, directory: str | AnyPath, metric: str = "ndcg@1", *, writing: bool = False):
        self.directory = as_path(directory)
        if isinstance(self.directory, Path):
            self.directory = self.directory.resolve()
        self.metric = metric
        if not writing and not self.directory.is_dir():
            raise InputError(f"checkpoint {directory}: no such directory; give the one train wrote to")
        self._staged: BucketMirror | None = None
        where, processes = self.directory, ocp.options.MultiprocessingOptions()
        self._writes = writing
        if not isinstance(where, Path) and scheme_of(str(where)) not in _ORBAX_WRITES:
            self._writes = writing and is_first_process()
            self._staged = BucketMirror(where, _LARGE, sending=self._writes)
            where, me = self._staged.folder, jax.process_index()
            processes = ocp.options.MultiprocessingOptions(me, {me}, f"process_{me}")
            barrier("checkpoints are open")  # before anyone writes, all have seen the same
        self._folder = where
        best = policies.BestN(get_metric_fn=self._value, n=1, keep_checkpoints_without_metrics=False)
        self._manager = ocp.CheckpointManager(
            where,
            item_handlers={  # named, so that shapes can be read before anything is restored
                "state": ocp.StandardCheckpointHandler(multiprocessing_options=processes),
                "meta": ocp.JsonCheckpointHandler(multiprocessing_options=processes),
                "arrays": ocp.StandardCheckpointHandler(multiprocessing_options=processes),
            },
            options=ocp.CheckpointManagerOptions(
                # Not best_fn with max_to_keep, which deletes the newest; best_fn alone makes metrics written.
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(1), best]),
                best_fn=self._value,
                create=writing and self._staged is None,
                read_only=not self._writes,
                save_interval_steps=int(self._writes),
                cleanup_tmp_directories=self._writes,  # what a killed process left
                multiprocessing_options=processes,
            ),
        )
        if not writing and self.latest_step() is None:
            raise InputError(f"checkpoint {directory}: holds no complete checkpoint")

    def _value(self, metrics: Mapping[str, float]) -> float:
        return metrics[self.metric]

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A save under way needs every process, and where one has failed the others are not coming.
        if kind is None or jax.process_count() == 1:
            self.close()

    # ------------------------------------------------------------ writing

    def save(
        self, step: int, state: Any, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray],
        metrics: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """Starts writing; returns once `state` may be donated or changed.

        `metrics` is None for a save between validations, which is then never the best; so is one
        whose metric is not finite. A step already there is left as it is, unless only the new save has
        metrics (a run stopped before its validation, resumed): then it is replaced.
        Raises the error of the save before this one, if that failed.
        """
        if self._staged:
            state = jax.tree.map(_on_this_machine, state)
            if not self._writes:
                return
        valued = metrics is not None and math.isfinite(metrics[self.metric])
        if step in self._manager.all_steps():
            self.wait()
            if not valued or self._manager.metrics(step) is not None:
                return
            self._manager.delete(step)
            if self._staged:
                self._staged.delete(step)
        if self._staged:
            self._staged.wait()
        packed, forms = _pack(arrays)
        note = {"format": _FORMAT, "step": step, "arrays": forms, "meta": plain(meta)}
        items = {"state": ocp.args.StandardSave(state), "meta": ocp.args.JsonSave(note)}
        if packed:  # Orbax refuses an empty item
            items["arrays"] = ocp.args.StandardSave(packed)
        self._manager.save(
            step, args=ocp.args.Composite(**items), metrics=plain(metrics) if valued else None, force=True
        )
        if self._staged:
            self._staged.send(self._manager.wait_until_finished)

    def wait(self) -> None:
        """Until all saves are complete; raises the error of one that failed."""
        self._manager.wait_until_finished()
        if self._staged:
            self._staged.wait()
            barrier("checkpoints are sent")

    def close(self) -> None:
        try:
            self._manager.close()
        finally:
            if self._staged:
                self._staged.close()

    # ------------------------------------------------------------ reading

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step with the best metric; None where no save had one."""
        return self._manager.best_step()

    def step(self, which: str) -> int:
        """The step of "last" or "best". Raises InputError where there is none."""
        among("which", which, CHECKPOINT_NAMES)
        self.wait()  # for a save in progress to be readable
        step = self.latest_step() if which == "last" else self.best_step()
        if step is None:
            other = (
                "none is complete"
                if which == "last"
                else "none has been validated yet; 'last' is the other choice"
            )
            raise InputError(f"checkpoint {self.directory}: which={which!r} does not exist: {other}")
        return step

    def _note(self, step: int) -> dict[str, Any]:
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def _bring(self, step: int, item: str) -> None:
        if self._staged:
            self._staged.fetch(step, item)

    def restore_meta(self, which: str = "last") -> dict[str, Any]:
        """`meta` as saved, read alone: it says what `abstract_state` to restore into."""
        return self._note(self.step(which))["meta"]

    def restore_arrays(self, which: str = "last") -> dict[str, np.ndarray]:
        """`arrays` as saved, on the host."""
        step = self.step(which)
        forms = self._note(step)["arrays"]
        if all(0 in shape for _, shape in forms.values()):
            return _unpack({}, forms)
        self._bring(step, "arrays")
        args = ocp.args.Composite(arrays=ocp.args.StandardRestore())
        return _unpack(self._manager.restore(step, args=args)["arrays"], forms)

    def restore(self, which: str, abstract_state: Any) -> Any:
        """Restore `state` as `abstract_state` says, whatever devices it was saved from.

        Args:
            which: "last" or "best".
            abstract_state: A tree of jax.ShapeDtypeStruct with the shardings wanted now. Parts that hold no
                array make no difference.

        Raises:
            InputError: where names or shapes differ from those saved.
        """
        step, tree = self._state_tree(which)
        self._require_shapes(step, _shapes(tree), _shapes(abstract_state))
        as_saved = _with_leaves(tree, abstract_state)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(as_saved))
        return _with_leaves(abstract_state, self._manager.restore(step, args=args)["state"])

    def restore_params(self, which: str, abstract_params: Any) -> Any:
        """Restore the parameters that are evaluated and served, without the optimizer's state.

        They are the moving average where the run kept one, else the parameters themselves. Adam's two
        moments, twice the size of the parameters, are not read.

        Args:
            which: "last" or "best".
            abstract_params: A tree of jax.ShapeDtypeStruct with the shardings wanted now.

        Raises:
            InputError: where names or shapes differ from those saved.
        """
        step, tree = self._state_tree(which)
        field = "average" if jax.tree.leaves(tree["average"]) else "params"
        self._require_shapes(step, _shapes(tree[field]), _shapes(abstract_params))
        wanted = {field: _with_leaves(tree[field], abstract_params)}
        args = ocp.args.PyTreeRestore(
            item=wanted,
            restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
            partial_restore=True,
        )
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            restored = reader.restore(self._folder / str(step) / "state", args=args)
        return _with_leaves(abstract_params, restored[field])

    def _state_tree(self, which: str) -> tuple[int, Any]:
        """Return the step of `which` and the metadata of its `state`, on this machine from here on."""
        step = self.step(which)
        self._bring(step, "state")
        return step, self._manager.item_metadata(step)["state"]

    def _require_shapes(
        self, step: int, saved: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]
    ) -> None:
        for name in sorted(saved.keys() | wanted.keys()):
            a, b = saved.get(name, "nothing"), wanted.get(name, "nothing")
            if a != b:
                raise InputError(
                    f"checkpoint {self.directory}, step {step}: {name} is {a}, but the config makes it {b}"
                )


def describe_latest(directory: str | AnyPath) -> str:
    """In words, the newest complete checkpoint of a directory; asked by any thread, of one process alone."""
    where = as_path(directory)
    steps = ocp.utils.checkpoint_steps(where) if where.is_dir() else []
    return f"the last checkpoint is step {max(steps)}" if steps else "there is no checkpoint"


def with_shardings(state: Any, shardings: Any) -> Any:
    """The shapes of a state (arrays or ShapeDtypeStructs), its leaves to be placed by a tree of shardings, or
    all by one."""
    if isinstance(shardings, jax.sharding.Sharding):
        return with_shardings(state, jax.tree.map(lambda _: shardings, state))
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state, shardings
    )


def _on_this_machine(x: jax.Array) -> jax.Array | np.ndarray:
    """All of an array whose parts may be with other processes, every one of which must ask: as NumPy's, for
    among several processes Orbax takes jax's only where they are of all."""
    if jax.process_count() == 1:
        return x
    if x.is_fully_replicated:
        return np.asarray(x.addressable_data(0))
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(x, tiled=True)


def _with_leaves(tree: Any, of: Any) -> Any:
    """A tree of one's structure with the leaves of the other's, by name."""
    leaves = {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(of)[0]}
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[_name(path)], tree)


# Fields of a state that were its own before they became the task's.
_MOVED = {"averages": "task_state.averages", "usage": "task_state.usage"}


def _name(path: Any) -> str:
    """Return a leaf's dotted name, as a state of today has it."""
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    first, dot, rest = name.partition(".")
    return f"{_MOVED[first]}{dot}{rest}" if first in _MOVED else name


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Dotted name -> shape, of a state or of Orbax's account of one; random keys as their words."""
    shapes = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        shapes[_name(path)] = tuple(leaf.shape)
    return shapes


def _pack(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, list]]:
    """Arrays that Orbax takes, and [dtype, shape] of each as it was: strings travel as bytes
    [n, itemsize], and empty arrays, which TensorStore refuses, by their shape alone."""
    packed, forms = {}, {}
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        forms[name] = [array.dtype.str, list(array.shape)]
        if array.dtype.kind in "US":
            array = array.view(np.uint8).reshape(*array.shape, -1)
        if array.size:
            packed[name] = array
    return packed, forms


def _unpack(packed: Mapping[str, Any], forms: Mapping[str, list]) -> dict[str, np.ndarray]:
    arrays = {}
    for name, (text, shape) in forms.items():
        dtype = np.dtype(text)
        if 0 in shape:
            arrays[name] = np.empty(shape, dtype)
        else:
            array = np.ascontiguousarray(packed[name])
            arrays[name] = array.view(dtype).reshape(shape) if dtype.kind in "US" else array
    return arrays
