"""What several test files share: the tiny run's prepared dataset, made once a session."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def tiny_config():
    from jaxrec.command import load_config

    return load_config(str(ROOT / "configs/tiny.py"))


@pytest.fixture(scope="session")
def tiny_directory(tiny_config, tmp_path_factory):
    from jaxrec.data.dataset import prepare
    from jaxrec.sources import open_source

    directory = tmp_path_factory.mktemp("data") / "tiny"
    prepare(open_source(tiny_config.source, tiny_config.features), tiny_config, str(directory))
    return directory


@pytest.fixture(scope="session")
def tiny(tiny_directory):
    from jaxrec.data.store import Dataset

    return Dataset(tiny_directory)
