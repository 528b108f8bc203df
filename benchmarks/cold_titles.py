"""NDCG@10 on titles of few plays: rows of a study against its first row, with intervals.

    python -m benchmarks.cold_titles --study S [--against title] [--most_plays 20] [--json F]

S is the workdir of a study of next-item models, such as configs/study_codes.py. A test query counts if
training users played its target at most so many times. All titles are ranked but those that the user has
played. Differences are means of users over the seeds, with a 95% bootstrap interval over users, and the
smallest difference that so many users show with 80% power.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from benchmarks.command import Report, run
from jaxrec.core.errors import InputError
from jaxrec.core.ids import CATALOGUE
from jaxrec.evaluation import metrics, per_user
from jaxrec.evaluation.statistics import paired
from jaxrec.studies.chains import is_evaluated
from jaxrec.tasks.loading import default_checkpoint, load_checkpoint, open_dataset

_CUTOFF = 10


def _flags() -> None:
    flags.DEFINE_string("study", None, "workdir of a study", required=True)
    flags.DEFINE_string("against", "title", "row that the others are compared with")
    flags.DEFINE_integer("most_plays", 20, "most plays of a title by training users", lower_bound=0)


class Queries(NamedTuple):
    """Test queries of a run.

    Attributes:
        user: [Q] keys of the users.
        plays: [Q] plays of the target by training users.
        ndcg: [Q] NDCG@10 among all titles.
    """

    user: np.ndarray
    plays: np.ndarray
    ndcg: np.ndarray


def queries_of(workdir: Path) -> Queries:
    """Return the test queries of an evaluated run.

    Raises:
        InputError: The run was not evaluated on all titles by query, or on other rows.
    """
    results, loaded = per_user.read(workdir), load_checkpoint(workdir, default_checkpoint(workdir))
    dataset = open_dataset(loaded, None)
    rows = dataset.rows("test").all()
    user = dataset.user_keys("test")[rows["user"]]
    if CATALOGUE not in results.result or not np.array_equal(results.query_users, user):
        raise InputError(f"{workdir}: has no ranks among all titles of the test queries of its dataset")
    plays = loaded.arrays.title_plays[rows["target"][:, 0]]
    return Queries(user, plays, metrics.ndcg(results.of_query(CATALOGUE), _CUTOFF))


def difference(first: list[Queries], second: list[Queries], low: int, high: int) -> dict[str, float]:
    """Return the mean difference of users of two rows, seed by seed, with its interval.

    Args:
        first: Queries of each seed of a row.
        second: The same of the row that is subtracted.
        low: Least plays of a target.
        high: Most plays of a target.
    """
    seeds, values = [], []
    for a, b in zip(first, second, strict=True):
        is_chosen = (a.plays >= low) & (a.plays <= high)
        user, index = np.unique(a.user[is_chosen], return_inverse=True)
        if not len(user):
            raise InputError(f"no test query has a target of {low} to {high} plays; allowed: more plays")
        both = np.stack([a.ndcg[is_chosen], b.ndcg[is_chosen]])
        sums = np.stack([np.bincount(index, x, len(user)) for x in both])
        seeds.append(sums / np.bincount(index, minlength=len(user)))
        values.append(both.mean(1))
    per_seed = np.stack(seeds)  # [seeds, 2, users]
    compared = paired((per_seed[:, 0] - per_seed[:, 1]).mean(0))
    ours, theirs = np.mean(values, axis=0)
    return {
        "ndcg": float(ours), "against": float(theirs), "difference": compared.tests.mean,
        "low": compared.interval[0], "high": compared.interval[1], "visible": compared.smallest,
        "users": compared.tests.n, "queries": int(is_chosen.sum()),
    }  # fmt: skip


def main(args: flags.FlagValues) -> Report:
    """Compare the rows of a study on titles of few plays, and on all others."""
    folder = Path(args.study) / "runs"
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if args.against not in names:
        raise InputError(f"--against={args.against}; allowed: a row of {folder}: {', '.join(names)}")
    rows = {
        name: {run.name: queries_of(run) for run in (folder / name).glob("seed-*") if is_evaluated(run)}
        for name in names
    }
    most, limit = args.most_plays, np.iinfo(np.int64).max
    groups = {f"at most {most} plays": (0, most), f"more than {most} plays": (most + 1, limit)}
    figures, table = {}, []
    for name in names:
        seeds = sorted(rows[name].keys() & rows[args.against].keys())
        own, other = ([rows[row][seed] for seed in seeds] for row in (name, args.against))
        for group, (low, high) in groups.items() if seeds and name != args.against else ():
            x = figures[f"{name}, {group}"] = difference(own, other, low, high)
            table.append((
                f"{name}, {group}", f"{x['difference']:+.4f} [{x['low']:+.4f}, {x['high']:+.4f}]",
                f"{x['against']:.4f} of {args.against}; {x['queries']:,} queries of {x['users']:,} users, "
                f"{len(seeds)} seeds; visible {x['visible']:.4f}",
            ))  # fmt: skip
    return Report(f"NDCG@{_CUTOFF} on titles of few plays", {"differences": figures}, table)


if __name__ == "__main__":
    run(main, _flags)
