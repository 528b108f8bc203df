"""Fuzz the readers of tables, manifests, configs and checkpoints' metadata, guided by coverage.

Usage: python -m tests.fuzz --target manifest --seconds 3600 [--engine mutate] [--finds DIR]

The engine atheris (extra `fuzz`) measures the coverage of jaxrec. The engine mutate changes the stored inputs
at random, without coverage and without further packages. Each find is printed once, by the line that raised,
and its input is written to DIR, to become a stored input or a case of tests/bad_inputs.
"""

import argparse
import hashlib
import os
import random
import sys
import time
import traceback
from pathlib import Path


class Finds:
    """Undocumented errors, each once by the lines of jaxrec that raised it."""

    def __init__(self, target: str, folder: Path) -> None:
        """Collect finds of a target, and write their inputs to a folder."""
        self.target, self.folder, self.places, self.runs = target, folder, set[tuple], 0
        self.places = set()

    def __call__(self, data: bytes) -> None:
        """Run one input."""
        import polars as pl

        from tests.fuzz.targets import run

        self.runs += 1
        try:
            run(self.target, data)
        except (Exception, pl.exceptions.PanicException) as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = (type(error).__name__, frames[-1].filename, frames[-1].lineno)
            if place in self.places:
                return
            self.places.add(place)
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{self.target}-{hashlib.sha256(data).hexdigest()[:12]}"
            path.write_bytes(data)
            own = next((f for f in reversed(frames) if "jaxrec" in f.filename), frames[-1])
            where = f"{Path(own.filename).name}:{own.lineno}"
            print(f"FIND {path}: {type(error).__name__} at {where}: {str(error)[:200]}", flush=True)


def mutated(data: bytes, others: list[bytes], random_numbers: random.Random) -> bytes:
    """Return a changed copy of an input: bytes flipped, cut, repeated, or joined with another input."""
    out = bytearray(data or b"x")
    for _ in range(random_numbers.choice((1, 1, 2, 4, 16))):
        at, kind = random_numbers.randrange(len(out) or 1), random_numbers.randrange(6)
        length = random_numbers.choice((1, 2, 8, 64))
        if kind == 0 and out:
            out[at % len(out)] = random_numbers.randrange(256)
        elif kind == 1:
            del out[at : at + length]
        elif kind == 2:
            out[at:at] = out[at : at + length]
        elif kind == 3:
            words = (b"null", b"-1", b"[]", b"{}", b"1e999", b'"', b"\0", b"\xff", b"9" * 25, b",", b"\n")
            out[at:at] = random_numbers.choice(words)
        elif kind == 4:
            other = random_numbers.choice(others)
            first = random_numbers.randrange(len(other) or 1)
            out[at:at] = other[first : first + length]
        else:
            out[at : at + length] = random_numbers.randbytes(length)
    return bytes(out)


def main() -> int:
    """Fuzz for some seconds; return 1 where there is a find."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--target", required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--engine", choices=["atheris", "mutate"], default="atheris")
    parser.add_argument("--finds", type=Path, default=Path("finds"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    finds = Finds(args.target, args.finds)
    if args.engine == "atheris":
        return _atheris(args, finds)
    from absl import logging

    from tests.fuzz.targets import seeds

    logging.set_verbosity(logging.ERROR)
    numbers, stored = random.Random(args.seed), [*seeds(args.target).values()]
    end = time.monotonic() + args.seconds
    while time.monotonic() < end:
        finds(mutated(numbers.choice(stored), stored, numbers))
    print(f"{args.target}: {finds.runs:,} inputs, {len(finds.places)} finds", flush=True)
    return int(bool(finds.places))


def _atheris(args: argparse.Namespace, finds: Finds) -> int:
    try:
        import atheris
    except ModuleNotFoundError:
        print(
            "error: atheris is not installed; pip install 'jaxrec[fuzz]', or --engine mutate", file=sys.stderr
        )
        return 2
    with atheris.instrument_imports(include=["jaxrec"], enable_loader_override=False):
        from tests.fuzz.targets import SEEDS
    from absl import logging

    logging.set_verbosity(logging.ERROR)
    options = [f"-max_total_time={args.seconds:.0f}", "-timeout=60", "-rss_limit_mb=6000", "-verbosity=0"]
    # A new folder takes the inputs that reach new lines; the stored ones are read only.
    corpus = args.finds / f"corpus-{args.target}"
    corpus.mkdir(parents=True, exist_ok=True)

    def one(data: bytes) -> None:
        finds(data)
        if finds.runs % 10_000 == 0:
            print(f"{args.target}: {finds.runs:,} inputs, {len(finds.places)} finds", flush=True)

    atheris.Setup([sys.argv[0], *options, str(corpus), str(SEEDS / args.target)], one)
    atheris.Fuzz()  # ends the process
    return 0


if __name__ == "__main__":
    sys.exit(main())
