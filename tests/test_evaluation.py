"""A split's scores are the same however many queries are scored at a time."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import scoring
from jaxrec.batch import queries
from jaxrec.parallel import replicate
from jaxrec.schema import FIRST_TITLE
from jaxrec.step import Program, means


def test_scores_do_not_depend_on_how_many_at_a_time(tiny, tiny_config, monkeypatch):
    program = Program(tiny_config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    params, table = replicate(program.init().params), replicate(tiny.arrays.title_table())
    rows, sizes = tiny.rows("test"), []
    batches = scoring.PackedEvalBatches

    def noted(rows, size, *share):
        sizes.append(size)
        return batches(rows, size, *share)

    monkeypatch.setattr(scoring, "PackedEvalBatches", noted)

    def scored(queries):
        monkeypatch.setattr(scoring, "_CPU_QUERIES", queries)
        return scoring.Scorer(program, table, with_loss=True, next_k=1)(params, rows)

    (many, many_gate, many_sums), (few, gate, few_sums) = scored(1000), scored(24)
    assert sizes == [tiny_config.evaluate.batch_size, 24 * jax.device_count()]
    assert rows.rows % 24  # the last batch is padded
    assert many.shape == few.shape == (rows.rows, 2, 1, 1 + tiny.layout.negatives)
    assert np.allclose(many, few, atol=1e-6) and np.allclose(many_gate, gate, atol=1e-6)
    assert gate.shape == (rows.rows, 2) and np.allclose(gate.sum(1), 1) and gate.std(0).max() > 1e-5
    assert np.isclose(means(many_sums)["loss"], means(few_sums)["loss"], rtol=1e-6)
    assert many_sums["loss"][1] == few_sums["loss"][1] == rows.rows

    plain = scoring.Scorer(program, table, with_loss=True, next_k=1)
    monkeypatch.setattr(plain, "_batches", lambda rows: scoring.EvalBatches(rows, 48))
    alone, alone_gate, alone_sums = plain(params, rows)
    assert np.allclose(alone_gate, gate, atol=1e-6)
    assert np.allclose(alone, few, atol=1e-6)  # every query has its own scores back
    assert np.isclose(means(alone_sums)["loss"], means(few_sums)["loss"], rtol=1e-6)
    assert abs(few[1:] - few[:-1]).max() > 1e-3

    one_by_one = scoring.Scorer(program, table, with_loss=True, next_k=1)
    monkeypatch.setattr(one_by_one, "_catalogue", lambda *given: None)
    own, _, own_sums = one_by_one(params, rows)
    assert scoring.catalogue(program, params, table, 24) is not None  # what the others read
    assert scoring.catalogue(program, params, table, 0) is None
    assert np.allclose(own, few, atol=1e-6)
    assert np.isclose(means(own_sums)["loss"], means(few_sums)["loss"], rtol=1e-6)


def test_ranks_among_all_titles_are_of_every_titles_score(tiny, tiny_config):
    """Packed and by several at a time, against scores of each query's targets and all titles in its lists."""
    program = Program(tiny_config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    params, table, rows = program.init().params, tiny.arrays.title_table(), tiny.rows("test")
    found = scoring.Ranker(program, replicate(table))(replicate(params), rows)

    @jax.jit
    def every(words):
        request = queries(words, program.view).history
        apply = partial(program.model.apply, {"params": params})
        user = apply(request, table, tiny_config.model.gate.temperature, method="encode")
        ids = jnp.broadcast_to(jnp.arange(tiny.layout.titles), (len(words), tiny.layout.titles))
        return apply(user, ids, table, method="score")["ranking"]

    scores = np.asarray(every(rows.read(np.arange(rows.blocks))))
    target = rows.all()["target"][:, :1]
    scores, own = scores[:, FIRST_TITLE:], np.take_along_axis(scores, target, axis=1)
    least, most = ((scores > own + d).sum(1) for d in (1e-6, -1e-6))
    assert found.shape == (rows.rows,) and len(np.unique(found)) > 10
    assert np.all((1 + least <= found) & (found <= most))
