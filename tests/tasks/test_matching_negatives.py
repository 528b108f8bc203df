"""Titles that match the text of a request take the places of the last negatives of a step."""

import jax.numpy as jnp
import numpy as np

from jaxrec.tasks.inputs.pool_negatives import choose_negatives

ROWS = {
    "pool_hard": [[10, 11], [10, 11], [10, 11]],
    "pool_hard_filled": [[0, 1], [0, 1], [0, 1]],
    "pool_trending": [[20, 21, 22], [20, 30, 31], [20, 21, 22]],
    "pool_tailing": [[40, 41], [40, 41], [40, 41]],
    "pool_random": [[50], [50], [50]],
    "pool_matching": [[30, 31, 32, 0], [20, 10, 33, 0], [0, 0, 0, 0]],
}


def test_matching_titles_come_first_and_the_pools_fill_the_rest():
    rows = {name: jnp.asarray(np.array(values)) for name, values in ROWS.items()}
    counts, plain = (1, 2, 1, 1), [[10, 20, 21, 40, 50], [10, 20, 30, 40, 50], [10, 20, 21, 40, 50]]
    assert choose_negatives(rows, counts, 0)[0].tolist() == plain
    negative, hard = choose_negatives(rows, counts, 0, 2)
    # 20 is among the trending titles too; 10 is a hard negative, which stays
    assert negative.tolist() == [[10, 20, 21, 30, 31], [10, 0, 30, 20, 10], plain[2]]
    assert hard.tolist() == choose_negatives(rows, counts, 0)[1].tolist()
    rotated = choose_negatives(rows, counts, 1, 2)[0]
    assert rotated[:, 3:].tolist() == [[32, 30], [33, 20], [40 + 1, 50]]
    more = choose_negatives(rows, counts, 0, 4)[0]
    assert more.tolist() == [[10, 30, 31, 32, 50], [10, 20, 10, 33, 50], plain[2]]
