"""report.html: the report of one run, a self-contained page made from the files of its workdir."""

from jaxrec.core.json_io import write_text
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.reporting.pages import context, labels, quality, slices
from jaxrec.reporting.pages.elements import Html, page, section, section_key, tag
from jaxrec.reporting.pages.run_files import RunFiles, read_run

REPORT = "report.html"


def run_page(run: RunFiles) -> str:
    """Return the report of a run as HTML.

    Args:
        run: Contents of the workdir.
    """
    result = run.result
    text = f"{result['which']} checkpoint, step {result['step']:,}; {result['split']} split of dataset "
    seconds = result.get("seconds")
    took = f"; took {seconds:,.0f} s" if seconds is not None else ""
    introduction = Html(
        tag("p", f"{text}{str(result['dataset'])[:12]}{took}", class_="note") + quality.cards(run)
    )
    contents = {
        "Candidate lists": quality.candidate_lists(run),
        "All titles": quality.catalogue(run),
        "Groups of queries": quality.breakdowns(run),
        "Slices": slices.slices(run),
        "Labels": labels.labels(run),
        "Calibration": quality.calibration(run),
        "Gate": quality.gate(run),
        "Training": context.training(run),
        "Example users": context.example_users(run),
        "Data": context.data(run),
        "Details": context.details(run),
    }
    sections = {name: section(section_key(name), name, content) for name, content in contents.items()}
    return page(str(result["name"]), introduction, sections)


def write_run_page(workdir: str | AnyPath, out: str | AnyPath = "") -> AnyPath:
    """Write the report of a run.

    Args:
        workdir: Folder of the run.
        out: File to write; empty: report.html in the workdir.

    Returns:
        The path of the page.

    Raises:
        InputError: The workdir holds no result.
    """
    path = as_path(out) if out else as_path(workdir) / REPORT
    write_text(path, run_page(read_run(workdir)))
    return path
