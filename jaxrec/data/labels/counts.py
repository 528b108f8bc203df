"""Counts of stored labels: share known and mean for the manifest, and notes on what cannot be learned."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrec.config.heads import FILLED
from jaxrec.config.rules.declared.labels import ZERO_OR_ONE
from jaxrec.config.schema import Label
from jaxrec.core.row_format import Layout, label_is_known

_FRACTION = 2**12  # sums of values are whole numbers of this fraction, so that their order is irrelevant


def counts_of(rows: np.ndarray, layout: Layout) -> dict[str, int]:
    """Return the counts of the labels of rows, which are added up in any order.

    Args:
        rows: [N] rows of a split.
        layout: Layout of the rows; without labels there are no counts.
    """
    if not layout.labels:
        return {}
    present = rows["target" if "target" in (rows.dtype.names or ()) else "title"] > 0
    if layout.token_kinds:
        present &= rows["selected"] > 0  # other tokens are no targets
    y, bits = rows["label"][present], rows["label_known"][present]
    counts: dict[str, int] = {}
    for i, name in enumerate(layout.labels):
        known = label_is_known(bits, i)
        total = np.rint(y[known, i].astype(np.float64) * _FRACTION).astype(np.int64).sum()
        counts |= {
            _key(name, "entries"): len(bits),
            _key(name, "known"): int(known.sum()),
            _key(name, "sum"): int(total),
        }
    return counts


def _key(name: str, what: str) -> str:
    return f"label {name}: {what}"


def describe(
    names: tuple[str, ...], counts: Mapping[str, int]
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Return the manifest's entry of the labels, and the other counts.

    Args:
        names: Names of the labels.
        counts: Counts of all partitions, those of `counts_of` among them.

    Returns:
        "labels": label -> entries of training rows, share of them that is known, and mean of the known ones,
        if there are some. Empty without labels.
    """
    keys = {_key(name, what) for name in names for what in ("entries", "known", "sum")}
    others = {name: count for name, count in counts.items() if name not in keys}
    if not names:
        return {}, others
    entries = {}
    for name in names:
        entry_count, known, total = (counts.get(_key(name, k), 0) for k in ("entries", "known", "sum"))
        entries[name] = {
            "entries": entry_count,
            "known": known / max(entry_count, 1),
        } | ({"mean": total / _FRACTION / known} if known else {})
    return {"labels": entries}, others


def shares_of(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the share of the training targets where each label is known.

    Of a filled dataset also, by `FILLED` + label, the share where it is known or predicted.

    Args:
        entries: "labels" of a manifest; empty without labels.
    """
    shares = {name: float(entry["known"]) for name, entry in entries.items()}
    if not any("filled" in entry for entry in entries.values()):
        return shares
    filled = {f"{FILLED}{name}": shares[name] + entry.get("filled", 0.0) for name, entry in entries.items()}
    return shares | filled


def notes(labels: Sequence[Label], entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return notes on labels that cannot be learned: known nowhere, or of one value.

    Args:
        labels: Declared labels.
        entries: "labels" of `describe`.
    """
    out = []
    for label in labels:
        entry, where = (
            entries[label.name],
            f"label {label.name!r} (rule={label.rule!r}, hours={label.hours:g})",
        )
        total = f"{entry['entries']:,} training targets"
        if not entry["known"]:
            out.append(f"{where} is known for none of {total}: is its window longer than the log?")
        elif label.rule in ZERO_OR_ONE and entry["mean"] in (0, 1):
            out.append(f"{where} is {entry['mean']:g} wherever it is known among {total}")
    return out
