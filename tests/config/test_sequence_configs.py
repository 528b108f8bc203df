"""Every published model of configs/sequences.py loads, passes the checks, and has the published settings."""

from pathlib import Path

import pytest

from configs.sequences import CONFIGS, get_config
from jaxrec.config.loading import load_config
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError

FILE = Path(__file__).resolve().parents[2] / "configs" / "sequences.py"

# Width, blocks, heads, dropout, loss, negatives, length: of the sources' own files.
PUBLISHED = {
    "sasrec": (50, 2, 1, 0.2, "sampled_softmax", 128, "101 epochs"),
    "hstu": (50, 2, 1, 0.2, "sampled_softmax", 128, "101 epochs"),
    "hstu_large": (50, 8, 2, 0.2, "sampled_softmax", 128, "101 epochs"),
    "sasrec_plus": (64, 2, 1, 0.1, "softmax", None, "100 epochs"),
    "sasrec_plus_beauty": (64, 2, 1, 0.1, "softmax", None, "100 epochs"),
    "gru4rec": (64, 1, 1, 0.0, "softmax", None, "100 epochs"),
    "gsasrec": (128, 2, 1, 0.5, "gbce", 256, "2000 epochs"),
    "esasrec": (64, 2, 1, 0.1, "sampled_softmax", 256, "100 epochs"),
    "esasrec_ml_20m": (256, 4, 8, 0.2, "sampled_softmax", 256, "100 epochs"),
    "esasrec_beauty": (64, 1, 1, 0.2, "sampled_softmax", 256, "200 epochs"),
    "fuxi_alpha": (50, 2, 1, 0.2, "sampled_softmax", 128, "101 epochs"),
}


@pytest.fixture(autouse=True)
def _a_folder_of_kuairand(monkeypatch):
    """configs/kuairand.py reads the folder of its source from the environment."""
    monkeypatch.setenv("JAXREC_KUAIRAND", "kuairand")


@pytest.mark.parametrize("name", CONFIGS)
def test_it_loads_and_passes_its_checks(name):
    config = load_config(f"{FILE}:{name}")
    if name not in ("simulated", "kuairand"):
        config.data.path = "ratings.csv"
    if name == "kuairand":
        config.source.directory = "KuaiRand-Pure"
    check(config)
    assert config.name == f"sequences-{name}"


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_has_the_published_settings(name):
    config = get_config(name)
    (expert,) = config.model.experts
    loss, negatives = config.next_item.loss, config.next_item.negatives
    settings = config.model.width, expert.num_layers, expert.num_heads, expert.dropout, loss
    assert (*settings, None if loss == "softmax" else negatives, config.train.duration) == PUBLISHED[name]
    assert config.features[0].width == config.model.width and config.model.dropout == expert.dropout
    assert expert.max_len == (50 if name.endswith("_beauty") else 200)
    assert config.train.batch_size == 128
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (1e-3, 0.0)
    assert config.evaluate.seen == ("stored" if name in ("sasrec", "hstu", "hstu_large") else "all")
    patience = {"sasrec_plus": 10, "sasrec_plus_beauty": 10, "gru4rec": 10, "gsasrec": 200}
    expected = 50 if name.startswith("esasrec") else patience.get(name, 0)
    assert config.train.patience == expected
    assert config.sampling.id_dropout == 0.0 and config.model.head == "dot"


def test_the_default_is_sasrec():
    assert load_config(str(FILE)) == get_config("sasrec")


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(InputError, match=r"sequences.py:bert4rec: the argument must be one of sasrec, "):
        get_config("bert4rec")
