"""Inputs of row building in order of ranks, with ids that are not."""

import numpy as np

from jaxrec.config.schema import Config
from jaxrec.data.runners import partition_job
from jaxrec.data.storage.dataset import Arrays


def test_running_times_are_in_order_of_ranks():
    """Row 1 of the catalogue has the id 3 and is the most popular title."""
    arrays = Arrays(
        title_key=np.array(["a", "b", "c"]),
        title_runtime=np.array([10.0, 20.0, 30.0]),
        title_plays=np.array([0, 0, 5, 9, 7]),
        rank_of_id=np.array([5, 5, 2, 0, 1], np.int32),
        id_of_rank=np.array([3, 4, 2], np.int32),
        title_categories=np.zeros((5, 0), np.int32),
        title_numbers=np.zeros((5, 0), np.float32),
    )
    key_hash = np.array([100, 200, 300], np.uint64)  # here rows are in order of ids
    ranked = partition_job.rank(np.array([1, 2, 0]), 1, arrays, key_hash, None, Config(), 0)
    assert ranked.catalogue.runtime.tolist() == [20.0, 30.0, 10.0]
    assert ranked.catalogue.hash.tolist() == [200, 300, 100]
    assert ranked.catalogue.id_of_rank.tolist() == [3, 4, 2]
    assert ranked.rank_of_row.tolist() == [2, 0, 1] and ranked.rank_of_id.tolist() == [5, 5, 2, 0, 1]
