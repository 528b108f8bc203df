"""Text of `describe`: tables of signals, labels, rewards, tasks and features."""

from typing import Any

from jaxrec.core.ids import SPLITS

_LABELS_IN_TABLE = 8  # columns of a table of AUCs


def format_description(description: dict[str, Any]) -> str:
    """Return the text of a description, the JSON object that `describe --json` prints."""
    sample = f"{description['targets']:,} training targets of {description['users']:,} users"
    parts = [
        [description["dataset"]],
        _signals(description["signals"]),
        _labels(description["labels"]),
        _rewards(description["rewards"], sample),
        _tasks(description["tasks"]),
        _features(description["features"]),
        *_aucs(description, sample),
        _leaks(description["features"]),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _table(head: list[str], rows: list[list[str]], left: int = 1) -> list[str]:
    """Return aligned lines, the first `left` columns to the left and the others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        "  ".join(f"{cell:{'<' if i < left else '>'}{widths[i]}}" for i, cell in enumerate(row)).rstrip()
        for row in [head, *rows]
    ]


def _shown(value: float | None, form: str = ".4g") -> str:
    return "-" if value is None else f"{value:{form}}"


def _signals(signals: list[dict[str, Any]]) -> list[str]:
    if not signals:
        return ["no signals are declared"]
    rows = [
        [s["name"], s["value"], s["about"], f"{s['read']:,}", f"{s['kept']:,}", f"{s['rate']:.3g}"]
        for s in signals
    ]
    return _table(["signal", "value", "about", "events read", "kept", "read per row"], rows, left=3)


def _labels(labels: list[dict[str, Any]]) -> list[str]:
    if not labels:
        return ["no labels are declared"]
    head = ["label", "rule", "signal", "final after"]
    head += [f"{split}: {what}" for split in SPLITS for what in ("mean", "known")]
    rows = []
    for label in labels:
        hours = label["available_after_hours"]
        final = "own rule" if hours is None else f"{hours:g} h" if hours else "at the request"
        values = [label["splits"][split] for split in SPLITS]
        cells = [cell for v in values for cell in (_shown(v["mean"]), f"{v['known']:.1%}")]
        rows.append([label["name"], label["rule"], label["signal"], final, *cells])
    return _table(head, rows, left=3)


def _rewards(rewards: list[dict[str, Any]], sample: str) -> list[str]:
    if not rewards:
        return ["no rewards are declared"]
    head = ["reward", "version", "mean", "std", "known", "R^2 by user", "by title", "by both"]
    rows = [
        [r["name"], r["version"], _shown(r["mean"]), _shown(r["std"]), f"{r['known']:.1%}"]
        + [_shown(r["r2"][name], ".3f") for name in ("user", "title", "both")]
        for r in rewards
    ]
    note = f"rewards of {sample}; R^2 of shrunken means, each row predicted from four fifths of the others"
    return [*_table(head, rows, left=2), note]


def _tasks(tasks: list[dict[str, Any]]) -> list[str]:
    rows = [[t["name"], f"{t['weight']:g}", f"{t['known']:.1%}", _shown(t["normaliser"])] for t in tasks]
    return _table(["task", "weight", "known", "weight / known"], rows)


def _features(features: list[dict[str, Any]]) -> list[str]:
    rows = [[f["name"], f["kind"], f["where"], f["available"]] for f in features]
    return _table(["feature", "kind", "where", "available"], rows, left=4) if rows else []


def _aucs(description: dict[str, Any], sample: str) -> list[list[str]]:
    """Return tables of the AUC of each feature by label, and a note."""
    counts = description["binary_labels"]
    names = list(counts)
    measured = [f for f in description["features"] if "auc" in f]
    if not names or not measured:
        return []
    tables = []
    for first in range(0, len(names), _LABELS_IN_TABLE):
        columns = names[first : first + _LABELS_IN_TABLE]
        rows = [["positive targets", *(f"{counts[name]['positive']:,}" for name in columns)]]
        for feature in measured:
            cells = [_shown(feature["auc"][n], ".3f") + " leak?" * (n in feature["leaks"]) for n in columns]
            rows.append([feature["name"], *cells])
        tables.append(_table(["AUC of a feature alone", *columns], rows))
    tables[-1].append(
        f"AUC over {sample}, for labels of two values; categories by their rate among one half of the users, "
        "on the other half; numbers in their better direction"
    )
    return tables


def _leaks(features: list[dict[str, Any]]) -> list[str]:
    return [
        f"leak? feature {feature['name']!r} ({feature['where']}) has the AUC {feature['auc'][label]:.3f} for "
        f"label {label!r}: is it known before the request?"
        for feature in features
        for label in feature.get("leaks", ())
    ]
