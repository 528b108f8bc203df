"""Lines of outputs of sequences: the cache of keys and values, narrow scores, and heads on states."""

from tests.broken.line import Line

_CACHE = "jaxrec/models/sequences/position_cache.py"
_MODEL = "jaxrec/models/next_item.py"
_CACHE_TESTS = "tests/models/test_position_cache.py"
_ONE_BY_ONE = f"{_CACHE_TESTS}::test_positions_one_by_one_equal_a_pass_over_the_whole_window"
_PROJECTED = "tests/models/test_next_item_model.py::test_projected_scores_are_products_of_projected_outputs"
_TASK = "jaxrec/tasks/next_item.py"
_HEADS = "tests/tasks/test_token_inputs.py::test_states_of_queries_are_scored_by_their_heads"
_OF_STATES = "tests/evaluation/labels/test_of_states.py"

LINES = (
    Line(
        "a column is written where the next one begins",
        _CACHE,
        "at = cache.length if cache.summaries is None else span + cache.length % span",
        "at = cache.length if cache.summaries is None else span + (cache.length + 1) % span",
        (f"{_ONE_BY_ONE}[sasrec-4]",),
    ),
    Line(
        "a dense cache counts its columns",
        _CACHE,
        "return PositionCache(_padded(first, capacity), None, jnp.int32(length))",
        "return PositionCache(_padded(first, capacity), None, jnp.int32(length - 1))",
        (f"{_ONE_BY_ONE}[sasrec-0]",),
    ),
    Line(
        "the summary of a chunk is at its own index",
        _CACHE,
        "index = jnp.maximum(cache.length // span - 2, 0)",
        "index = jnp.maximum(cache.length // span - 1, 0)",
        (f"{_ONE_BY_ONE}[hstu-4]",),
    ),
    Line(
        "distances count from the first of the two chunks",
        _CACHE,
        "jnp.concatenate([ends, (length // span - 1) * span + columns])",
        "jnp.concatenate([ends, (length // span) * span + columns])",
        (f"{_ONE_BY_ONE}[hstu-4]",),
    ),
    Line(
        "an index of positions has no cache",
        _MODEL,
        'if self.config.position == "index":\n            raise ValueError(',
        'if self.config.position == "none!":\n            raise ValueError(',
        (f"{_CACHE_TESTS}::test_models_that_cannot_be_cached_are_refused",),
    ),
    Line(
        "an output from the cache is projected",
        _MODEL,
        "return self._outputs(h_Bx1xD), extended",
        "return h_Bx1xD, extended",
        (f"{_CACHE_TESTS}::test_outputs_from_the_cache_are_projected_as_those_of_a_whole_pass",),
    ),
    Line(
        "scored vectors are projected by the projection of titles",
        _MODEL,
        "vectors = self.of_title(catalogue[-1]) if self.config.project",
        "vectors = self.of_user(catalogue[-1]) if self.config.project",
        (f"{_PROJECTED}_and_titles",),
    ),
    Line(
        "projected outputs have length one with cosine",
        _MODEL,
        "return _normalize(h_BxLxD) if self.config.cosine else h_BxLxD",
        "return h_BxLxD",
        (f"{_PROJECTED}_and_titles",),
    ),
    Line(
        "states of queries are those of the newest position",
        _TASK,
        "self.model, params)(h_BxLxD[:, -1:])",
        "self.model, params)(h_BxLxD[:, :1])",
        (_HEADS,),
    ),
    Line(
        "a query that is padding has no label",
        _TASK,
        'jnp.where(jnp.asarray(host.valid)[:, None], rows["target"], PAD)',
        'rows["target"]',
        (_HEADS,),
    ),
    Line(
        "titles without a weight choose no checkpoint",
        _TASK,
        'return Protocols((), (LABELS, "auc"))',
        'return Protocols((), (CATALOGUE, "ndcg@10"))',
        (f"{_OF_STATES}::test_the_validation_of_labels_alone_is_their_auc",),
    ),
    Line(
        "a category that no title has is never right",
        "jaxrec/evaluation/labels/of_states.py",
        "        has[:, 0] = False\n",
        "        has[:, 0] = True\n",
        (f"{_OF_STATES}::test_metrics_of_categories_are_those_worked_out_by_hand",),
    ),
)
