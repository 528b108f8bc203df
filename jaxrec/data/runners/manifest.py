"""The manifest of a dataset: totals over its partitions, and the fingerprint."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxrec.config.schema import Config
from jaxrec.config.serialization import declarations_for_digest, digest
from jaxrec.core.formats.old_layouts import old_layout
from jaxrec.core.ids import SPLITS
from jaxrec.core.row_format import Layout
from jaxrec.core.tables import Drops
from jaxrec.data.examples.ranking import Examples
from jaxrec.data.increments.earlier import EarlierDataset
from jaxrec.data.labels.counts import describe as describe_labels
from jaxrec.data.labels.counts import notes as label_notes
from jaxrec.data.runners.notes import Counts, check_splits, notes
from jaxrec.data.runners.partition_job import BUSIEST_USER, ONLY_NOTED
from jaxrec.data.signals.cleaning import SignalTally
from jaxrec.data.signals.records import describe
from jaxrec.data.storage.dataset import FORMAT

DECLARED = "declared_labels"  # in the manifest, declarations of the labels
CONTINUES = "continues"  # in the manifest, fingerprint of the dataset that it continues
BESIDE = ("notes", "source_files", DECLARED, "files", "checksum", "fingerprint")  # not in the fingerprint


def _zeros() -> dict[str, int]:
    return dict.fromkeys(SPLITS, 0)


@dataclass
class SplitSizes:
    """Counts over one or more partitions.

    All are whole numbers, so that the order of addition is irrelevant.

    Attributes:
        examples: Split -> number of examples.
        users: Split -> number of users.
        counts: Other counts by name.
        completion_sum: As in `Examples`.
        completions: As in `Examples`.
    """

    examples: dict[str, int] = field(default_factory=_zeros)
    users: dict[str, int] = field(default_factory=_zeros)
    counts: dict[str, int] = field(default_factory=dict)
    completion_sum: int = 0
    completions: int = 0

    @classmethod
    def from_examples(cls, examples: Examples) -> "SplitSizes":
        """Count the rows of one partition."""
        return cls(
            {s: len(examples.rows[s]) for s in SPLITS},
            {s: len(examples.users[s]) for s in SPLITS},
            dict(examples.counts),
            examples.completion_sum,
            examples.completions,
        )

    def add(self, more: "SplitSizes") -> None:
        """Add the counts of other partitions."""
        for own, added in (
            (self.examples, more.examples),
            (self.users, more.users),
            (self.counts, more.counts),
        ):
            for name, n in added.items():
                kept = own.get(name, 0)
                own[name] = max(kept, n) if name == BUSIEST_USER else kept + n
        self.completion_sum += more.completion_sum
        self.completions += more.completions


@dataclass
class PreparationResult:
    """Results of a preparation that the manifest records.

    Attributes:
        has_completion: False for a source without watch time.
        has_truth: True for a simulated source.
        layout: Layout of the rows.
        values: Categorical feature -> its values, in the order of their ids.
        titles: Number of titles.
        trending: Number of trending titles.
        plays: Number of (user, title) pairs that training may count.
        rows: Number of rows read.
        copies: Number of duplicates dropped.
        drops: Rows left out.
        sizes: Numbers of examples and users by split.
        row_sums: Split -> `Fingerprint.value`.
        signals: Counts of the events of signals.
        signal_copies: [signals] number of duplicates dropped of each signal.
        earlier: Dataset that this one continues; None: there is none.
    """

    has_completion: bool
    has_truth: bool
    layout: Layout
    values: dict[str, list]
    titles: int
    trending: int
    plays: int
    rows: int
    copies: int
    drops: Drops
    sizes: SplitSizes
    row_sums: dict[str, int]
    signals: SignalTally
    signal_copies: np.ndarray
    earlier: EarlierDataset | None = None


def manifest(config: Config, result: PreparationResult, source_files: list[dict]) -> dict:
    """Return the manifest, with the fingerprint of its content and of the rows.

    The manifest holds values that JSON can represent. The notes and the files are not part of
    the fingerprint.

    Args:
        config: Config of the dataset.
        result: Results of the preparation.
        source_files: Identity of the source's files, from `source_files.describe`.

    Raises:
        InputError: A split has no example.
    """
    sizes, counts = result.sizes, result.sizes.counts
    noted = Counts(result.rows, result.drops.kept, sizes.examples, sizes.users, counts)
    check_splits(config, noted)
    read, dropped = result.signals.events, result.signals.dropped()
    signals, counts = describe(config.signals, counts, result.signal_copies, read, dropped)
    labels, counts = describe_labels(result.layout.labels, counts)
    completion = sizes.completion_sum / 2**32 / max(sizes.completions, 1)
    if result.earlier is not None and result.earlier.threshold is not None:
        completion = result.earlier.threshold  # a constant of the objective, as means and deviations are
    content = {
        "format": FORMAT,
        "digest": digest(config),
        "has_completion": result.has_completion,
        "has_truth": result.has_truth,
        "seed": config.data.seed,
        "layout": result.layout.to_json(),
        "categories": result.values,
        "titles": result.titles,
        "trending": result.trending,
        "plays": result.plays,
        "completion_threshold": completion if result.has_completion else None,
        "rows": {
            "read": result.rows,
            "copies": result.copies,
            "dropped": dict(sorted(result.drops.counts.items())),
        },
        "splits": {s: {"users": sizes.users[s], "examples": sizes.examples[s]} for s in SPLITS},
        "counts": {name: n for name, n in sorted(counts.items()) if name not in ONLY_NOTED},
        **signals,
        **labels,
        **({CONTINUES: result.earlier.fingerprint} if result.earlier is not None else {}),
    }
    if result.layout.has_candidates:
        content["hard_fill_rate"] = counts["hard columns filled"] / counts["hard columns"]
    all_notes = notes(config, noted) + label_notes(config.labels, labels.get("labels", {}))
    beside: dict[str, Any] = {"notes": all_notes, "source_files": source_files}
    if config.labels:
        beside[DECLARED] = declarations_for_digest(config.labels)
    return content | beside | {"fingerprint": fingerprint_of(content, result.row_sums)}


def fingerprint_of(content: Mapping[str, Any], row_sums: Mapping[str, int]) -> str:
    """Return the fingerprint of a dataset.

    The sums of row hashes cover the rows in any order; the manifest covers the rest of the dataset. It has
    the names of FORMAT 2 here, so that a dataset prepared again has the same fingerprint and runs resume.

    Args:
        content: Manifest, of which `BESIDE` is left out.
        row_sums: Split -> fingerprint of its rows.
    """
    kept = {name: value for name, value in content.items() if name not in BESIDE}
    old_names = kept | {"format": 2, "layout": old_layout(kept["layout"])}
    hashed = [old_names, {s: f"{v:032x}" for s, v in row_sums.items()}]
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:32]
