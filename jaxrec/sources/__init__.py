"""Readers of somebody's logs, each behind `schema.Source`; only the one asked for is imported.

`tables` reads CSV and Parquet by a map of columns, `kuairand` its official layout, `tfds` ratings of
TensorFlow Datasets, `simulator` an embedded service.
"""

from jaxrec import config
from jaxrec.schema import Source


def open_source(
    source: config.Simulator | config.Tables | config.KuaiRand | config.Tfds,
    features: tuple[config.Feature, ...],
    path: str = "",
) -> Source:
    """The reader of a config's `source`, which loads the columns that `features` declares. `path` is the
    config's data.path, the log of a Tables source that names none.

    Raises InputError where what can be checked before a row is read is wrong.
    """
    if isinstance(source, config.Simulator):
        from jaxrec.sources.simulator import SimulatorSource

        return SimulatorSource(source)
    if isinstance(source, config.Tables):
        from jaxrec.sources.tables import TablesSource

        return TablesSource(source, features, path)
    if isinstance(source, config.KuaiRand):
        from jaxrec.sources.kuairand import KuaiRandSource

        return KuaiRandSource(source, features)
    from jaxrec.sources.tfds import TfdsSource

    return TfdsSource(source, features)
