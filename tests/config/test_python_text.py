"""Config files written from a config: they give the same config, with its reasons as comments."""

import pytest

from jaxrec.config.loading import load_config
from jaxrec.config.python_text import python_text
from jaxrec.config.schema import Config, Feature, FileFormat, Tables
from jaxrec.config.serialization import to_json
from jaxrec.config.validation import check


@pytest.mark.parametrize(
    "spec", ["tiny", "smoe:paper", "own_data", "bst", "hstu", "sequences:sasrec", "kuairand:time"]
)
def test_a_written_config_is_the_same_config(spec, tmp_path):
    config = load_config(spec)
    path = tmp_path / "written.py"
    path.write_text(python_text(config, {}, "A config."))
    assert to_json(load_config(str(path))) == to_json(config)


def test_reasons_are_comments_above_their_fields(tmp_path):
    tables = Tables(
        interactions='a "quoted"\\name.dat',
        titles="t.csv",
        interactions_format=FileFormat(separator="\t", header=("u",)),
    )
    config = Config(name="x", source=tables, features=(Feature("title_id", "category", "title", 8),))
    reasons = {
        "features[0]": "the id of the title",
        "source.interactions_format.separator": "why a tab\nin two lines",
        "data.abandon_threshold": "a default with a reason is written",
    }
    text = python_text(config, reasons, 'Title with """quotes""".')
    assert '                # why a tab in two lines\n                separator="\\t",\n' in text
    assert "            # the id of the title\n            Feature(" in text
    assert "            # a default with a reason is written\n            abandon_threshold=0.05,\n" in text
    assert 'header=("u",)' in text and "users" not in text
    path = tmp_path / "x.py"
    path.write_text(text)
    written = load_config(str(path))
    check(written)
    assert to_json(written) == to_json(config)
