"""Lines of raw files, configs and what is proposed for them."""

from tests.broken.line import Line

LINES = (
    # ------------------------------------------------------------ raw files
    Line(
        "the separator of several characters",
        "jaxrec/sources/text.py",
        "        block = block.replace(dialect.replaced, dialect.separator.encode())",
        "        pass",
        ("tests/sources/test_text.py",),
    ),
    Line(
        "types in the header of a RecBole file",
        "jaxrec/sources/text.py",
        'return [_TYPED.sub("", name) for name in names] if',
        "return [name for name in names] if",
        ("tests/sources/test_text.py",),
    ),
    Line(
        "nanoseconds",
        "jaxrec/sources/columns.py",
        '"ns": 1_000_000}',
        '"ns": 1_000}',
        ("tests/sources/test_text.py",),
    ),
    Line(
        "fractions of the runtime",
        "jaxrec/sources/tables.py",
        "return viewed * 60.0 * np.nan_to_num(runtime)",
        "return viewed * np.nan_to_num(runtime)",
        ("tests/sources/test_text.py",),
    ),
    Line(
        "newer fields of tables stay out of digests at their defaults",
        "jaxrec/config/serialization.py",
        "            del source[name]",
        "            pass",
        ("tests/sources/test_text.py",),
    ),
    Line(
        "the unit of watch times by the size of completions",
        "jaxrec/sources/proposals/units.py",
        "contradicted, best = best, min(every, key=score)",
        "contradicted, best = best, best",
        ("tests/sources/test_proposals.py",),
    ),
    Line(
        "a day as a number is no time",
        "jaxrec/sources/proposals/units.py",
        "if _FIRST_SECOND * factor <= median",
        "if median",
        ("tests/sources/test_proposals.py",),
    ),
    Line(
        "outcomes of a play are no features",
        "jaxrec/sources/proposals/features.py",
        'where == "context" and normalised(column) not in CONTEXT_NAMES',
        "False",
        ("tests/sources/test_proposals.py",),
    ),
    Line(
        "copies are no invalid rows",
        "jaxrec/data/runners/statistics.py",
        "if reason != COPY)",
        "if True)",
        ("tests/data/runners/test_log_statistics.py",),
    ),
    Line(
        "pools fit small catalogues",
        "jaxrec/data/runners/settings.py",
        "        if sum(widths) <= left:",
        "        if sum(widths) < left:",
        ("tests/data/runners/test_log_statistics.py",),
    ),
    Line(
        "reasons of a written config",
        "jaxrec/config/python_text.py",
        "k == name or k.startswith(",
        "k.startswith(",
        ("tests/config/test_python_text.py",),
    ),
    Line(
        "a batch larger than the data",
        "jaxrec/training/inputs/batch_size.py",
        "fitting = max(fitting // devices, 1) * devices",
        "fitting = max(fitting // devices, 1)",
        ("tests/training/test_dry_run.py::test_a_batch_larger_than_the_data_is_adapted",),
    ),
    Line(
        "bytes of the parameter table",
        "jaxrec/training/dry_run.py",
        "int(np.prod(leaf.shape)) * leaf.dtype.itemsize",
        "int(np.prod(leaf.shape))",
        ("tests/training/test_dry_run.py::test_the_parameter_table_of_a_small_tree",),
    ),
    Line(
        "the check's hard pools at a threshold",
        "jaxrec/data/runners/statistics.py",
        "filled += int(pool.filled.sum())",
        "filled += len(chunk)",
        ("tests/data/runners/test_log_statistics.py",),
    ),
)
