"""Checkpoints with Orbax, for exact resumption and evaluation without the dataset.

A step directory holds three items: `state` (the arrays of a training state, restored onto the devices that
are available), `meta` (JSON: the config, the position in the data, the layout, the fingerprint of the
dataset, the metrics) and `arrays` (NumPy: id maps, title tables, popularity). The newest step and the step
with the best metric are kept. A bucket that Orbax cannot write holds the same files through `bucket_mirror`.
"""

import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from jaxrec.checkpoints.array_codec import decode_arrays, encode_arrays
from jaxrec.checkpoints.bucket_mirror import BucketMirror
from jaxrec.checkpoints.documents import BEST, FORMAT, checked_document, checked_metric
from jaxrec.checkpoints.orbax_log import hide_expected_records
from jaxrec.checkpoints.seals import (
    ADVICE,
    finish_and_seal,
    seal_when_complete,
    set_damaged_aside,
    verify_step,
)
from jaxrec.checkpoints.state_tree import check_shapes, replace_leaves, slashed_leaves, to_host
from jaxrec.checkpoints.steps import check_writable
from jaxrec.config.schema import Evaluate
from jaxrec.config.tree import among, choices
from jaxrec.core.errors import InputError
from jaxrec.core.json_io import plain
from jaxrec.core.paths import AnyPath, as_path, scheme_of
from jaxrec.runtime.checksums import DamagedFileError, unreadable
from jaxrec.runtime.multihost import barrier, is_first_process

CHECKPOINT_NAMES = choices(Evaluate, "checkpoint")
_LARGE_ITEMS = ("state", "arrays")  # downloaded from a bucket only on request
_ORBAX_SCHEMES = ("", "gs")  # schemes of the paths that Orbax can write
_ORBAX_ERRORS = (ValueError, OSError, KeyError, TypeError)  # of files that cannot be read

hide_expected_records()


