"""What every benchmark's command shares: its flags, and its result as a table and as JSON.

A benchmark's module ends with

    if __name__ == "__main__":
        run(main, *declare)

where `main(flags) -> Report`. `python -m benchmarks.<name>` prints the table; `--json F` also writes
the figures with the machine they were measured on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.measure import machine
from jaxrec.cli import app
from jaxrec.core.json_io import write_json
from jaxrec.runtime import host_memory


@dataclass(frozen=True)
class Report:
    """`figures` for a reader that is a program; `rows` (what, figure, beside what) for one that is not."""

    title: str
    figures: dict[str, Any]
    rows: list[tuple[str, str, str]]

    def table(self) -> str:
        head = f"## {self.title}\n\n| what | figure | beside |\n|---|---|---|\n"
        return head + "\n".join(f"| {' | '.join(row)} |" for row in self.rows)


def spread(figure: dict[str, float], unit: str = "", digits: int = 2) -> str:
    """ "median (least to most) unit", with thousands apart."""
    text = f"{figure['median']:,.{digits}f} ({figure['least']:,.{digits}f} to {figure['most']:,.{digits}f})"
    return f"{text} {unit}".strip()


def _json_flag() -> None:
    flags.DEFINE_string("json", "", "a file to write the figures to, as one JSON object")


def run(main: Callable[[flags.FlagValues], Report], *declare: Callable[[], None]) -> None:
    """Declares flags, runs `main`, prints and writes its report, and exits; see jaxrec.command.run."""

    def reported(found: flags.FlagValues) -> int:
        # As `train` and `evaluate` do; peers in this process gain by it too.
        host_memory.retain_freed_memory()
        report = main(found)
        print(report.table(), flush=True)
        if found.json:
            result = {"benchmark": report.title, "machine": machine(), **report.figures}
            write_json(Path(found.json), result)
        return 0

    app.run(reported, _json_flag, *declare)
