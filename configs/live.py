"""Scenario of live events: python -m jaxrec.live plan --config configs/live.py

40% of a million devices are online, with three sessions a day and an evening peak of 2.5 times. Services bear
0.002 requests and 0.02 messages a second for each device. The plan updates the online devices in about 20 s.
"""

from jaxrec.live_events.scenario import LiveConfig, Payload, SlateQuality

# NDCG@10 of slates by kappa on a run of configs/smoe.py:small, 21,371 test users, measured by
# python -m jaxrec.evaluate --checkpoint W --segments D; another checkpoint has other values.
QUALITY = (
    (1, 0.1215), (4, 0.1327), (16, 0.1598), (64, 0.1690), (256, 0.1772), (1024, 0.1831), (4096, 0.1864)
)  # fmt: skip


def get_config() -> LiveConfig:
    """Return the scenario in which the strategies are compared."""
    return LiveConfig(payload=Payload(quality=tuple(SlateQuality(kappa, ndcg) for kappa, ndcg in QUALITY)))
