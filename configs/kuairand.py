"""S-MoE on KuaiRand, real watch logs of short videos (https://kuairand.com).

python -m jaxrec.train --config configs/kuairand.py --config.source.directory=DIR --workdir W

python -m jaxrec.train --config configs/kuairand.py:time --config.source.directory=DIR --workdir W

`time` splits by time instead of by user: the targets of the last three days are tested, those of the two days
before are for validation, and training counts no later event.

DIR holds `log_standard_*.csv`, `user_features_*.csv` and `video_features_basic_*.csv`: the unchanged `data`
folder of the Pure, 1K or 27K download, or a folder with the same columns and fewer rows. The environment
variable JAXREC_KUAIRAND may name it too.
"""

import os

from configs import smoe
from jaxrec.config import Config, Data, Feature, KuaiRand, Optimizer, Train
from jaxrec.core.errors import InputError

_RANGES = ("follow_user_num_range", "fans_user_num_range", "friend_user_num_range", "register_days_range")

SPLITS: dict[str, dict[str, str]] = {
    "users": {},
    "time": {"split": "time", "validation_from": "2022-05-04", "test_from": "2022-05-06"},  # ends with May 8
}


def get_config(split: str = "users") -> Config:
    """Return the config of a split in SPLITS."""
    if split not in SPLITS:
        raise InputError(f"configs/kuairand.py:{split}: the argument must be one of {', '.join(SPLITS)}")
    features = (
        Feature("title_id", "category", "title", width=32),  # no author_id: almost one author per video
        Feature("tag", "categories", "title", width=16, most=3),
        Feature("video_type", "category", "title", width=4),
        Feature("upload_type", "category", "title", width=8),
        Feature("music_type", "category", "title", width=4),
        Feature("video_duration", "number", "title", width=4),
        Feature("user_active_degree", "category", "user", width=8),
        *(Feature(name, "category", "user", width=4) for name in _RANGES),
        *(Feature(f"onehot_feat{i}", "category", "user", width=4) for i in range(18)),
        Feature("tab", "category", "context", width=8),  # page on which the video was shown
        Feature("hour", "category", "context", width=8),
        Feature("completion", "number", "interaction", width=8),
        Feature("sessions", "number", "interaction", width=8),
        Feature("age", "number", "interaction", width=8),
    )
    return Config(
        name="kuairand" if split == "users" else f"kuairand-{split}",
        source=KuaiRand(directory=os.environ.get("JAXREC_KUAIRAND", "")),
        features=features,
        # A user has nine plays here, of which two in five are abandoned.
        data=Data(max_history=32, **SPLITS[split]),
        model=smoe.small_model(dropout=0.2),
        optimizer=Optimizer(learning_rate=2e-3),
        train=Train(duration="8 epochs", batch_size=256),
    )
