"""Lines that notice damage, and wrong or changed input."""

from tests.broken.line import Line

LINES = (
    # ------------------------------------------------------------ integrity
    Line(
        "a save looks whether its folder can be written",
        "jaxrec/checkpoints/checkpointer.py",
        "            check_writable(self._folder)\n",
        "            pass\n",
        ("tests/checkpoints/test_damaged_checkpoint.py",),
    ),
    Line(
        "a panic of Polars is an unreadable file",
        "jaxrec/sources/files.py",
        "(pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)",
        "(pl.exceptions.PolarsError, OSError)",
        ("tests/fuzz/test_fuzz.py",),
    ),
    Line(
        "numbers of a layout are not negative",
        "jaxrec/core/row_format.py",
        '            if value < 0:\n                raise InputError(f"layout.',
        '            if value < -(10**6):\n                raise InputError(f"layout.',
        ("tests/core/test_layout_numbers.py",),
    ),
    Line(
        "the traceback of metadata that cannot be written is hidden",
        "jaxrec/checkpoints/orbax_log.py",
        '("[process=", "Failed to write metadata", "Failed to update metadata")',
        '("[process=",)',
        ("tests/checkpoints/test_damaged_checkpoint.py",),
    ),
    Line(
        "words that mean missing are null",
        "jaxrec/sources/table.py",
        'return column if request.kind == "category" else pl.when(~is_word).then(column)',
        "return column",
        ("tests/sources/test_unusual_files.py",),
    ),
    Line(
        "values that float32 cannot hold",
        "jaxrec/sources/columns.py",
        "wrong = column.abs() > MAX_NUMBER",
        "wrong = column.abs() > 1e308",
        ("tests/sources/test_unusual_files.py",),
    ),
    Line(
        "a decimal among whole numbers is no whole number",
        "jaxrec/sources/columns.py",
        "exact = (column == column.floor()) &",
        "exact = (column == column) &",
        ("tests/sources/test_unusual_files.py",),
    ),
    Line(
        "titles' keys are compared",
        "jaxrec/tasks/loading.py",
        "differs = np.flatnonzero(keys != expected)",
        "differs = np.flatnonzero(keys != keys)",
        ("tests/evaluation/test_evaluator.py::test_a_dataset_whose_ids_mean_something_else_is_refused",),
    ),
    Line(
        "protocols are compared",
        "jaxrec/evaluation/per_user.py",
        "if seen and other_seen and seen != other_seen:",
        "if seen and other_seen and seen == 0:",
        ("tests/evaluation/test_per_user.py",),
    ),
    Line(
        "each file of a checkpoint is compared",
        "jaxrec/runtime/checksums.py",
        "if actual != expected:",
        'if actual["bytes"] != expected["bytes"]:',
        ("tests/checkpoints/test_damaged_checkpoint.py", "tests/data/storage/test_damaged_dataset.py"),
    ),
    Line(
        "an edited manifest",
        "jaxrec/data/storage/dataset.py",
        "if _CHECKSUM in manifest and sealed(manifest) != manifest:",
        "if _CHECKSUM in manifest and sealed(manifest) == {}:",
        ("tests/data/storage/test_damaged_dataset.py",),
    ),
    Line(
        "a skipped step leaves the state",
        "jaxrec/training/nonfinite.py",
        "jnp.where(is_finite, new, old), after, before)",
        "jnp.where(is_finite, new, new), after, before)",
        ("tests/training/test_nonfinite.py",),
    ),
    Line(
        "a file that grew",
        "jaxrec/data/storage/source_files.py",
        "all(before[key] == value for key, value in now.items())",
        'all(before[key] == value for key, value in now.items() if key == "file")',
        ("tests/data/storage/test_source_files.py", "tests/data/runners/test_notes.py"),
    ),
    Line(
        "a lock is exclusive",
        "jaxrec/runtime/locks.py",
        "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        ("tests/runtime/test_locks.py",),
    ),
    Line(
        "plays longer than the runtime are counted",
        "jaxrec/data/events/cleaning.py",
        "drops.add_kept(LONG, int(np.count_nonzero(seen > 2.0)))",
        "drops.add_kept(LONG, 0)",
        ("tests/data/runners/test_notes.py",),
    ),
)
