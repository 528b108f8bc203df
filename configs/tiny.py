"""Tiny S-MoE for tests: prepared and trained in seconds, too small to learn much.

python -m jaxrec.train --config configs/tiny.py
"""

from configs import smoe
from jaxrec.config import Config, Data, Evaluate, Expert, Gate, Model, Simulator, Train


def get_config() -> Config:
    """Return the config."""
    experts = tuple(
        Expert(w, num_layers=1, num_heads=2, mlp_ratio=f, dropout=0.1) for w, f in ((3, 1.0), (8, 2.0))
    )
    return Config(
        name="tiny",
        source=Simulator(users=300, test_only_users=60, titles=200, slate=20),
        features=smoe.features(8),
        data=Data(max_history=8, partitions=2),
        model=Model(width=12, experts=experts, gate=Gate(hidden=(8,)), dropout=0.1, head_hidden=(16,)),
        train=Train(duration="2 epochs", batch_size=64, log_seconds=0.5),
        evaluate=Evaluate(batch_size=64),
    )
