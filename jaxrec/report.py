"""Write the page of a run again, or of several runs side by side, with tests.

Usage: python -m jaxrec.report W1 [W2 ...] [--out FILE]
"""

from typing import TYPE_CHECKING, Any

from absl import flags

from jaxrec.cli.app import UNUSED_LIBRARIES, hide_libraries, print_result, run
from jaxrec.cli.flags import json_flag
from jaxrec.core.errors import InputError
from jaxrec.core.paths import as_path

if TYPE_CHECKING:
    from jaxrec.reporting.pages.run_files import RunFiles


def _flags() -> None:
    flags.DEFINE_string(
        "out", "", "HTML file to write; empty: report.html in the workdir of a single run, comparison.html "
        "for several runs"
    )  # fmt: skip


def main(args: flags.FlagValues, first: str, *others: str) -> None:
    """Write the page and print its path.

    Raises:
        InputError: A workdir holds no result.
    """
    with hide_libraries(*UNUSED_LIBRARIES):  # tensorboardX imports them without need
        from jaxrec.reporting.pages.comparison_page import write_comparison_page
        from jaxrec.reporting.pages.run_files import read_run
        from jaxrec.reporting.pages.run_page import write_run_page

    if args.out and not as_path(args.out).parent.is_dir():
        raise InputError(f"--out={args.out}: the folder {as_path(args.out).parent} does not exist")
    workdirs = (first, *others)
    if not others:
        path = write_run_page(first, args.out)
    else:
        runs = [read_run(workdir) for workdir in workdirs]
        tests = [_paired_tests(runs[0], other) for other in runs[1:]]
        path = write_comparison_page(runs, tests, args.out or "comparison.html")
    print_result({"page": str(path), "runs": list(workdirs)}, str(path))


def _paired_tests(first: "RunFiles", other: "RunFiles") -> dict[str, Any] | str:
    """Return the tests of a run minus the first one, or the reason that there are none."""
    from jaxrec.evaluation import per_user

    try:
        return per_user.compare(
            *(per_user.read(one.workdir, one.result["split"], one.result["which"]) for one in (other, first))
        )
    except InputError as error:
        return str(error)


if __name__ == "__main__":
    run(main, json_flag, _flags, positional=("W1", "[W2 ...]"))
