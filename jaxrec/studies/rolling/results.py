"""Results of a rolling study: NDCG@10 by day and row, differences over users pooled over days, and costs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxrec.evaluation import statistics
from jaxrec.studies.rolling.day_metrics import DayMetrics
from jaxrec.studies.rolling.jobs import cost_of
from jaxrec.studies.rolling.plan import NEW, OLD, POPULAR, Comparison, Plan, RollingRow, evaluated_days

Evaluations = Mapping[tuple[str, int, int], DayMetrics]  # row, seed, day -> metrics


def compute_results(plan: Plan, test: Evaluations, validation: Evaluations) -> dict[str, Any]:
    """Return the content of study.json.

    Args:
        plan: The study's plan.
        test: Metrics on test users.
        validation: Metrics on validation users.
    """
    first = plan.rows[0].name
    selected = {POPULAR, *(row.name for row in plan.rows)}
    compared = [compare(plan, c, test) for c in plan.study.comparisons if {c.better, c.worse} <= selected]
    return {
        "study": plan.study.name,
        "days": plan.study.days,
        "seeds": list(plan.seeds),
        "rows": [_row_json(plan, row, test, validation) for row in plan.rows],
        "popular": _row_means(plan, plan.rows[0], test, "popular") | {"unplayed": None},
        "plays": {
            day: len(test[first, plan.seeds[0], day].user) for day in evaluated_days(plan.study, plan.rows[0])
        },
        "comparisons": [comparison for comparison in compared if comparison],
    }  # fmt: skip


def _row_json(plan: Plan, row: RollingRow, test: Evaluations, validation: Evaluations) -> dict[str, Any]:
    costs = [[cost_of(run) for run in _updates_of(plan, row, seed)] for seed in plan.seeds]
    flat = [cost for of_seed in costs for cost in of_seed]
    return {
        "row": row.name, "label": row.label, "model": row.model, "replay": row.replay,
        "updates": list(row.updates),
        "ndcg": _row_means(plan, row, test, "ndcg"),
        "validation": _row_means(plan, row, validation, "ndcg")["all"],
        "examples_of_update": float(np.mean([c.examples for c in flat])) if flat else 0.0,
        "seconds_of_update": float(np.mean([c.seconds for c in flat])) if flat else 0.0,
    }  # fmt: skip


def _updates_of(plan: Plan, row: RollingRow, seed: int) -> list[Any]:
    """Return the trainings of a row after day 0 that serve an evaluated day."""
    runs = [plan.in_force(row, seed, day) for day in evaluated_days(plan.study, row)]
    return [*{run.job: run for run in runs if run.day}.values()]


def _row_means(plan: Plan, row: RollingRow, evaluations: Evaluations, column: str) -> dict[str, Any]:
    """Return the mean NDCG@10 over seeds: of all plays, by day, on new and old titles; None without plays.

    "new_by_title" is the mean over the new titles, each once. "unplayed" is that of plays of titles that no
    training user had played before the model's training ended.
    """
    days = evaluated_days(plan.study, row)

    def mean(chosen: Sequence[int], ages: tuple[int, int] | None = None) -> float | None:
        values = [
            getattr(evaluations[row.name, seed, day], column)[_of_age(evaluations[row.name, seed, day], ages)]
            for seed in plan.seeds
            for day in chosen
        ]
        return float(np.concatenate(values).mean()) if sum(map(len, values)) else None

    of_row = [evaluations[row.name, seed, day] for seed in plan.seeds for day in days]
    kept = [_of_age(day_metrics, NEW) for day_metrics in of_row]
    title, values = (
        np.concatenate([getattr(x, name)[k] for x, k in zip(of_row, kept, strict=True)])
        for name in ("title", column)
    )
    first = np.concatenate([getattr(x, column)[x.known == 0] for x in of_row])
    return {
        "all": mean(days),
        "new": mean(days, NEW),
        "new_by_title": float(group_means(title, values).mean()) if len(title) else None,
        "unplayed": float(first.mean()) if len(first) else None,
        "old": mean(days, OLD),
        "by_day": {day: mean([day]) for day in days},
    }


def _of_age(day_metrics: DayMetrics, ages: tuple[int, int] | None) -> np.ndarray:
    if ages is None:
        return np.ones(len(day_metrics.age), bool)
    return (ages[0] <= day_metrics.age) & (day_metrics.age <= ages[1])


def compare(plan: Plan, comparison: Comparison, evaluations: Evaluations) -> dict[str, Any] | None:
    """Return the difference of two rows, over users and titles pooled over days, and over seeds.

    The difference of a play is its mean over seeds; that of a user, or of a title, is the mean of its plays.
    The result is None without a play that both rows are evaluated on.
    """
    rows = {row.name: row for row in plan.rows}
    better, worse = (_column(rows, name) for name in (comparison.better, comparison.worse))
    days = [
        day
        for day in evaluated_days(plan.study, rows[comparison.better])
        if (not comparison.days or day in comparison.days)
        and (comparison.worse == POPULAR or day in evaluated_days(plan.study, rows[comparison.worse]))
    ]
    users, titles, values = [], [], []
    for day in days:
        pairs = [
            (evaluations[comparison.better, seed, day], evaluations[_evaluated_row(comparison), seed, day])
            for seed in plan.seeds
        ]
        kept = _of_age(pairs[0][0], comparison.ages)
        users.append(pairs[0][0].user[kept])
        titles.append(pairs[0][0].title[kept])
        values.append(np.array([[better(a)[kept] for a, _ in pairs], [worse(b)[kept] for _, b in pairs]]))
    if not sum(map(len, users)):
        return None
    user, ndcg = np.concatenate(users), np.concatenate(values, axis=2)  # [2, seeds, plays]
    difference = ndcg[0] - ndcg[1]
    of_users, of_titles = (group_means(x, difference.mean(axis=0)) for x in (user, np.concatenate(titles)))
    of_seeds = statistics.over_seeds(difference.mean(axis=1))
    return {
        "name": comparison.name, "better": comparison.better, "worse": comparison.worse, "days": days,
        "ages": comparison.ages, "plays": len(user), "users": len(of_users), "titles": len(of_titles),
        "better_ndcg": float(ndcg[0].mean()), "worse_ndcg": float(ndcg[1].mean()),
        "over_plays": float(difference.mean()),
        "over_users": statistics.paired(of_users).to_json(),
        "over_titles": statistics.paired(of_titles).to_json(),
        "over_seeds": of_seeds._asdict(),
    }  # fmt: skip


def group_means(group: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the mean of the values [N] of each group, in the order of the groups.

    Args:
        group: [N] keys, such as those of users or titles.
        values: [N].
    """
    _, index = np.unique(group, return_inverse=True)
    return np.bincount(index, values) / np.bincount(index)


def _column(rows: Mapping[str, RollingRow], name: str) -> Callable[[DayMetrics], np.ndarray]:
    if name in rows:
        return lambda day_metrics: day_metrics.ndcg
    return lambda day_metrics: day_metrics.popular


def _evaluated_row(comparison: Comparison) -> str:
    """Return the row whose evaluations hold the values of `worse`: popularity is in those of every row."""
    return comparison.better if comparison.worse == POPULAR else comparison.worse
