"""One ranker for search, similar titles and the home page (UniCoRn; arXiv 2408.10394).

python -m jaxrec.train --config configs/unicorn.py --workdir W
python -m jaxrec.evaluate --checkpoint W --lists catalogue --slices canvas

On the simulated service a fifth of the plays is searched for, by a prefix of the title's name or by a genre,
and a fifth of them comes from the page of the last title liked. The canvas, the query and the title of the
page are contexts of one model; a missing query reads the name of the page's title. Training hides each
context of one request in ten, and a quarter of the negatives of a search match its query. Targets are all
first plays, abandoned or not, so that the truth of a query is exact: the table by canvas has the oracle, and
orders by text alone.

`small` has the size of configs/smoe.py:small with half the users, `tiny` that of configs/tiny.py.
Neither has a measured result yet: docs/unicorn.md describes the parts and the study.
"""

from configs import smoe, tiny
from jaxrec.config import Config, Evaluate, Feature, Optimizer, Simulator, Train
from jaxrec.core.errors import InputError

CANVAS, QUERY, SOURCE = "canvas", "query", "source"  # contexts


def contexts(width: int) -> tuple[Feature, ...]:
    """Return the names of titles and the contexts of canvases; the text is twice as wide as the source."""
    return (
        Feature("name", "text", "title", width=2 * width),
        Feature(CANVAS, "category", "context", width=width, impute="most_frequent"),
        Feature(QUERY, "text", "context", width=2 * width, impute=f"name_of:{SOURCE}"),
        Feature(SOURCE, "title", "context", width=width),
    )


def with_canvases(config: Config, width: int) -> Config:
    """Return a config of the simulated service with three canvases, which its model reads."""
    assert isinstance(config.source, Simulator)
    config.source.search = config.source.similar = 0.2
    config.features = (*config.features, *contexts(width))
    config.data.targets, config.data.matching = "every", 16
    config.sampling.matching, config.sampling.context_dropout = 5, 0.1
    config.model.cross = 2
    config.objective.ranking_loss = "softmax"
    return config


def get_config(scale: str = "small") -> Config:
    """Return the config for "small" or "tiny"."""
    if scale == "tiny":
        config = with_canvases(tiny.get_config(), 4)
        config.name = "unicorn-tiny"
        return config
    if scale == "small":
        config = Config(
            name="unicorn-small",
            source=Simulator(users=10_000, test_only_users=10_000),
            features=smoe.features(32),
            model=smoe.small_model(dropout=0.1),
            optimizer=Optimizer(learning_rate=3e-3),
            train=Train(duration="6 epochs", batch_size=256),
            evaluate=Evaluate(batch_size=1024),
        )
        return with_canvases(config, 16)
    raise InputError(f"configs/unicorn.py:{scale}: the argument must be small or tiny")
