"""Readers of somebody's logs, each behind `schema.Source`; only the one asked for is imported.

`tables` reads CSV and Parquet by a map of columns, `kuairand` its official layout, `tfds` ratings of
TensorFlow Datasets, `simulator` an embedded service.
"""

from jaxrec import config
from jaxrec.errors import InputError
from jaxrec.schema import Source


def open_source(
    source: config.Simulator | config.Tables | config.KuaiRand | config.Tfds,
    features: tuple[config.Feature, ...],
) -> Source:
    """The reader of a config's `source`, which loads the columns that `features` declares.

    Raises InputError where what can be checked before a row is read is wrong.
    """
    if isinstance(source, config.Simulator):
        from jaxrec.sources.simulator import SimulatorSource

        return SimulatorSource(source)
    if isinstance(source, config.Tables):
        from jaxrec.sources.tables import TablesSource

        return TablesSource(source, features)
    if isinstance(source, config.KuaiRand):
        from jaxrec.sources.kuairand import KuaiRandSource

        return KuaiRandSource(source, features)
    from jaxrec.sources.tfds import TfdsSource

    return TfdsSource(source, features)


def check_source(run: config.Config) -> None:
    """Raises InputError where a run asks a source without watch time for what only watch time gives.

    Such a source trains STL with non-personalised negatives. Reads nothing but the config.
    """
    if not isinstance(run.source, config.Tfds):
        return
    why = "a Tfds source holds ratings, which do not say how much of a title was seen"
    asked = {
        "sampling.mix.hard": (run.sampling.mix.hard, "0, for nobody is known to have abandoned one"),
        "objective.personalised": (run.objective.personalised, "False, for Eq. 13 weighs by completion"),
        "objective.regression": (run.objective.regression, "0, for it predicts completion"),
    }
    for key, (value, allowed) in asked.items():
        if value:
            raise InputError(f"{key}={value!r} must be {allowed}: {why}")
    for i, feature in enumerate(run.features):
        if (feature.where, feature.name) == ("interaction", "completion"):
            raise InputError(f"features[{i}].name='completion' must be sessions or age: {why}")
