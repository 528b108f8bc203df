"""Tables in memory: polars, pandas, Arrow and dicts of columns; and a writer of result tables."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import polars as pl

from jaxrec.core.errors import InputError
from jaxrec.sources.finding import SUFFIXES, is_text


def to_frame(key: str, table: Any) -> pl.DataFrame:
    """Convert a table in memory to a frame.

    Args:
        key: Name of the table in error messages.
        table: polars DataFrame or LazyFrame, pandas DataFrame, Arrow table, or a dict of columns.

    Raises:
        InputError: The table is of another type, or its columns differ in length.
    """
    try:
        if isinstance(table, pl.DataFrame):
            return table
        if isinstance(table, pl.LazyFrame):
            return table.collect()
        if isinstance(table, Mapping):
            return pl.DataFrame([_series(str(name), column) for name, column in table.items()])
        if hasattr(table, "iloc"):  # pandas; its own conversion to Arrow needs pyarrow
            return pl.DataFrame([_series(str(name), table[name].to_numpy()) for name in table.columns])
        if hasattr(table, "__arrow_c_stream__"):
            return pl.DataFrame(table)
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise InputError(f"{key}: cannot be read as a table: {str(error).splitlines()[0]}") from error
    raise InputError(
        f"{key}: {type(table).__name__}; allowed: a table of polars, pandas or Arrow, or a dict of columns"
    )


def _series(name: str, column: Any) -> pl.Series:
    """Convert a column; missing values of an object column become null."""
    if isinstance(column, np.ndarray) and column.dtype.kind == "O":
        column = [None if value is None or value != value else value for value in column.tolist()]
    return pl.Series(name, column, strict=False)  # a list may mix whole and other numbers


class TableWriter:
    """Writer of one CSV or Parquet file, chunk by chunk, with bounded memory.

    The file appears complete when the block ends without an error, and not at all otherwise.

    Args:
        key: Name of the file's flag in error messages.
        path: File to write; its suffix is .csv or .parquet.

    Raises:
        InputError: The suffix or the folder is wrong.
    """

    def __init__(self, key: str, path: str) -> None:
        self._path = Path(path)
        if self._path.suffix not in SUFFIXES:
            raise InputError(f"{key}={path}: allowed: a file name that ends with {' or '.join(SUFFIXES)}")
        if not self._path.parent.is_dir():
            raise InputError(f"{key}={path}: the folder {self._path.parent} does not exist")
        self._chunks = 0

    def __enter__(self) -> "TableWriter":
        self._folder = Path(tempfile.mkdtemp(prefix=f".{self._path.name}.", dir=self._path.parent))
        return self

    def add(self, columns: Mapping[str, np.ndarray]) -> None:
        """Append rows; all chunks have the same columns."""
        frame = pl.DataFrame(dict(columns))
        if is_text(self._path.name):
            with (self._folder / "table").open("ab") as file:
                frame.write_csv(file, include_header=self._chunks == 0)
        else:
            frame.write_parquet(self._folder / f"{self._chunks:08d}.parquet")
        self._chunks += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                whole = self._folder / "table"
                if not is_text(self._path.name):
                    pl.scan_parquet(self._folder / "*.parquet").sink_parquet(whole)
                os.replace(whole, self._path)
        finally:
            shutil.rmtree(self._folder)
