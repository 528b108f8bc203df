"""The configs of long histories: settings of the page, shapes of a step at full size, unknown arguments."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from configs.foundation import ARGUMENTS, LABELS_OF_USES, USES, get_config
from configs.study_foundation import ENCODER, ONE_PERCENT, SCALES, SHARES, WIDTHS
from jaxrec.config.loading import load_config, load_file
from jaxrec.config.serialization import digest
from jaxrec.config.validation import check
from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.row_format import FeatureSpec
from jaxrec.data.runners.partition_job import layout_of
from jaxrec.runtime.mesh import AXIS
from jaxrec.studies.plan import Study, every_run
from jaxrec.tasks.next_item import NextItemTask
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

FILE = Path(__file__).resolve().parents[2] / "configs" / "foundation.py"
STUDY = FILE.with_name("study_foundation.py")


@pytest.mark.parametrize("name", ARGUMENTS)
def test_it_passes_its_checks(name):
    config = load_config(f"{FILE}:{name}")
    check(config)
    assert config.name == f"foundation-{name.replace('_', '-')}"
    use = name.removeprefix("tiny_")
    assert bool(config.next_item.weight) == (use not in LABELS_OF_USES)
    assert bool(config.data.only) == (use == "country")


@pytest.mark.parametrize("name", ["small", "tokens", "tiny_uses", "tiny_list_add", "tiny_country"])
def test_a_step_traces_in_its_shapes(name):
    config = load_config(f"{FILE}:{name}")
    width = config.model.width
    specs = tuple(
        FeatureSpec(f.name, f.kind, f.where, f.width, 1002, max(f.most, 1)) for f in config.features
    )
    layout = layout_of(config, 1000, specs)
    task = NextItemTask(config, layout, 0.5, 10, 100)
    table = TitleTable(
        jax.ShapeDtypeStruct((1002, layout.columns("title", "category")), jnp.int32),
        jax.ShapeDtypeStruct((1002, 0), jnp.float32),
    )
    words = jax.ShapeDtypeStruct((8, layout.row_dtype().itemsize // 4), jnp.uint32)
    host = HostBatch(words, jax.ShapeDtypeStruct((8,), jnp.bool_))
    state = StateInit(task).abstract()
    step = TrainStep(task).gradients
    gradients, sums = jax.make_jaxpr(step, axis_env=[(AXIS, 1)], return_shape=True)(state, host, table)[1]
    heads = {f"loss_{head.name}" for head in config.objective.heads}
    assert set(sums) == {"loss"} | heads | (
        {"loss_next_item"} if heads and config.next_item.weight else set()
    )
    shapes = {x.shape for x in jax.tree.leaves(gradients)}
    assert (1002, width) in shapes and (config.model.experts[0].max_len, width) in shapes


def test_the_windows_are_mixed_and_the_targets_of_three_days():
    config = get_config()
    assert (config.sampling.window, config.sampling.latest_share) == ("mixed", 0.5)
    objective = config.next_item
    assert (objective.horizon_hours, objective.half_life_hours, objective.most) == (72.0, 24.0, 8)
    assert (config.model.width, config.model.experts[0].max_len, config.model.experts[0].num_layers) == (
        64,
        128,
        3,
    )
    assert get_config("tiny").model.attention_span == 4


def test_an_unknown_argument_of_long_histories_lists_those_there_are():
    with pytest.raises(
        InputError,
        match=r"foundation.py:large: the argument must be one of small, tokens, uses, thumb, list_add",
    ):
        get_config("large")


def test_the_study_has_its_claims_at_every_scale(tmp_path):
    of_scale = {scale: load_file(f"{STUDY}:{scale}", Study) for scale in SCALES}
    for scale, study in of_scale.items():
        assert study.name == f"foundation-{scale}"
        runs = every_run(study, study.default, 2, tmp_path)
        assert [run.name for run in runs] == 2 * ["next", "half_6", "multi", "half_72"]
        claims = [
            claim for claim in study.claims if claim.metric == "ndcg@10" and claim.lists != ("catalogue",)
        ]
        assert [claim.lists for claim in claims] == 3 * [("delay_48-0",)] + 3 * [("delay_0",)]
        assert all(claim.pairs[0][1] == "next" for claim in claims)
        assert [claim.margin for claim in claims] == 3 * [0.0] + 3 * [ONE_PERCENT]
    small, reduced = of_scale["small"].base, of_scale["reduced"].base
    assert reduced.source == small.source and reduced.evaluate == small.evaluate
    assert 2 * reduced.model.width == small.model.width
    with pytest.raises(InputError, match=r"study_foundation.py:large: the argument must be one of small"):
        load_file(f"{STUDY}:large", Study)


def test_uses_start_from_one_run_and_are_compared_with_each_alone(tmp_path):
    study = load_file(f"{STUDY}:reduced", Study)
    runs = {run.name: run for run in every_run(study, ("uses",), 1, tmp_path)}
    assert len(runs) == 1 + 3 * len(USES)
    first = runs["uses"].config
    for use in USES:
        alone, tuned, frozen = (runs[f"{use}_{way}"] for way in ("alone", "tuned", "frozen"))
        assert not alone.after and tuned.after == frozen.after == "uses"
        assert tuned.config.start.workdir == str(runs["uses"].workdir)
        assert frozen.config.start.freeze == ENCODER and not tuned.config.start.freeze
        assert 3 * tuned.config.optimizer.learning_rate == pytest.approx(alone.config.optimizer.learning_rate)
        own = alone.config.objective.heads, alone.config.next_item.weight, alone.config.data.only
        same = [(c.objective.heads, c.next_item.weight, c.data.only) for c in (tuned.config, frozen.config)]
        assert same == [own, own]
        assert digest(alone.config) == digest(tuned.config) == digest(frozen.config)
        if use in LABELS_OF_USES:  # on the dataset of the first run
            assert digest(alone.config) == digest(first)


def test_sizes_are_widths_by_numbers_of_users(tmp_path):
    study = load_file(f"{STUDY}:reduced", Study)
    runs = every_run(study, ("scaling",), 1, tmp_path)
    sizes = {(run.config.model.width, run.config.source.users) for run in runs}
    assert sizes == {(width, int(8_000 * share)) for width in WIDTHS for share in SHARES}
    assert all(run.config.features[0].width == run.config.model.width for run in runs)
