"""Rules of codes of titles, and the configs of configs/onerec.py."""

from pathlib import Path

import pytest

from jaxrec.config.loading import load_config
from jaxrec.config.schema import Feature
from jaxrec.config.serialization import digest
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError

ONEREC = str(Path(__file__).resolve().parents[2] / "configs/onerec.py")

WRONG = (
    ("codes.levels", 0, "codes.levels=0 must be at least 1"),
    (
        "codes.levels",
        1,
        "codes.size=8 must give at least as many paths size\\^levels as there are titles, 60",
    ),
    ("codes.size", 1, "codes.size=1 must be at least 2"),
    ("codes.places", 9, "codes.places=9 must be at most model.experts\\[0\\].max_len=8"),
    ("codes.decoder", 0, "codes.decoder=0 must be at least 1"),
    ("codes.experts", 0, "codes.experts=0 must be at least 1"),
    ("codes.beam", 4097, "codes.beam=4097 must be at most 4,096"),
    ("codes.titles", 0, "codes.titles=0 must be at least 1"),
    ("codes.titles", 9, "codes.titles=9 must be at most model.experts\\[0\\].max_len=8"),
    ("codes.gap_hours", 0.0, "codes.gap_hours=0.0 must be a finite number above 0"),
    ("codes.gap_hours", 2.0, "codes.gap_hours=2.0 must be 4.0 with codes.titles=1: no session"),
    ("codes.reward", "stars", "codes.reward='stars' must be '' with codes.titles=1: no session"),
    ("next_item.loss", "bce", "next_item.loss='bce' must be 'softmax' with task.name='generative'"),
    ("next_item.temperature", 0.5, "next_item.temperature=0.5 must be 1.0 with task"),
    ("next_item.personalised", True, "next_item.personalised=True must be False with task"),
    ("sampling.stochastic_length", 1.5, "sampling.stochastic_length=1.5 must be 0.0 with task"),
    ("task.name", "next_item", "codes.levels=2 must be 3 with task.name='next_item': codes are of the task"),
)


def edited(key, value):
    config = load_config(f"{ONEREC}:tiny")
    *parts, name = key.split(".")
    target = config
    for part in parts:
        target = getattr(target, part)
    setattr(target, name, value)
    return config


@pytest.mark.parametrize("key,value,text", WRONG, ids=[f"{key}={value}" for key, value, _ in WRONG])
def test_a_wrong_value_of_codes_is_one_line(key, value, text):
    with pytest.raises(InputError, match=text) as error:
        check(edited(key, value))
    assert "\n" not in str(error.value)


def test_the_reward_of_sessions_is_one_of_the_config():
    config = edited("codes.titles", 5)
    check(config)
    config.codes.reward = "stars"
    with pytest.raises(
        InputError, match=r"codes.reward='stars' must be empty: the config declares no reward"
    ):
        check(config)


def test_only_titles_have_codes():
    config = load_config(str(Path(ONEREC).with_name("tiny.py")))
    config.features += (Feature("codes", "codes", "user", width=8),)
    with pytest.raises(InputError, match=r"features\[\d+\].where='user' must be title with kind='codes'"):
        check(config)
    config.features[-1].where = "title"
    check(config)
    config.codes.beam = 8
    with pytest.raises(InputError, match=r"codes.beam=8 must be 32 with task.name='ranking'"):
        check(config)


def test_the_configs_of_onerec_load_and_share_a_dataset():
    configs = {name: load_config(f"{ONEREC}:{name}") for name in ("title", "small", "mixture", "coded_title")}
    for config in configs.values():
        check(config)
    assert len({digest(config) for config in configs.values()}) == 1
    assert configs["mixture"].codes.experts == 8 and configs["small"].codes.experts == 1
    tiny = [load_config(f"{ONEREC}:{name}") for name in ("title_tiny", "tiny")]
    assert digest(tiny[0]) == digest(tiny[1])
    with pytest.raises(InputError, match="the argument must be one of title, small"):
        load_config(f"{ONEREC}:large")
