"""Predictions of an offline model in place of unknown labels: a dataset rewritten block by block."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrec.analysis.rewritten.rewriting import (
    Rewritten,
    content_digest,
    copied_manifest,
    evaluation_of,
    rewrite,
)
from jaxrec.config.declarations import Head
from jaxrec.config.heads import label_heads, reward_of
from jaxrec.config.rules.declared.labels import WIDE_VALUES
from jaxrec.config.schema import Config
from jaxrec.config.serialization import declarations_for_digest, digest
from jaxrec.core.errors import InputError
from jaxrec.core.ids import SPLITS
from jaxrec.core.paths import AnyPath
from jaxrec.core.row_format import Layout, label_is_known
from jaxrec.data.runners.manifest import DECLARED, fingerprint_of
from jaxrec.data.storage.dataset import Dataset, SelectedRows
from jaxrec.data.storage.row_blocks import row_blocks
from jaxrec.data.storage.writer import DatasetWriter
from jaxrec.evaluation.labels.estimators import probability
from jaxrec.evaluation.labels.of_heads import label_scorer, predictions
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.loading import LoadedCheckpoint, check_same_catalogue, default_checkpoint, load_checkpoint

_LOSSES = ("bce", "mse")  # losses of heads whose predictions are values of the label


class Filler:
    """Predictions for the unknown labels of rows.

    A label of a target is predicted where it is unknown and all labels that the model reads are known: the
    model has learned from no others. Position k of the targets of a request is predicted as if it were the
    first, from the same history.

    Args:
        loaded: Checkpoint of an offline run, which `check_model` has passed.
        layout: Layout of the rows.
    """

    def __init__(self, loaded: LoadedCheckpoint, layout: Layout) -> None:
        self.layout = dataclasses.replace(layout, filled=True)
        self._heads, self._params = _filling_heads(loaded.config), loaded.params
        self._rules = {label.name: label.rule for label in loaded.config.labels}
        self._observed = [layout.labels.index(f.name) for f in loaded.config.observed_labels]
        # The row of one target without candidates, so that nothing else is scored.
        self._alone = dataclasses.replace(layout, num_targets=1, pools=(0, 0, 0, 0), negatives=0)
        self._task = dataclasses.replace(loaded.task, layout=self._alone)
        self._scorer = label_scorer(
            self._task, replicate(loaded.task.title_table(loaded.arrays)), with_loss=False
        )

    def __call__(self, split: str, rows: np.ndarray) -> np.ndarray:
        """Return rows [N] of a split with predictions, which `label_filled` marks."""
        dtype = self.layout.row_dtype() if split == SPLITS[0] else self.layout.query_dtype()
        out = np.zeros(len(rows), dtype)
        for name in rows.dtype.names or ():
            out[name] = rows[name]
        for k in range(self.layout.num_targets):
            known, present = rows["label_known"][:, k], rows["target"][:, k] > 0
            for i in self._observed:
                present = present & label_is_known(known, i)
            missing = {
                head.name: present & ~label_is_known(known, self.layout.labels.index(head.of))
                for head in self._heads
            }
            at = np.flatnonzero(np.logical_or.reduce([*missing.values()]))
            if not len(at):
                continue
            values = self._predict(rows[at], k)
            for head in self._heads:
                i, chosen = self.layout.labels.index(head.of), missing[head.name][at]
                out["label"][at[chosen], k, i] = values[head.name][chosen]
                out["label_filled"][at[chosen], k] |= np.uint32(1 << i)
        return out

    def _predict(self, rows: np.ndarray, k: int) -> dict[str, np.ndarray]:
        """Return head -> predicted labels [N] of target k, within the range of the label's rule."""
        alone = np.zeros(len(rows), self._alone.row_dtype())
        for name in alone.dtype.names or ():
            of_targets = name in ("target", "target_completion", "label", "label_known")
            alone[name] = rows[name][:, k : k + 1] if of_targets else rows[name]
        scores = predictions(self._task, self._scorer(self._params, SelectedRows(alone)))
        out = {}
        for head in self._heads:
            prediction = scores[head.name].prediction
            values = probability(prediction) if head.loss == "bce" else prediction
            if not np.isfinite(values).all():
                raise InputError(
                    f"head {head.name!r}: a prediction is no finite number; train the model again"
                )
            out[head.name] = np.clip(values, *WIDE_VALUES.get(self._rules[head.of], (0.0, 1.0)))
        return out


def _filling_heads(config: Config) -> tuple[Head, ...]:
    """Return the heads whose predictions are values of a label."""
    return tuple(h for h in label_heads(config) if reward_of(h.of, config) is None and h.loss in _LOSSES)


