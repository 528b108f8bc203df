"""Every entry of the registry resolves, and every name a config may give is one."""

import pytest

from jaxrec import config
from jaxrec.config import schema
from jaxrec.config.tree import fields_of, members
from jaxrec.core import registry
from jaxrec.core.row_format import ROWS

TABLES = {name: table for name, table in vars(registry).items() if isinstance(table, dict) and name.isupper()}
ENTRIES = [
    (table, name, getattr(entry, "target", entry))
    for table in TABLES
    for name, entry in TABLES[table].items()
]


@pytest.mark.parametrize("table, name, target", ENTRIES, ids=[f"{t}-{n}" for t, n, _ in ENTRIES])
def test_an_entry_resolves(table, name, target):
    assert callable(registry.resolve(target)) or hasattr(registry.resolve(target), "draw")


@pytest.mark.parametrize("source", members(fields_of(schema.Config)["source"]), ids=lambda c: c.__name__)
def test_a_source_names_its_reader_and_its_fields(source):
    assert callable(registry.resolve(source.reader)) and source.__name__ in config.__all__
    assert set(source.required) <= set(fields_of(source))


def test_a_head_names_a_weight_of_the_objective_and_functions():
    for head in registry.HEADS.values():
        assert hasattr(schema.Objective(), head.weight)
        assert not head.metrics or callable(registry.resolve(head.metrics))


def test_an_entry_that_does_not_exist_is_an_error():
    with pytest.raises(AttributeError):
        registry.resolve("jaxrec.core.registry:no_such_name")


def test_a_task_trains_on_the_rows_that_its_class_names():
    for entry in registry.TASKS.values():
        assert registry.resolve(entry.target).rows == entry.rows
        assert entry.rows in ROWS
