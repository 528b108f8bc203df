"""Run the corpus and print the share of right answers by door.

Usage: python -m tests.bad_inputs [--door tables] [--all] [--name TEXT]
"""

import argparse
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.bad_inputs import DOORS
from tests.bad_inputs.case import Case, Stock, fault_of
from tests.bad_inputs.stock import make_stock

_SECONDS = 120  # of one case; more is a hang


def _hang(*_):
    raise TimeoutError(f"more than {_SECONDS} s")


def _run(case: Case, folder: Path, stock: Stock) -> str:
    signal.signal(signal.SIGALRM, _hang)
    signal.alarm(_SECONDS)
    try:
        return fault_of(case, folder, stock)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)


def main() -> int:
    """Print every wrong answer, and the shares; return the number of wrong answers, at most 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--door", default="", choices=["", *DOORS])
    parser.add_argument("--name", default="", help="run the cases whose names hold this text")
    parser.add_argument("--stock", default="", help="folder of the stock, kept for further calls")
    parser.add_argument("--times", action="store_true", help="print the CPU time of each case")
    args = parser.parse_args()
    wrong_in_all, lines = 0, []
    with tempfile.TemporaryDirectory() as temporary:
        stock = make_stock(Path(args.stock or f"{temporary}/stock"))
        for door, cases in DOORS.items():
            selected = [c for c in cases if args.door in ("", door) and args.name in c.name]
            wrong = 0
            for i, case in enumerate(selected):
                folder = Path(temporary, door, str(i))
                folder.mkdir(parents=True)
                started = time.process_time()
                fault = _run(case, folder, stock)
                if args.times:
                    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
                    print(f"{time.process_time() - started:7.2f} s {peak:6} MB  {case.name}", flush=True)
                if fault:
                    wrong += 1
                    print(f"--- {door}: {case.name}: {fault}", flush=True)
            if selected:
                right = len(selected) - wrong
                lines.append(f"{door:<26}{right:>5} of {len(selected):>5} right, {right / len(selected):.1%}")
            wrong_in_all += wrong
    print("\n".join(lines))
    return min(wrong_in_all, 1)


if __name__ == "__main__":
    sys.exit(main())
