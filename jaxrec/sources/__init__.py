"""Readers of somebody's logs, each behind `schema.Source`; only the one asked for is imported.

`tables` reads CSV and Parquet by a map of columns, `kuairand` its official layout, `tfds` ratings of
TensorFlow Datasets, `simulator` an embedded service.
"""

from jaxrec.config import schema
from jaxrec.core.tables import Source


def open_source(
    source: schema.Simulator | schema.Tables | schema.KuaiRand | schema.Tfds,
    features: tuple[schema.Feature, ...],
    path: str = "",
) -> Source:
    """The reader of a config's `source`, which loads the columns that `features` declares. `path` is the
    config's data.path, the log of a Tables source that names none.

    Raises InputError where what can be checked before a row is read is wrong.
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
