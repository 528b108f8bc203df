"""Orders of all titles beside a model's: ranks of a loop, and those of text, source and truth by slice."""

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxrec.config.loading import load_config
from jaxrec.data.loading.left_out import LeftOutTitles
from jaxrec.data.runners.local import prepare
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation.references.orders import METRICS, catalogue_orders, means_by_slice, target_ranks
from jaxrec.evaluation.scorers import CatalogueOrder
from jaxrec.evaluation.slices.slicing import slice_queries
from jaxrec.reporting.tables.slices import slice_lines
from jaxrec.sources import open_source

TITLES, ROOT = 9, Path(__file__).resolve().parents[2]


def test_ranks_are_those_of_a_loop():
    r = np.random.default_rng(0)
    id_of_rank = 2 + r.permutation(TITLES).astype(np.int32)
    rank_of_id = np.full(TITLES + 2, TITLES + 2, np.int32)
    rank_of_id[id_of_rank] = np.arange(TITLES)
    arrays = SimpleNamespace(id_of_rank=id_of_rank, rank_of_id=rank_of_id)
    score = r.integers(0, 3, (6, TITLES)).astype(float)
    target = 2 + r.integers(0, TITLES, 6)
    history = np.where(r.random((6, 4)) < 0.7, 2 + r.integers(0, TITLES, (6, 4)), 0).astype(np.int32)
    history[0, 0] = target[0]  # a target competes in any case
    query = np.array([4, 0, 5])
    ranks = target_ranks(lambda q: score[q], query, target, arrays, LeftOutTitles.of_histories(history))
    for n, q in enumerate(query):
        own = rank_of_id[target[q]]
        before = [
            t
            for t in range(TITLES)
            if (-score[q, t], t) < (-score[q, own], own) and id_of_rank[t] not in history[q]
        ]
        assert ranks[n] == 1 + len(before)


@pytest.fixture(scope="module")
def config():
    config = load_config(str(ROOT / "configs/unicorn.py:tiny"))
    config.source.users, config.source.test_only_users = 150, 150
    config.source.search = config.source.similar = 0.35
    return config


@pytest.fixture(scope="module")
def dataset(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("canvases") / "data"
    prepare(open_source(config.source, config.features), config, str(folder))
    return Dataset(str(folder))


def test_the_truth_and_the_text_lead_on_their_canvases(config, dataset):
    rows = dataset.rows("test").all()
    ranks = CatalogueOrder(dataset.arrays.rank_of_id[rows["target"][:, 0]] + 1, np.zeros((len(rows), 1)))
    evaluation = SimpleNamespace(
        ranked=SimpleNamespace(by_order={"model": ranks}), rows=rows, row_index=None,
        result={"split": "test", "protocol": {"seen": "all"}},
    )  # fmt: skip
    loaded = SimpleNamespace(
        task=SimpleNamespace(layout=dataset.layout), arrays=dataset.arrays, config=copy.deepcopy(config)
    )
    orders = catalogue_orders(evaluation, dataset, loaded)
    assert [*orders] == ["model", "lexical", "matches", "source", "oracle"]
    (slicing,) = slice_queries(("canvas",), rows, dataset.layout, dataset.manifest["categories"])
    means = means_by_slice(slicing.group, len(slicing.names), orders)
    at = {name: i for i, name in enumerate(slicing.names)}
    assert {*at} == {"home", "similar", "search"} and {*means["oracle"]} == {*METRICS}
    hit = {name: values["hr@10"] for name, values in means.items()}
    search, similar, home = at["search"], at["similar"], at["home"]
    of_search = [hit[name][search] for name in ("oracle", "lexical", "matches", "model")]
    assert (np.diff(of_search) < 0).all() and of_search[2] > of_search[3] + 0.1
    assert hit["lexical"][home] == hit["matches"][home] == hit["source"][home]  # popularity
    assert hit["source"][similar] > hit["matches"][similar]
    assert all(hit["oracle"][i] == max(values[i] for values in hit.values()) for i in at.values())
    known = dataset.truth("test").rows
    assert np.array_equal(np.flatnonzero(~np.isnan(orders["oracle"])), known)
    part = {"slices": slicing.names, "orders": means, "metrics": {}, "queries": [1, 1, 1]}
    part["why"] = dict.fromkeys(
        ("unseen", "divergence", "divergence_by_chance", "history", "calibration", "new"), [None] * 3
    )
    lines = slice_lines({"by": {"canvas": part}, "against": None})
    assert sum("oracle" in line for line in lines) == 3 and lines[0].startswith("catalogue by canvas")
