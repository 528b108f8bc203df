"""study.md of a rolling study: tables of NDCG@10 by day, of differences, and of costs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrec.core.json_io import write_text

_MEANS = ("all", "new", "new_by_title", "unplayed", "old")


def write(folder: Path, result: Mapping[str, Any]) -> None:
    """Write study.md of a result."""
    write_text(folder / "study.md", text_of(result))


def text_of(result: Mapping[str, Any]) -> str:
    """Return the tables of a result as Markdown."""
    days = [str(day) for day in range(1, result["days"] + 1)]
    plays = {str(day): count for day, count in result["plays"].items()}
    lines = [
        f"# {result['study']}",
        "",
        f"NDCG@10 among all titles, by the day after day 0; mean of {len(result['seeds'])} seeds. A title is "
        "new for 7 days, and old from 30 days on; `by title` is the mean over new titles, each once, and "
        "`unplayed` is of plays of titles that no training user had played before the training ended.",
        "",
        "| row | all | new | by title | unplayed | old | " + " | ".join(f"day {day}" for day in days) + " |",
        "|---|" + "---|" * (len(_MEANS) + len(days)),
    ]
    table = [(row["label"], row["ndcg"]) for row in result["rows"]]
    table.append(("popularity of the 7 days before", result["popular"]))
    for label, means in table:
        by_day = {str(day): value for day, value in means["by_day"].items()}
        cells = [_figure(means[name]) for name in _MEANS]
        cells += [_figure(by_day[day]) if day in by_day else "" for day in days]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines.append("| plays | | | | | | " + " | ".join(str(plays.get(day, "")) for day in days) + " |")
    lines += ["", *_comparisons(result), "", *_costs(result), ""]
    return "\n".join(lines)


def _comparisons(result: Mapping[str, Any]) -> list[str]:
    lines = [
        "| difference of NDCG@10 | days | plays, titles | of both | over users [95%] | visible | over titles "
        "[95%] | visible | over seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for c in result["comparisons"]:
        of_seeds = c["over_seeds"]
        units = " | ".join(_units(c[name]) for name in ("over_users", "over_titles"))
        days = f"{c['days'][0]} to {c['days'][-1]}" if len(c["days"]) > 1 else str(c["days"][0])
        both = f"{_figure(c['better_ndcg'])}, {_figure(c['worse_ndcg'])}"
        spread = f" (sd {of_seeds['sd']:.4f})" if of_seeds["n"] > 1 else ", one seed"
        lines.append(
            f"| {c['name']} | {days} | {c['plays']:,}, {c['titles']} | {both} | {units} | "
            f"{of_seeds['mean']:+.4f}{spread} |"
        )
    return lines


def _units(difference: Mapping[str, Any]) -> str:
    """Return the cells of a difference over users or titles: mean with interval, smallest visible one."""
    low, high = difference["interval"]
    return f"{difference['mean']:+.4f} [{low:+.4f}, {high:+.4f}] | {difference['smallest']:.4f}"


def _costs(result: Mapping[str, Any]) -> list[str]:
    lines = [
        "| row | NDCG@10 of validation users | examples of an update | seconds of an update |",
        "|---|---|---|---|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['label']} | {_figure(row['validation'])} | {row['examples_of_update']:,.0f} | "
            f"{row['seconds_of_update']:.1f} |"
        )
    return lines


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
