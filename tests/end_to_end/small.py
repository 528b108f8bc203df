"""configs/tiny.py with one expert, one task and few features, for what is started again and again.

Its step is half as long to trace and to compile. The dataset of configs/tiny.py serves it.
"""

from configs import tiny
from jaxrec.config.schema import Config, Expert, Objective


def get_config() -> Config:
    config = tiny.get_config()
    config.name = "small"
    config.model.experts = (Expert(4, num_layers=1, num_heads=2, mlp_ratio=1.0, dropout=0.1),)
    config.model.features = ("title_id", "segment", "completion")
    config.evaluate.report, config.evaluate.report_users = False, 0
    config.model.head, config.objective = "dot", Objective(ranking=0.0, regression=0.0)
    return config
