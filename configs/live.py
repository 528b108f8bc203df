"""Scenario of live events: python -m jaxrec.live plan --config configs/live.py

40% of a million devices are online, with three sessions a day and an evening peak of 2.5 times. Services bear
0.002 requests and 0.02 messages a second for each device. The plan updates the online devices in about 20 s.
"""

from jaxrec.live_events.scenario import LiveConfig, Payload, SlateQuality

# An example. Measure the NDCG@10 of slates by kappa on your checkpoint, and replace the values.
QUALITY = ((1, 0.100), (4, 0.112), (16, 0.123), (64, 0.131), (256, 0.136), (1024, 0.138))


def get_config() -> LiveConfig:
    """Return the scenario in which the strategies are compared."""
    return LiveConfig(payload=Payload(quality=tuple(SlateQuality(kappa, ndcg) for kappa, ndcg in QUALITY)))
