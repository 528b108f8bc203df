"""What a dataset says of itself: what its partitions add up to, and its fingerprint."""

import hashlib
import json
from dataclasses import dataclass, field

from jaxrec.config.schema import Config
from jaxrec.config.serialization import digest
from jaxrec.core.errors import InputError
from jaxrec.core.ids import SPLITS
from jaxrec.core.row_format import Layout
from jaxrec.core.tables import Drops
from jaxrec.data.examples.ranking import Examples
from jaxrec.data.storage.dataset import FORMAT


def _none() -> dict[str, int]:
    return dict.fromkeys(SPLITS, 0)


@dataclass
class SplitSizes:
    """What is counted of one partition, or of several. All are whole, so their order cannot matter."""

    examples: dict[str, int] = field(default_factory=_none)  # of each split
    users: dict[str, int] = field(default_factory=_none)
    counts: dict[str, int] = field(default_factory=dict)
    completion_sum: int = 0  # as in `Examples`
    completions: int = 0

    @classmethod
    def of(cls, made: Examples) -> "SplitSizes":
        return cls(
            {s: len(made.rows[s]) for s in SPLITS},
            {s: len(made.users[s]) for s in SPLITS},
            dict(made.counts),
            made.completion_sum,
            made.completions,
        )

    def add(self, more: "SplitSizes") -> None:
        for mine, its in (
            (self.examples, more.examples),
            (self.users, more.users),
            (self.counts, more.counts),
        ):
            for name, n in its.items():
                mine[name] = mine.get(name, 0) + n
        self.completion_sum += more.completion_sum
        self.completions += more.completions

    def check(self) -> None:
        """Raises InputError where a split has no example."""
        for split in SPLITS:
            if not self.examples[split]:
                raise InputError(f"source: no {split} example is left; allowed: at least one in every split")


@dataclass
class PreparationResult:
    """What a preparation found out."""

    has_completion: bool
    has_truth: bool
    layout: Layout
    values: dict[str, list]  # of each categorical feature
    titles: int
    trending: int
    plays: int
    rows: int  # read
    copies: int
    drops: Drops
    sizes: SplitSizes
    row_sums: dict[str, int]  # of each split, the order-free sum of row hashes


def manifest(config: Config, found: PreparationResult) -> dict:
    """The manifest, with the fingerprint: of everything in it and the sums of the rows."""
    sizes, counts = found.sizes, found.sizes.counts
    sizes.check()
    completion = sizes.completion_sum / 2**32 / max(sizes.completions, 1)
    said = {
        "format": FORMAT,
        "digest": digest(config),
        "has_completion": found.has_completion,
        "has_truth": found.has_truth,
        "seed": config.data.seed,
        "layout": found.layout.to_json(),
        "categories": found.values,
        "titles": found.titles,
        "trending": found.trending,
        "plays": found.plays,
        "completion_threshold": completion if found.has_completion else None,
        "rows": {
            "read": found.rows,
            "copies": found.copies,
            "dropped": dict(sorted(found.drops.counts.items())),
        },
        "splits": {s: {"users": sizes.users[s], "examples": sizes.examples[s]} for s in SPLITS},
        "counts": dict(sorted(counts.items())),
    }
    if found.layout.examples == "requests":
        said["hard_fill_rate"] = counts["hard columns filled"] / counts["hard columns"]
    # Sums of row hashes know no order; the manifest is everything else that the dataset is.
    parts = [said, {s: f"{v:032x}" for s, v in found.row_sums.items()}]
    said["fingerprint"] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
    return said