class Checkpointer:
    """Context manager over the checkpoints of one run.

    Every process of a run must call every method. Each process writes its own shards of a checkpoint. In a
    directory that Orbax cannot write, the first process writes and uploads the whole checkpoint; the other
    processes then find only the steps that existed when they opened the directory.

    Args:
        directory: Directory of the checkpoints, on this machine or in a bucket.
        metric: Key of the metrics of `save` that determines the best step; larger values are better. A
            reader does not need it: its value is stored.
        writing: Create the directory and allow `save`. Without `writing` the directory must hold a complete
            checkpoint, and no file of it is changed.

    Raises:
        InputError: Without `writing`, the directory does not exist or holds no complete checkpoint.
    """

    def __init__(self, directory: str | AnyPath, metric: str = "ndcg@1", *, writing: bool = False):
        self.directory = as_path(directory)
        if isinstance(self.directory, Path):
            self.directory = self.directory.resolve()
        self.metric = metric
        if not writing and not self.directory.is_dir():
            raise InputError(f"checkpoint {directory}: no such directory; give the workdir of a training run")
        self._mirror: BucketMirror | None = None
        folder, multiprocessing = self.directory, ocp.options.MultiprocessingOptions()
        self._writable = writing
        if not isinstance(folder, Path) and scheme_of(str(folder)) not in _ORBAX_SCHEMES:
            self._writable = writing and is_first_process()
            self._mirror = BucketMirror(folder, _LARGE_ITEMS, writable=self._writable)
            folder, process = self._mirror.folder, jax.process_index()
            multiprocessing = ocp.options.MultiprocessingOptions(process, {process}, f"process_{process}")
            barrier("checkpoints are open")  # all processes list the same steps before the first write
        self._folder, self._verified, self._closing = folder, set[tuple[int, str]](), threading.Event()
        self._sealing: Future | None = None
        self._sealer = ThreadPoolExecutor(1)
        if writing and self._mirror is None and isinstance(folder, Path):
            if is_first_process():
                set_damaged_aside(folder)
            barrier("damaged checkpoints are set aside")
        best = policies.BestN(get_metric_fn=self._metric_value, n=1, keep_checkpoints_without_metrics=False)
        self._manager = self._open_manager(folder, multiprocessing, best, create=writing and not self._mirror)
        if not writing and self.latest_step() is None:
            raise InputError(f"checkpoint {directory}: holds no complete checkpoint")

    def _open_manager(self, folder: Any, multiprocessing: Any, best: Any, create: bool) -> Any:
        """Return Orbax's manager of a folder; InputError where a file of a step cannot be read."""
        try:
            return ocp.CheckpointManager(
                folder,
                item_handlers={  # explicit handlers, so that shapes can be read before a restore
                    "state": ocp.StandardCheckpointHandler(multiprocessing_options=multiprocessing),
                    "meta": ocp.JsonCheckpointHandler(multiprocessing_options=multiprocessing),
                    "arrays": ocp.StandardCheckpointHandler(multiprocessing_options=multiprocessing),
                },
                options=ocp.CheckpointManagerOptions(
                    # Orbax needs best_fn to write metrics; max_to_keep would delete the newest step then.
                    preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(1), best]),
                    best_fn=self._metric_value,
                    create=create,
                    read_only=not self._writable,
                    save_interval_steps=int(self._writable),
                    cleanup_tmp_directories=self._writable,  # incomplete steps of a killed process
                    multiprocessing_options=multiprocessing,
                ),
            )
        except (ValueError, OSError, KeyError) as error:
            raise unreadable(f"checkpoint {self.directory}", error) from error

    def _metric_value(self, metrics: Mapping[str, float]) -> float:
        return checked_metric(metrics, f"checkpoint {self.directory}")

    def _stored(self, metrics: Mapping[str, float] | None) -> dict[str, float]:
        """Return the metrics of a step with the value that decides which step is the best."""
        return plain(dict(metrics or {})) | {BEST: float((metrics or {})[self.metric])}

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A save in progress needs every process, and after a failure the other processes do not arrive.
        if kind is None or jax.process_count() == 1:
            self.close()

    # ------------------------------------------------------------ writing

    def save(
        self, step: int, state: Any, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray],
        metrics: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """Start to write a step; return once `state` may be donated or changed.

        An existing step is left unchanged, with one exception: a step without metrics is replaced if the new
        save has metrics, as happens when a run stops before a validation and is resumed.

        Args:
            step: The training step.
            state: A tree of jax arrays.
            meta: A value that JSON can represent.
            arrays: NumPy arrays by name, including strings and empty arrays.
            metrics: Metrics of a validation; None for a save between validations. A step without metrics, or
                whose metric is not finite, is never the best step.

        Raises:
            Exception: The previous save failed; the error of that save is raised.
        """
        if self._mirror:
            state = jax.tree.map(to_host, state)
            if not self._writable:
                return
        has_metric = metrics is not None and math.isfinite(metrics[self.metric])
        if step in self._manager.all_steps():
            self.wait()
            if not has_metric or self._manager.metrics(step) is not None:
                return
            self._manager.delete(step)
            if self._mirror:
                self._mirror.delete(step)
        self._manager.wait_until_finished()  # raises the error of the save before
        self._wait_for_seal()  # this save may delete the step that is being sealed
        if self._mirror:
            self._mirror.wait()
        if is_local := isinstance(self._folder, Path) and is_first_process():
            check_writable(self._folder)
        encoded, specs = encode_arrays(arrays)
        document = {"format": FORMAT, "step": step, "arrays": specs, "meta": plain(meta)}
        items = {"state": ocp.args.StandardSave(state), "meta": ocp.args.JsonSave(document)}
        if encoded:  # Orbax rejects an empty item
            items["arrays"] = ocp.args.StandardSave(encoded)
        self._manager.save(
            step, args=ocp.args.Composite(**items), metrics=self._stored(metrics) if has_metric else None,
            force=True,
        )  # fmt: skip
        if self._mirror:
            path = Path(self._folder, str(step))
            self._mirror.send(partial(finish_and_seal, self._manager.wait_until_finished, path))
        elif is_local:
            self._sealing = self._sealer.submit(seal_when_complete, self._folder / str(step), self._closing)

    def wait(self) -> None:
        """Wait until all saves are complete, and raise the error of a failed save."""
        self._manager.wait_until_finished()
        self._wait_for_seal()
        if self._mirror:
            self._mirror.wait()
            barrier("checkpoints are sent")

    def _wait_for_seal(self) -> None:
        sealing, self._sealing = self._sealing, None
        if sealing is not None:
            sealing.result()

    def close(self) -> None:
        """Wait until all saves are complete, and release the directory."""
        try:
            self._manager.close()
        finally:
            self._closing.set()
            self._wait_for_seal()
            self._sealer.shutdown()
            if self._mirror:
                self._mirror.close()

    # ------------------------------------------------------------ reading

    def latest_step(self) -> int | None:
        """Return the newest complete step, or None if there is no checkpoint."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Return the step with the best metric, or None if no step has metrics."""
        return self._manager.best_step()

    def step(self, which: str) -> int:
        """Return the step of the "last" or the "best" checkpoint.

        Raises:
            InputError: There is no such checkpoint, or `which` is another word.
        """
        among("which", which, CHECKPOINT_NAMES)
        self.wait()  # a save in progress cannot be read
        step = self.latest_step() if which == "last" else self.best_step()
        if step is None:
            reason = (
                "no checkpoint is complete"
                if which == "last"
                else "no checkpoint has been validated yet; use 'last' instead"
            )
            raise InputError(f"checkpoint {self.directory}: which={which!r} does not exist: {reason}")
        return step

    def _read_document(self, step: int) -> dict[str, Any]:
        """Return the JSON document that `save` wrote as the item `meta`."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        document = self._read(step, "meta", lambda: self._manager.restore(step, args=args)["meta"])
        return checked_document(document, f"checkpoint {self.directory}, step {step}")

    def _read(self, step: int, item: str, restore: Callable[[], Any]) -> Any:
        """Return an item of a step, compared with its checksums before the first read.

        Raises:
            DamagedFileError: A file of the item is missing or damaged.
        """
        self._verify(step, item)
        try:
            return restore()
        except Exception as error:  # of Orbax, without checksums
            if not isinstance(error, _ORBAX_ERRORS) and type(error) is not Exception:  # Orbax raises that too
                raise
            unread = unreadable(f"checkpoint {self.directory}, step {step}, {item}", error)
            raise DamagedFileError(f"{unread}; {ADVICE}") from error

    def _verify(self, step: int, item: str) -> None:
        if isinstance(self._folder, Path) and (step, item) not in self._verified:
            verify_step(self._folder / str(step), (item,))
            self._verified.add((step, item))

    def _fetch_item(self, step: int, item: str) -> None:
        """Download an item of a step if a bucket is mirrored."""
        if self._mirror:
            self._mirror.fetch(step, item)

    def restore_meta(self, which: str = "last") -> dict[str, Any]:
        """Restore `meta` alone, for building the `abstract_state`; errors as in `step`."""
        return self._read_document(self.step(which))["meta"]

    def restore_arrays(self, which: str = "last") -> dict[str, np.ndarray]:
        """Restore `arrays` as saved, on the host; errors as in `step`."""
        step = self.step(which)
        specs = self._read_document(step)["arrays"]
        if all(0 in shape for _, shape in specs.values()):
            return decode_arrays({}, specs)
        self._fetch_item(step, "arrays")
        args = ocp.args.Composite(arrays=ocp.args.StandardRestore())
        restore = lambda: decode_arrays(self._manager.restore(step, args=args)["arrays"], specs)  # noqa: E731
        return self._read(step, "arrays", restore)

    def restore(self, which: str, abstract_state: Any) -> Any:
        """Restore `state` onto the devices of `abstract_state`, from any devices.

        Subtrees without arrays are ignored, so a state from before an optional subtree existed can be
        restored.

        Args:
            which: "last" or "best".
            abstract_state: A tree of jax.ShapeDtypeStruct with the shardings of the result.

        Raises:
            InputError: The checkpoint does not exist, or the name or shape of an array differs.
        """
        step, saved_tree = self._state_tree(which)
        check_shapes(f"checkpoint {self.directory}, step {step}", saved_tree, abstract_state)
        target = replace_leaves(saved_tree, abstract_state)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        restored = self._read(step, "state", lambda: self._manager.restore(step, args=args)["state"])
        return replace_leaves(abstract_state, restored)

    def restore_params(self, which: str, abstract_params: Any) -> Any:
        """Restore the parameters for evaluation and serving, without the optimizer.

        The result is the moving average of the parameters if the run kept one, otherwise the parameters. The
        two moments of Adam, twice the size of the parameters, are not read.

        Args:
            which: "last" or "best".
            abstract_params: A tree of jax.ShapeDtypeStruct with the shardings of the result.

        Raises:
            InputError: The checkpoint does not exist, or the name or shape of an array differs.
        """
        step, saved_tree = self._state_tree(which)
        field = "average" if jax.tree.leaves(saved_tree["average"]) else "params"
        check_shapes(f"checkpoint {self.directory}, step {step}", saved_tree[field], abstract_params)
        target = {field: replace_leaves(saved_tree[field], abstract_params)}
        arguments = ocp.checkpoint_utils.construct_restore_args(target)
        restored = self._restore_fields(step, target, arguments)
        return replace_leaves(abstract_params, restored[field])

    def restore_on_host(self, which: str, *fields: str) -> dict[str, np.ndarray]:
        """Restore whole arrays of fields of the state by their names with slashes; errors as in `step`."""
        step, saved_tree = self._state_tree(which)
        target = {field: saved_tree[field] for field in fields if jax.tree.leaves(saved_tree.get(field))}
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
        return slashed_leaves(self._restore_fields(step, target, arguments) if target else {})

    def _restore_fields(self, step: int, target: dict[str, Any], arguments: Any) -> dict[str, Any]:
        """Restore some fields of the state of a step; nothing of the others is read."""
        args = ocp.args.PyTreeRestore(item=target, restore_args=arguments, partial_restore=True)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            path = self._folder / str(step) / "state"
            return self._read(step, "state", lambda: reader.restore(path, args=args))

    def _state_tree(self, which: str) -> tuple[int, Any]:
        """Return the step of `which` and the metadata of its `state`, once on disk."""
        step = self.step(which)
        self._fetch_item(step, "state")
        if self._mirror is None:
            self._verify(step, "arrays")  # Orbax reads the metadata of all items
        return step, self._read(step, "state", lambda: dict(self._manager.item_metadata(step)["state"]))
