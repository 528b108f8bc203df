"""Config of the trained runs: configs/tiny.py with less of everything, and a checkpoint every epoch."""

from configs import tiny
from jaxrec.config import Config, Data, Expert, Objective, Simulator, Train


def get_config() -> Config:
    """Return the config."""
    config = tiny.get_config()
    config.name = "faults"
    config.source = Simulator(users=120, test_only_users=20, titles=100, slate=20)
    config.data = Data(max_history=8, partitions=2)
    config.train = Train(
        duration="5 epochs",
        batch_size=64,
        log_seconds=1e-3,
        checkpoint_every_seconds=2.5,
        heartbeat_seconds=10,
    )
    config.model.experts = (Expert(4, num_layers=1, num_heads=2, mlp_ratio=1.0, dropout=0.1),)
    config.model.features = ("title_id", "segment", "completion")
    config.model.head, config.objective = "dot", Objective(ranking=0.0, regression=0.0)
    config.evaluate.report_users = 0
    return config
