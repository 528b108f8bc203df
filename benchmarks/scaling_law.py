"""Fit of a + b n^(-c) to the losses of runs of several sizes, with its residuals.

    python -m benchmarks.scaling_law --study S --by parameters|plays [--match d32] [--json F]
    python -m benchmarks.scaling_law --losses 1000:6.1,2000:5.9,4000:5.8,8000:5.75

The loss is the lowest validation loss of a run; the runs of one fit must measure it on alike queries. n is
the number of parameters without embeddings of titles, or the number of plays in the training rows. For a
given c the least squares of a and b are closed; c is found by a grid and golden sections. a and b are at
least 0. Hoffmann et al. (2022, arXiv 2203.15556) fit the sum of two such terms. A study is read in the folder
from which it was run, where its datasets are.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from benchmarks.command import Report, run
from benchmarks.run_costs import rows_of_study
from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.core.errors import InputError
from jaxrec.data.storage.dataset import Dataset
from jaxrec.data.storage.row_blocks import row_blocks
from jaxrec.tasks.loading import CHECKPOINTS, read_meta

_LEAST, _MOST = 0.01, 4.0  # exponents
_GRID, _SECTIONS = 200, 80
_GOLDEN = (5**0.5 - 1) / 2
_PAIR = re.compile(r"([0-9.eE+]+):([0-9.eE+-]+)")


class PowerLaw(NamedTuple):
    """a + b n^(-c), and the residuals [N] of the fitted losses."""

    a: float
    b: float
    c: float
    residuals: np.ndarray

    def __call__(self, n: np.ndarray) -> np.ndarray:
        return self.a + self.b * n**-self.c


def _linear(n: np.ndarray, loss: np.ndarray, c: float) -> tuple[float, float]:
    """Return a and b of the least squares for an exponent, both at least 0."""
    x = n**-c
    centred = x - x.mean()
    b = float(centred @ loss / (centred @ centred))
    a = float(loss.mean() - b * x.mean())
    if b < 0:
        return float(loss.mean()), 0.0
    return (a, b) if a >= 0 else (0.0, float(x @ loss / (x @ x)))


def fit_power_law(n: np.ndarray, loss: np.ndarray) -> PowerLaw:
    """Return the least squares of a + b n^(-c).

    Args:
        n: [N] sizes above 0.
        loss: [N] losses.

    Raises:
        InputError: There are fewer than four runs, or fewer than three sizes.
    """
    n, loss = np.asarray(n, np.float64), np.asarray(loss, np.float64)
    if len(n) < 4 or len(np.unique(n)) < 3:
        raise InputError(
            f"{len(n)} runs of {len(np.unique(n))} sizes; allowed: 4 runs of 3 sizes, for 3 parameters"
        )
    if not (np.isfinite(loss).all() and (n > 0).all()):
        raise InputError(f"sizes {n.tolist()} and losses {loss.tolist()}; allowed: numbers, sizes above 0")
    scale = float(np.exp(np.log(n).mean()))  # so that powers are near 1
    x = n / scale

    def error(log_c: float) -> float:
        c = float(np.exp(log_c))
        a, b = _linear(x, loss, c)
        return float(((loss - a - b * x**-c) ** 2).sum())

    grid = np.linspace(np.log(_LEAST), np.log(_MOST), _GRID)
    best = int(np.argmin([error(log_c) for log_c in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)]
    for _ in range(_SECTIONS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, right) if error(left) <= error(right) else (left, high)
    c = float(np.exp((low + high) / 2))
    a, b = _linear(x, loss, c)
    return PowerLaw(a, b * scale**c, c, loss - a - b * x**-c)


def _flags() -> None:
    flags.DEFINE_string("study", "", "folder of a study: its rows with a finished run")
    flags.DEFINE_string("match", "", "rows whose names hold this text; empty: all")
    flags.DEFINE_enum("by", "parameters", ["parameters", "plays"], "size of a run")
    flags.DEFINE_list("losses", [], "sizes and losses, such as 1000:6.1,2000:5.9, in place of a study")


def parameters_of(workdir: Path) -> int:
    """Return the number of parameters of a run without embeddings of titles."""
    with Checkpointer(workdir / CHECKPOINTS) as checkpoints:
        params = checkpoints.restore_on_host("last", "params")
    return sum(
        int(np.size(x)) for name, x in params.items() if not re.search(r"(title|scored)/.*embedding$", name)
    )


def plays_of(workdir: Path) -> int:
    """Return the number of plays, or of tokens, in the training rows of a run's dataset."""
    with Checkpointer(workdir / CHECKPOINTS) as checkpoints:
        dataset = Dataset(read_meta(checkpoints, "last")["dataset_directory"])
    return sum(int((rows["title"] > 0).sum()) for rows in row_blocks(dataset.rows("train")))


def lowest_loss(workdir: Path) -> float:
    """Return the lowest validation loss of a run."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return min(line["loss"] for line in lines if line["split"] == "validation")


def _points(args: flags.FlagValues) -> dict[str, tuple[float, float]]:
    """Return name -> (size, loss).

    Raises:
        InputError: Neither or both of the flags are given, or a text is no pair.
    """
    if bool(args.losses) == bool(args.study):
        raise InputError("--losses and --study: give one of them")
    if args.losses:
        pairs = [_PAIR.fullmatch(text) for text in args.losses]
        if not all(pairs):
            raise InputError(
                f"--losses={','.join(args.losses)}; allowed: SIZE:LOSS, such as 1000:6.1,2000:5.9"
            )
        return {pair[0]: (float(pair[1]), float(pair[2])) for pair in pairs if pair}
    size_of = parameters_of if args.by == "parameters" else plays_of
    return {
        f"{row} {workdir.name}": (float(size_of(workdir)), lowest_loss(workdir))
        for row, workdirs in rows_of_study(Path(args.study)).items()
        if args.match in row
        for workdir in workdirs
    }


def main(args: flags.FlagValues) -> Report:
    """Return the fit and a line for each run; raise InputError as `fit_power_law` does."""
    points = _points(args)
    n, loss = (np.array(column) for column in zip(*points.values(), strict=True)) if points else ([], [])
    law = fit_power_law(np.asarray(n), np.asarray(loss))
    rows = [
        ("a + b n^(-c)", f"a {law.a:.4f}, b {law.b:.4g}, c {law.c:.4f}", f"{len(points)} runs"),
        ("root mean square of the residuals", f"{np.sqrt((law.residuals**2).mean()):.5f}", ""),
    ]
    for (name, (size, value)), residual in zip(points.items(), law.residuals, strict=True):
        rows.append((name, f"n {size:,.0f}, loss {value:.4f}", f"residual {residual:+.5f}"))
    figures = {"a": law.a, "b": law.b, "c": law.c, "points": points, "residuals": law.residuals.tolist()}
    return Report("Loss by size", figures, rows)


if __name__ == "__main__":
    run(main, _flags)
