"""Lines of title vectors mixed of id and metadata, and of cold masking."""

from tests.broken.line import Line

_TABLES = "tests/tasks/test_title_tables.py"
_ENTITY = "tests/models/test_entity.py"
_NEXT = f"{_TABLES}::test_a_masked_title_has_no_gradient_in_inputs_and_targets_of_the_next_item_task"

LINES = (
    Line(
        "a step masks the ids of titles",
        "jaxrec/training/train_step.py",
        "        table = masked_table(table, self.task.config, state.step)\n",
        "",
        (_NEXT,),
    ),
    Line(
        "a masked title has the unknown id",
        "jaxrec/models/layers/title_encoder.py",
        "known = jnp.where(jnp.take(table.masked, known, axis=0), UNKNOWN, known)",
        "pass",
        (_NEXT, f"{_ENTITY}::test_a_masked_title_has_the_unknown_id_on_every_path"),
    ),
    Line(
        "a masked title of a sharded table has the unknown id",
        "jaxrec/models/layers/title_encoder.py",
        "row_UxW = jnp.where(jnp.take(table.masked, ids, axis=0)[:, None], unknown_W, row_UxW)",
        "pass",
        (f"{_ENTITY}::test_a_masked_title_has_the_unknown_id_on_every_path",),
    ),
    Line(
        "masks are drawn by title",
        "jaxrec/tasks/inputs/title_tables.py",
        "rng.uniform((), key_Vx2, _LAYER) < probability_V",
        "rng.uniform((), key_Vx2[:1], _LAYER) < probability_V",
        (f"{_TABLES}::test_masking_falls_with_plays_and_is_drawn_by_seed_step_and_title",),
    ),
    Line(
        "the gate weighs the id, and its complement the metadata",
        "jaxrec/models/features/entity.py",
        "return g * id_vector + (1 - g) * (metadata @ kernel)",
        "return g * id_vector + metadata @ kernel",
        (f"{_ENTITY}::test_a_gate_of_age_and_plays_mixes_id_and_metadata",),
    ),
    Line(
        "an age is that of a title at the newest launch",
        "jaxrec/data/loading/title_maturity.py",
        "today = launch[arrays.title_plays > 0].max(initial=-np.inf)",
        "today = launch.max()",
        (f"{_TABLES}::test_maturity_has_ages_and_plays",),
    ),
)