def check_model(loaded: LoadedCheckpoint, dataset: Dataset) -> None:
    """Check that the predictions of a checkpoint are values of the labels of a dataset.

    Raises:
        InputError: The run is not offline, no head predicts the value of a label, the dataset is filled, or
            its labels, titles or categories are not those of the run.
    """
    config, what = loaded.config, f"dataset {dataset.directory}"
    if not config.offline:
        raise InputError(
            f"the run {config.name!r} has offline=False: its model may rank titles; allowed: a run with "
            "offline=True, whose model predicts labels"
        )
    if not _filling_heads(config):
        raise InputError(
            f"the run {config.name!r} has no head that predicts the value of a label; allowed: a Head of a "
            f"label with loss {' or '.join(_LOSSES)}"
        )
    heads = _filling_heads(config)
    for head in heads:
        if [h.of for h in heads].count(head.of) > 1:
            raise InputError(f"the run {config.name!r} has several heads of {head.of!r}; allowed: one")
    if dataset.layout.filled:
        raise InputError(f"{what}: is filled already; allowed: the dataset that it was made from")
    own = declarations_for_digest(config.labels)
    stored = dataset.manifest.get(DECLARED, own)  # none in datasets prepared before this key
    if dataset.manifest["digest"] != digest(config) and stored != own:
        names = ", ".join(dataset.layout.labels) or "no label"
        raise InputError(
            f"{what}: its labels ({names}) are declared otherwise than those of the run {config.name!r}; "
            "allowed: a dataset with the same labels"
        )
    check_same_catalogue(dataset, loaded)


def fill(
    workdir: str | AnyPath, data: str | AnyPath, out: str | AnyPath, which: str | None = None
) -> Rewritten:
    """Write a dataset with the predictions of an offline model in place of unknown labels.

    Rows are read and written in blocks. The folder appears when it is complete; what a killed process
    left is removed by the next one. A complete dataset of the same content is left as it is.

    Args:
        workdir: Folder of the offline run.
        data: Folder of the dataset.
        out: Folder of the filled dataset.
        which: "best" or "last" checkpoint. None: the value of the config.

    Raises:
        InputError: As `check_model`, or `out` holds something else.
    """
    loaded = load_checkpoint(workdir, which or default_checkpoint(workdir))
    dataset = Dataset(data, loaded.config.data.verify)
    check_model(loaded, dataset)
    content = content_digest(loaded)
    own = hashlib.sha256(f"{dataset.fingerprint} {content}".encode()).hexdigest()
    what = f"{data} with the predictions of {workdir}"
    return rewrite(out, own, what, lambda folder: _write(loaded, dataset, folder, own, content))


def _write(loaded: LoadedCheckpoint, dataset: Dataset, folder: AnyPath, own: str, content: str) -> None:
    """Write the filled dataset."""
    filler, counts = Filler(loaded, dataset.layout), {split: _zeros(loaded) for split in SPLITS}
    with DatasetWriter(folder) as writer:
        writer.begin(filler.layout)
        for split in SPLITS:
            for rows in row_blocks(dataset.rows(split)):
                filled = filler(split, rows)
                _count(counts[split], filled, dataset.layout)
                writer.add(split, filled)
        made_from = {
            "dataset": dataset.fingerprint,
            "digest": dataset.manifest["digest"],
            "checkpoint": content,
            "labels": {name: {s: counts[s][name] for s in SPLITS} for name in counts[SPLITS[0]]},
        }
        manifest = _manifest(dataset, filler.layout, own, made_from)
        manifest["fingerprint"] = fingerprint_of(manifest, writer.row_sums())
        users = {split: dataset.user_keys(split) for split in SPLITS[1:]}
        writer.finish(dataset.arrays, users, manifest, evaluation_of(dataset), audited=True)


def _zeros(loaded: LoadedCheckpoint) -> dict[str, int]:
    return {head.of: 0 for head in _filling_heads(loaded.config)}


def _count(counts: dict[str, int], rows: np.ndarray, layout: Layout) -> None:
    """Add the number of predictions in rows to the counts by label."""
    for name in counts:
        counts[name] += int(label_is_known(rows["label_filled"], layout.labels.index(name)).sum())


def _manifest(
    dataset: Dataset, layout: Layout, own: str, made_from: Mapping[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """Return the manifest of the filled dataset, without its fingerprint."""
    stored, manifest = dataset.manifest, copied_manifest(dataset)
    labels = {name: dict(entry) for name, entry in stored["labels"].items()}
    for name, by_split in made_from["labels"].items():
        labels[name]["filled"] = by_split[SPLITS[0]] / max(labels[name]["entries"], 1)
    return manifest | {"digest": own, "layout": layout.to_json(), "labels": labels, "filled": dict(made_from)}
