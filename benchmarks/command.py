"""Entry point of all benchmarks: flags, and results as a table and as JSON.

A benchmark module ends with

    if __name__ == "__main__":
        run(main, *declare)

where `main(flags) -> Report`. `python -m benchmarks.<name>` prints the table; `--json F` also writes
the figures together with the description of the machine.
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
    """Result of a benchmark: `figures` for JSON, `rows` for the printed table.

    A row holds the name of a quantity, its value and what the value is compared with.
    """

    title: str
    figures: dict[str, Any]
    rows: list[tuple[str, str, str]]

    def table(self) -> str:
        """Return the Markdown table of the rows."""
        head = f"## {self.title}\n\n| quantity | figure | compared with |\n|---|---|---|\n"
        return head + "\n".join(f"| {' | '.join(row)} |" for row in self.rows)


def spread(figure: dict[str, float], unit: str = "", digits: int = 2) -> str:
    """Return "median (least to most) unit", with thousands separators."""
    text = f"{figure['median']:,.{digits}f} ({figure['least']:,.{digits}f} to {figure['most']:,.{digits}f})"
    return f"{text} {unit}".strip()


def _json_flag() -> None:
    flags.DEFINE_string("json", "", "file to write the figures to, as one JSON object")


def run(main: Callable[[flags.FlagValues], Report], *declare: Callable[[], None]) -> None:
    """Declare flags, run `main`, print and write its report, and exit.

    Args:
        main: Benchmark; receives the parsed flags.
        declare: Functions that declare flags; see `jaxrec.cli.app.run`.
    """

    def run_and_report(args: flags.FlagValues) -> int:
        # As in `train` and `evaluate`; peers in this process benefit as well.
        host_memory.retain_freed_memory()
        report = main(args)
        print(report.table(), flush=True)
        if args.json:
            result = {"benchmark": report.title, "machine": machine(), **report.figures}
            write_json(Path(args.json), result)
        return 0

    app.run(run_and_report, _json_flag, *declare)
