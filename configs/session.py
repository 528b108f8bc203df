"""S-MoE with an expert of the session: the plays, trailers and thumbs since the user came back.

python -m jaxrec.train --config configs/session.py --workdir W
python -m jaxrec.evaluate --checkpoint W --session on,off,shuffled

Rows hold the history as of the session's begin and the last 20 events since. The service is that of
configs/smoe.py with trailers, thumbs and list adds. `tiny` has the size of configs/tiny.py.
"""

from configs import smoe, tiny
from jaxrec.config import Config, Expert, Signal
from jaxrec.core.errors import InputError

SIGNALS = (Signal("trailer", "seconds"), Signal("thumb", "sign"), Signal("list_add"))


def with_sessions(config: Config, session: int = 20) -> Config:
    """Return a config of the simulated service with signals, and with sessions of `session` events."""
    config.signals, config.data.session = SIGNALS, session
    return config


def expert(config: Config, encoder: str = "session") -> Expert:
    """Return an expert of the session with the sizes of the config's last expert."""
    last = config.model.experts[-1]
    return Expert(config.data.session, 1, last.num_heads, last.mlp_ratio, last.dropout, encoder)


def get_config(scale: str = "small") -> Config:
    """Return the config for "small" or "tiny"."""
    if scale not in ("small", "tiny"):
        raise InputError(f"configs/session.py:{scale}: the argument must be small or tiny")
    config = smoe.get_config() if scale == "small" else tiny.get_config()
    config = with_sessions(config, 20 if scale == "small" else 8)
    config.name = f"session-{scale}"
    config.model.experts = (*config.model.experts, expert(config))
    return config
