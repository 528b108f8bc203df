"""Requests of a dataset by their position in the session, and the events before them.

    python -m benchmarks.session_positions --data D [--split test] [--json F]

The dataset has data.session above 0, so that its rows hold the position of their request.
"""

import numpy as np
from absl import flags

from benchmarks.command import Report, run
from jaxrec.core.errors import InputError
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation.sessions import tails
from jaxrec.evaluation.sessions.of_session import positions


def _flags() -> None:
    flags.DEFINE_string("data", None, "folder of a dataset with sessions", required=True)
    flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "split of the rows")


def main(args: flags.FlagValues) -> Report:
    dataset = Dataset(args.data)
    if not dataset.layout.session:
        raise InputError(f"--data={args.data}: allowed: a dataset with data.session above 0")
    rows = dataset.rows(args.split).all()
    (of_position, _), names = positions(rows)
    length = tails.lengths(rows)
    counts = np.bincount(of_position, minlength=len(names) - 1)
    figures = {name: float(n / len(rows)) for name, n in zip(names, counts, strict=False)}
    figures["without an event"] = float((length == 0).mean())
    figures["events"] = float(length.mean())
    lines = [(f"position {name}", f"{figures[name]:.1%}", f"{n:,} requests") for name, n in
             zip(names, counts, strict=False)]  # fmt: skip
    lines.append(("requests without an event before them", f"{figures['without an event']:.1%}", ""))
    lines.append(("stored events before a request, mean", f"{figures['events']:.2f}", ""))
    for name, share in tails.target_events(rows, dataset.layout).items():
        if name != "seconds":
            lines.append((f"requests with a {name} of their target before them", f"{share:.1%}", ""))
    title = f"Sessions of {len(rows):,} {args.split} requests"
    return Report(title, {"metrics": figures}, lines)


if __name__ == "__main__":
    run(main, _flags)
