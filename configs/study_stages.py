"""Study of two stages: training on drawn pools, then on what was served, by the share of slates logged.

python -m jaxrec.study --config configs/study_stages.py --seeds 3 --jobs 1 --workdir S
python -m jaxrec.study --config configs/study_stages.py:tiny --seeds 1 --workdir S

All rows take the same number of steps. `pools` trains on the pools of Table 2, `served_<share>` on titles
that were shown and not chosen, `mixed_<share>` on both halves alike, and `then_<share>` on the pools for half
of the steps and then on served titles. The share is `source.impressions_logged` of the training and
validation users; the slates of the test-only users are all logged, so that every share has the same test
queries. The first stage reads no slate: its runs serve all shares, and so do those of `pools`.

The second stage starts with a fresh optimizer: Adam's moments, the plateau and the steps count from 0. The
temperature of the gate starts at its end, so that nothing is annealed again, and the learning rate is a third
of the first stage's. The plateau and the choice of the best checkpoint follow the served list of the
validation users in every row that trains on served titles, and the enabled list in the others.
"""

from configs import smoe, tiny
from jaxrec.config import (
    Config,
    Data,
    Evaluate,
    Expert,
    Gate,
    Mix,
    Model,
    Optimizer,
    Signal,
    Simulator,
    Train,
)
from jaxrec.core.errors import InputError
from jaxrec.studies.plan import Claim, ResultTable, Row, Study

SHARES = (0.02, 0.1, 1.0)  # of the requests whose slate is logged
SCARCE = (0.02, 0.1)  # shares of the claim
SERVED, BOTH = Mix(0.0, 0.0, 0.0, 0.0, 1.0), Mix(0.2, 0.2, 0.1, 0.0, 0.5)
FIRST = "first_stage"
RATE = 1 / 3  # learning rate of the second stage, relative to the first


def _table(share: float) -> str:
    return f"{share:g}"


def _steps(base: Config) -> int:
    return int(base.train.duration.removesuffix(" steps"))


def rows(base: Config) -> tuple[Row, ...]:
    """Return the rows of the study; a base config has a duration in steps, an even number."""
    half, all_tables = f"{_steps(base) // 2} steps", [_table(share) for share in SHARES]
    out = [
        Row("pools", {}, dict.fromkeys(all_tables, "pools")),
        Row(FIRST, {"train.duration": half}, dict.fromkeys(all_tables, "pools, half of the steps")),
    ]
    second = {
        "sampling.mix": SERVED,
        "train.duration": half,
        "model.gate.start_temperature": base.model.gate.temperature,
        "optimizer.learning_rate": base.optimizer.learning_rate * RATE,
    }
    for share in SHARES:
        logged, name = {"source.impressions_logged": share}, _table(share)
        out += [
            Row(f"served_{name}", {"sampling.mix": SERVED, **logged}, {name: "served"}),
            Row(f"mixed_{name}", {"sampling.mix": BOTH, **logged}, {name: "pools and served"},
                against=f"served_{name}"),
            Row(f"then_{name}", {**second, **logged}, {name: "served, second stage"},
                against=f"served_{name}", after=FIRST),
        ]  # fmt: skip
    return tuple(out)


def _claims() -> tuple[Claim, ...]:
    return (
        Claim(
            "two stages beat served alone where a tenth or less is logged",
            tuple((f"then_{_table(share)}", f"served_{_table(share)}") for share in SCARCE),
            lists=("served",),
        ),
        Claim(
            "two stages beat served alone where all is logged",
            ((f"then_{_table(1.0)}", f"served_{_table(1.0)}"),),
            lists=("served",),
        ),
        Claim(
            "two stages beat both mixed where a tenth or less is logged",
            tuple((f"then_{_table(share)}", f"mixed_{_table(share)}") for share in SCARCE),
            lists=("served",),
        ),
    )


def _logged(config: Config) -> Config:
    """Return a config of the simulated service with slates, all of the test-only users'."""
    config.signals = (Signal("impression"),)
    config.source.test_impressions_logged = 1.0
    config.data.served = 20
    config.evaluate.next_k, config.evaluate.report = (1,), False
    return config


def _small() -> Config:
    """Return a config that one core trains in under a minute."""
    experts = tuple(
        Expert(w, num_layers=1, num_heads=2, mlp_ratio=f, dropout=0.1) for w, f in ((7, 1.0), (20, 2.0))
    )
    return Config(
        name="stages-small",
        source=Simulator(users=4_000, test_only_users=1_500, titles=500),
        features=smoe.features(16),
        # The test users are the test-only users alone, whose slates are all logged.
        data=Data(max_history=20, train_share=0.85, validation_share=0.149999),
        model=Model(width=24, experts=experts, gate=Gate(hidden=(16,)), dropout=0.1, head_hidden=(48, 24)),
        optimizer=Optimizer(learning_rate=3e-3),
        train=Train(duration="800 steps", batch_size=128),
        evaluate=Evaluate(batch_size=1024),
    )


def get_config(scale: str = "small") -> Study:
    """Return the study for "small" or "tiny"."""
    if scale not in ("small", "tiny"):
        raise InputError(f"configs/study_stages.py:{scale}: the argument must be small or tiny")
    config = _small() if scale == "small" else tiny.get_config()
    if scale == "tiny":
        config.train.duration = "40 steps"
    tables = tuple(
        ResultTable(_table(share), f"Slates of {share:.0%} of the requests are logged") for share in SHARES
    )
    names = tuple(table.name for table in tables)
    return Study(f"stages-{scale}", _logged(config), rows, tables, names, _claims())
