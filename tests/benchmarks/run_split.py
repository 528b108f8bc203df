"""Compiles steps of the tiny model at given sizes, for test_split; a script of its own, because the number of
devices is fixed before JAX starts.

    python run_split.py KIND,TITLES,WIDTH,BATCH ...

Prints `benchmarks.lowered.account` of each in turn, as JSON.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def main(*asked: str) -> None:
    from benchmarks.lowered import account, program_of

    out = []
    for one in asked:
        kind, *sizes = one.split(",")
        titles, width, batch = map(int, sizes)
        out.append(account(program_of(titles, width, batch, kind, spec=str(ROOT / "configs/tiny.py"))))
    print(json.dumps(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
