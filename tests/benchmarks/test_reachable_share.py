"""Share of the reachable: queries, the density of lists, and shares by hand."""

import numpy as np
import pytest

from benchmarks import reachable
from configs import smoe
from jaxrec.core.errors import InputError
from jaxrec.core.ids import DRAWN_LISTS
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation import baselines, metrics
from jaxrec.evaluation.statistics import paired
from jaxrec.sources import open_source


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Return (queries, dataset, truth, keys of titles) of a small simulated service."""
    config = smoe.get_config("small")
    config.source.users, config.source.test_only_users, config.source.titles = 200, 150, 200
    folder = tmp_path_factory.mktemp("reachable") / "D"
    ensure_dataset(config, folder)
    dataset, source = Dataset(folder), open_source(config.source, config.features)
    keys = source.titles().key
    return reachable.choose_queries(dataset, keys, 100), dataset, source.truth(), keys


def test_queries_are_of_distinct_users_and_name_the_titles_of_the_source(service):
    queries, dataset, _, keys = service
    assert len(np.unique(queries.user)) == len(queries.number) == 100
    assert reachable.choose_queries(dataset, keys, 10).number.tolist() != queries.number[:10].tolist()
    listed = baselines.candidates(queries.rows[queries.number], "disabled")[:, 0]
    title = reachable.listed_titles(queries, "disabled")
    assert (keys[title] == dataset.arrays.title_key[listed - 2]).all()
    assert (keys[queries.column] == dataset.arrays.title_key[dataset.arrays.id_of_rank - 2]).all()


def test_the_oracle_orders_the_lists_as_the_rows_do(service):
    """Times, users and titles of the queries are right, and q of the rows is taken apart and put together."""
    queries, dataset, truth, _ = service
    rows = reachable.of_truth(queries, dataset, truth, 8)
    of_queries = queries.rows[queries.number]
    for name in DRAWN_LISTS:
        stored = baselines.oracle(of_queries, name, shown_abandoned=False)[:, 0]
        expected = metrics.ndcg(metrics.rank(stored), 1)
        np.testing.assert_array_equal(rows["oracle"][f"{name} ndcg@1"], expected)
    means = {name: row["ndcg@10"].mean() for name, row in rows.items()}
    popular = reachable.of_popularity(queries, dataset)["ndcg@10"].mean()
    assert (
        popular < min(means["reachable"], means["reachable, half"]) and means["reachable"] < means["oracle"]
    )


def test_popularity_is_that_of_the_lists(service):
    queries, dataset, _, _ = service
    popular = reachable.of_popularity(queries, dataset)
    for name in DRAWN_LISTS:
        rows = queries.rows[queries.number]
        scores = baselines.popularity(rows, name, dataset.arrays)[:, 0]
        np.testing.assert_array_equal(popular[f"{name} ndcg@1"], metrics.ndcg(metrics.rank(scores), 1))


def test_shares_and_differences_by_hand():
    rows = {
        "popularity": [{"hr@10": np.array([0.0, 0.0, 1.0, 0.0])}],
        "model": [{"hr@10": np.array([1.0, 0.0, 1.0, 0.0])}, {"hr@10": np.array([0.0, 0.0, 1.0, 1.0])}],
        "reachable": [{"hr@10": np.array([1.0, 1.0, 1.0, 0.0])}],
    }
    of_model = reachable.compare(rows)["model"]["hr@10"]
    assert of_model["mean"] == 0.5 and of_model["share"] == pytest.approx(0.5)  # (.5 - .25) / (.75 - .25)
    assert of_model["less_reachable"] == pytest.approx(-0.25)
    assert of_model["interval"] == list(paired(np.array([-0.5, -1.0, 0.0, 0.5])).interval)


def test_groups_are_by_visible_plays():
    rows = {"model": [{"ndcg@10": np.array([1.0, 0.0, 0.5])}, {"ndcg@10": np.array([0.0, 0.0, 0.5])}]}
    groups = reachable.by_history(rows, np.array([0, 2, 11]))
    assert groups["0 to 2 plays"] == {"queries": 2, "model": 0.25}
    assert groups["11 or more plays"] == {"queries": 1, "model": 0.5}
    assert [*groups] == ["0 to 2 plays", "11 or more plays"]


def test_models_are_named():
    assert reachable.parse_models(["a=W0,W1", "b=B"]) == {"a": ["W0", "W1"], "b": ["B"]}
    for wrong in ("W0,W1", "=W0", "a=", "a=W0,,W1"):
        with pytest.raises(InputError, match="allowed: NAME=W0,W1"):
            reachable.parse_models([wrong])
