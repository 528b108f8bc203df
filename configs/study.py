"""Study of the paper's tables and claims: small, kuairand, paper or tiny.

python -m jaxrec.study --config configs/study.py:small --seeds 3 --workdir S       # Tables 4 to 8
python -m jaxrec.study --config configs/study.py:small --tables premise --workdir S
python -m jaxrec.study --config configs/study.py:kuairand --config.source.directory=DIR --workdir S
python -m jaxrec.study --config configs/study.py:paper --workdir S                 # needs an accelerator

`small` is configs/smoe.py:small shortened to three epochs. `kuairand`, for Tables 4, 6 and 7, is
configs/kuairand.py shortened to four epochs; training and evaluation of one run take about two minutes.
`paper` runs Table 4. `--config.KEY` changes the base config of all rows.
"""

from configs import kuairand, smoe, tiny
from jaxrec.config import Config
from jaxrec.core.errors import InputError
from jaxrec.studies.paper import ALL, CLAIMS, PREMISES, TABLES, rows
from jaxrec.studies.plan import Study


def _small() -> Config:
    """Return configs/smoe.py:small with three epochs."""
    config = smoe.get_config("small")
    config.train.duration = "3 epochs"
    return config


def _kuairand() -> Config:
    """Return configs/kuairand.py with four epochs."""
    config = kuairand.get_config()
    config.train.duration = "4 epochs"
    return config


def get_config(scale: str = "small") -> Study:
    """Return the study for "small", "kuairand", "paper" or "tiny"."""
    if scale == "small":
        return Study("small", _small(), rows, TABLES, ALL, CLAIMS, PREMISES)
    if scale == "kuairand":
        return Study("kuairand", _kuairand(), rows, TABLES, ("4", "6", "7"), CLAIMS)
    if scale == "paper":
        return Study("paper", smoe.get_config("paper"), rows, TABLES, ("4",), CLAIMS, PREMISES)
    if scale == "tiny":
        return Study("tiny", tiny.get_config(), rows, TABLES, ALL, CLAIMS, PREMISES)
    raise InputError(f"configs/study.py:{scale}: the argument must be small, kuairand, paper or tiny")
