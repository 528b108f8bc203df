"""S-MoE with PHNS, three tasks and personalised loss, on the simulated service.

python -m jaxrec.train --config configs/smoe.py:small    # under five minutes on two CPU cores
python -m jaxrec.train --config configs/smoe.py:paper    # Table 3 unchanged, a million users

The expected test NDCG@1 of `small` is about .37 on the enabled list and .38 on the disabled list; seeds
differ by about .005. `paper` needs an accelerator and has not been run.
"""

from jaxrec.config import (
    Config,
    Data,
    Evaluate,
    Expert,
    Feature,
    Gate,
    Model,
    Optimizer,
    Simulator,
    Train,
)
from jaxrec.core.errors import InputError


def features(scale: int) -> tuple[Feature, ...]:
    """Return the features of the simulated service.

    Args:
        scale: Width of the embedding of a title id; other widths are fractions of `scale`.
    """
    return (
        Feature("title_id", "category", "title", width=scale),
        Feature("genres", "categories", "title", width=scale // 2, most=3),
        Feature("form", "category", "title", width=scale // 8),
        Feature("runtime", "number", "title", width=scale // 8),
        Feature("segment", "category", "user", width=scale // 4),
        Feature("segment2", "category", "user", width=scale // 4),
        Feature("device", "category", "context", width=scale // 8),
        Feature("hour", "category", "context", width=scale // 8),
        Feature("completion", "number", "interaction", width=scale // 8),
        Feature("sessions", "number", "interaction", width=scale // 8),
        Feature("age", "number", "interaction", width=scale // 8),
    )


def small_model(dropout: float) -> Model:
    """Return a reduced model of Table 3: half the width, one layer per expert.

    Two CPU cores train this model in minutes.
    """
    experts = (
        Expert(max_len=7, num_layers=1, num_heads=4, mlp_ratio=1.0, dropout=dropout),
        Expert(max_len=20, num_layers=1, num_heads=4, mlp_ratio=2.0, dropout=dropout),
    )
    return Model(width=48, experts=experts, gate=Gate(hidden=(64, 32)), dropout=dropout)


def get_config(scale: str = "small") -> Config:
    """Return the config for "small" or "paper"."""
    if scale == "paper":
        return Config(
            name="smoe-paper",
            source=Simulator(users=1_000_000, test_only_users=0, titles=5_000),
            features=features(64),
            data=Data(partitions=64),
        )
    if scale == "small":
        return Config(
            name="smoe-small",
            source=Simulator(users=20_000, test_only_users=20_000),
            features=features(32),
            model=small_model(dropout=0.1),
            optimizer=Optimizer(learning_rate=3e-3),
            train=Train(duration="6 epochs", batch_size=256),
            evaluate=Evaluate(batch_size=2048),
        )
    raise InputError(f"configs/smoe.py:{scale}: the argument must be small or paper")
