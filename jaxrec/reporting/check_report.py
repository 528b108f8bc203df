"""Text of `prepare --check`: tables, roles, dropped rows, completions, sequences, proposals."""

from typing import Any

_BAR = 40  # characters of the longest bar of a histogram


def format_check(report: dict[str, Any]) -> str:
    """Return the text of a report, the JSON object that `prepare --check --json` prints."""
    lines: list[str] = []
    for name, table in report.get("tables", {}).items():
        lines += _table(name, table)
    if report.get("reasons"):
        lines += ["", "read as"]
        lines += [
            f"  {key} = {entry['value']!r}: {entry['reason']}" for key, entry in report["reasons"].items()
        ]
    if report.get("left_out"):
        lines += ["", "columns that are no features"]
        lines += [f"  {column}: {reason}" for column, reason in report["left_out"].items()]
    statistics = report["statistics"]
    lines += ["", *_rows(statistics), "", *_sequences(statistics)]
    if statistics["thresholds"]:
        lines += ["", *_completion(statistics), "", *_thresholds(statistics)]
    lines += ["", "proposed"]
    lines += [f"  {key} = {entry['value']!r}: {entry['reason']}" for key, entry in report["proposed"].items()]
    return "\n".join([*lines, "", f"next: {report['next']}"]).strip()


def _table(name: str, table: dict[str, Any]) -> list[str]:
    head = f"{name}: {table['pattern']}, {table['files']} file(s); the first {table['rows_read']:,} rows"
    lines = ["", head] + [
        f"  {key} = {entry['value']!r}: {entry['reason']}" for key, entry in table["format"].items()
    ]
    width = max(len(column["name"]) for column in table["columns"])
    for column in table["columns"]:
        distinct = "" if column["distinct"] is None else f"{column['distinct']:,} distinct, "
        lines.append(
            f"  {column['name']:<{width}}  {column['kind']:<16}  {column['missing']:>8,} missing  "
            f"{distinct}{', '.join(column['examples'])[:60]}"
        )
    return lines


def _rows(statistics: dict[str, Any]) -> list[str]:
    lines = [
        f"{statistics['rows']:,} rows from {statistics['first_day']} to {statistics['last_day']}, "
        f"{statistics['titles_played']:,} of {statistics['titles']:,} titles played"
    ]
    if statistics["one_in_users"] > 1:
        lines.append(f"the figures below and copies are of one in {statistics['one_in_users']} users")
    for reason, entry in statistics["dropped"].items():
        share = entry["rows"] / max(statistics["rows"], 1)
        lines.append(f"  dropped {entry['rows']:,} ({share:.1%}), {reason}: {entry['example']}")
    for name, signal in statistics.get("signals", {}).items():
        share = signal["read"] / max(statistics["rows"], 1)
        lines.append(f"  signal {name}: {signal['read']:,} events, {share:.3g} a row of the log")
        for reason, entry in signal["dropped"].items():
            lines.append(f"    dropped {entry['rows']:,}, {reason}: {entry['example']}")
    return lines


def _sequences(statistics: dict[str, Any]) -> list[str]:
    quantiles = ", ".join(f"{float(q):.0%} {n:,}" for q, n in statistics["titles_per_user"].items())
    return [
        f"{statistics['users']:,} users; titles per user, by quantile: {quantiles}",
        f"{statistics['examples']:,} examples in all splits together",
    ]


def _completion(statistics: dict[str, Any]) -> list[str]:
    histogram = statistics["completion_histogram"]
    most, width = max(histogram), 1 / len(histogram)
    return ["completion of the titles that users played"] + [
        f"  {i * width:.2f} to {(i + 1) * width:.2f}  {share:>6.1%}  {'#' * round(_BAR * share / most)}"
        for i, share in enumerate(histogram)
    ]


def _thresholds(statistics: dict[str, Any]) -> list[str]:
    lines = ["abandon_threshold  titles below  users with one  examples  hard slots filled"]
    for t in statistics["thresholds"]:
        lines.append(
            f"{t['threshold']:>17g}  {t['abandoned']:>12.1%}  {t['users']:>14.1%}  {t['examples']:>8,}  "
            f"{t['hard_fill']:>17.1%}"
        )
    return lines
