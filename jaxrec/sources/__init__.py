"""Readers of interaction logs, each a `core.tables.Source` imported on use.

`tables` reads CSV and Parquet by a map of columns, `kuairand` the official KuaiRand layout, `tfds` ratings of
TensorFlow Datasets, and `simulator` generates the log of a simulated service.
"""

from jaxrec.config import schema
from jaxrec.core.tables import Source


def open_source(
    source: schema.Simulator | schema.Tables | schema.KuaiRand | schema.Tfds,
    features: tuple[schema.Feature, ...],
    path: str = "",
) -> Source:
    """Open the reader of a config's `source`.

    Args:
        source: The config's `source`.
        features: Declared features, whose columns are loaded.
        path: The config's data.path, the log of a Tables source without `interactions`.

    Raises:
        InputError: The source is invalid, as far as can be checked without reading a row.
    """
    if isinstance(source, schema.Simulator):
        from jaxrec.sources.simulator.source import SimulatorSource

        return SimulatorSource(source)
    if isinstance(source, schema.Tables):
        from jaxrec.sources.tables import TablesSource

        return TablesSource(source, features, path)
    if isinstance(source, schema.KuaiRand):
        from jaxrec.sources.kuairand import KuaiRandSource

        return KuaiRandSource(source, features)
    from jaxrec.sources.tfds import TfdsSource

    return TfdsSource(source, features)
