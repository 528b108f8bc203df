"""Rules of labels and encoders of other distributions, by entry points."""

import copy
import dataclasses
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.declarations import Label
from jaxrec.config.rules.declared.labels import check_labels, check_rules
from jaxrec.config.schema import Config, Expert, Model, Task
from jaxrec.config.validation import check
from jaxrec.core import registry
from jaxrec.core.batch import TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.models.next_item import ItemWindow, NextItemModel
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.train_state import StateInit

MODULE = '''
from jaxrec.data.labels.tables import add_saturating
from jaxrec.models.encoders.gru4rec import Gru4Rec, encode_positions as gru_positions


def weekday(anchors, events, titles, label):
    day = anchors.time // 86_400_000
    return (day + 3) % 7 < 5, anchors.title >= 0, anchors.time


class OwnGru(Gru4Rec):
    encode_positions = staticmethod(gru_positions)


class ForRanking(Gru4Rec):
    """An encoder without positions."""
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return `install(entries, name)`, which puts a distribution on the path of this process."""

    def write(entries: str, name: str = "own_rules"):
        folder = tmp_path / f"{name}-1.2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (folder / "entry_points.txt").write_text(entries)
        registry.entry_points.cache_clear()

    (tmp_path / "own_module_of_a_test.py").write_text(MODULE)
    (tmp_path / "broken_module_of_a_test.py").write_text("import no_such_module_of_a_test\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield write
    registry.entry_points.cache_clear()
    sys.modules.pop("own_module_of_a_test", None)


def test_an_own_rule_is_allowed_and_applied(install):
    from jaxrec.data.labels.extraction import extract
    from jaxrec.data.labels.tables import Anchors, Events, LabelTitles

    install("[jaxrec.labels]\nweekday = own_module_of_a_test:weekday\n")
    label = Label("work", "weekday")
    check_labels([label], (), ())
    check_rules([label])
    assert "own_module_of_a_test" not in sys.modules  # names are read without an import
    none = np.empty(0, np.int64)
    nothing = Events(none, none, none, none.astype(np.int8), none.astype(np.float32))
    days = np.array([0, 1, 2, 3, 4]) * 86_400_000  # 1970-01-01 is a Thursday
    anchors = Anchors(np.zeros(5, int), np.array([0, 0, 0, 0, -1]), days)
    values = extract(anchors, nothing, nothing, LabelTitles(np.ones(1), {}), [label], days[3])["work"]
    assert values.y.tolist() == [1, 1, 0, 0, 0]
    assert values.known.tolist() == [True] * 4 + [False]


def test_a_name_of_a_built_in_rule_is_one_line(install):
    install("[jaxrec.labels]\ncount = own_module_of_a_test:weekday\n")
    with pytest.raises(
        InputError, match=r"entry point 'count' = .* in own_rules 1.2 must not have the name of"
    ):
        check_rules([Label("x", "happened")])


def test_two_distributions_with_one_name_are_one_line(install):
    install("[jaxrec.labels]\nweekday = own_module_of_a_test:weekday\n")
    install("[jaxrec.labels]\nweekday = own_module_of_a_test:weekday\n", "other_rules")
    with pytest.raises(InputError, match=r"weekday.* in o.* 1.2 must not have the name of .* in o.* 1.2"):
        check_rules([Label("x", "weekday")])


@pytest.mark.parametrize(
    "target, message",
    [
        ("broken_module_of_a_test:x", "ModuleNotFoundError: No module named 'no_such_module_of_a_test'"),
        ("own_module_of_a_test:missing", "AttributeError: .*missing"),
    ],
)
def test_an_entry_point_that_cannot_be_imported_names_its_distribution(install, target, message):
    install(f"[jaxrec.labels]\nbroken = {target}\n")
    with pytest.raises(InputError) as error:
        registry.ALL_LABEL_RULES.resolve("broken")
    assert error.match(rf"entry point 'broken' = .* in own_rules 1.2 cannot be imported: {message}")
    assert "\n" not in str(error.value)


def test_an_unknown_name_lists_what_there_is(install):
    install("[jaxrec.labels]\nweekday = own_module_of_a_test:weekday\n")
    with pytest.raises(InputError, match=r"'week' must be one of happened, .*, weekday"):
        registry.ALL_LABEL_RULES.resolve("week")


OWN_ENCODERS = (
    "[jaxrec.encoders]\nown = own_module_of_a_test:OwnGru\nranking_only = own_module_of_a_test:ForRanking\n"
)


def test_an_own_encoder_is_allowed_by_the_config(install, small_config):
    install(OWN_ENCODERS)
    config = copy.deepcopy(small_config)
    config.model.experts = (dataclasses.replace(config.model.experts[0], encoder="own"),)
    check(config)
    config.model.experts = (dataclasses.replace(config.model.experts[0], encoder="owns"),)
    with pytest.raises(
        InputError, match=r"encoder='owns' must be one of transformer, .*; did you mean own\?"
    ):
        check(config)


def test_both_models_have_an_own_encoder(install):
    """With an encoder that is GRU4Rec by another name the parameters are those of GRU4Rec."""
    install(OWN_ENCODERS)
    feature = FeatureSpec("title_id", "category", "title", 8, 30)
    table = TitleTable(jnp.zeros((30, 0), jnp.int32), jnp.zeros((30, 0), jnp.float32))

    def next_item(kind):
        model = NextItemModel("float32", (feature,), 30, Model(8, (Expert(6, 1, 2, 1.0, 0.0, kind),)))
        zeros = jnp.zeros((1, 6), jnp.int32)
        window = ItemWindow(zeros, zeros.astype(jnp.uint32), zeros.astype(jnp.uint32))
        return jax.eval_shape(partial(model.init, method="of_table"), jax.random.key(1), window, table)

    def ranking(kind):
        config = Config("x", task=Task("ranking"), model=Model(8, (Expert(4, 1, 2, 1.0, 0.0, kind),)))
        layout = Layout(30, 4, 1, (4, 4, 4, 4), 20, (feature,))
        return StateInit(RankingTask(config, layout, 0.5, 10, 100)).abstract().params

    for shapes in (next_item, ranking):
        own, gru = (shapes(kind) for kind in ("own", "gru4rec"))
        assert jax.tree.structure(own) == jax.tree.structure(gru)
        assert jax.tree.leaves(own) == jax.tree.leaves(gru)
    ranking("ranking_only")
    with pytest.raises(InputError, match=r"'ranking_only' = .* must have an attribute 'encode_positions'"):
        next_item("ranking_only")
