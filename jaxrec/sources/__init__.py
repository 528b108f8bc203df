"""Readers of interaction logs, each a `core.tables.Source` imported on use.

`tables` reads CSV and Parquet by a map of columns, `kuairand` the official KuaiRand layout, `tfds` ratings of
TensorFlow Datasets, and `simulator` generates the log of a simulated service.
"""

from jaxrec.config import schema
from jaxrec.core.registry import resolve
from jaxrec.core.tables import Source


def open_source(
    source: schema.Source,
    features: tuple[schema.Feature, ...],
    path: str = "",
    signals: tuple[schema.Signal, ...] = (),
) -> Source:
    """Open the reader of a config's `source`.

    Args:
        source: The config's `source`.
        features: Declared features, whose columns are loaded.
        path: The config's data.path, the log of a Tables source without `interactions`.
        signals: Declared signals, for `Source.signals`; empty for a source that only gives plays.

    Raises:
        InputError: The source is invalid, as far as can be checked without reading a row.
    """
    return resolve(source.reader)(source, features, path, signals)
