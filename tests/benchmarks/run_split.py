"""Compile steps of the tiny model at given sizes, for test_split.

The script is separate because the number of devices is fixed before jax starts.

    python run_split.py KIND,TITLES,WIDTH,BATCH ...

The script prints `benchmarks.lowered.account` of each program in turn, as JSON.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def main(*programs: str) -> None:
    from benchmarks.lowered import account, program_of

    out = []
    for program in programs:
        kind, *sizes = program.split(",")
        titles, width, batch = map(int, sizes)
        out.append(
            account(program_of(titles, width, batch, kind, spec=str(ROOT / "tests/end_to_end/small.py")))
        )
    print(json.dumps(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
