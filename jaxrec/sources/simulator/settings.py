"""Ranges of the settings of the simulated service."""

from jaxrec.config.schema import Simulator
from jaxrec.core.errors import InputError
from jaxrec.sources.simulator.change import COUNTRIES


def check(c: Simulator) -> None:
    """Check the settings of a simulator.

    Raises:
        InputError: A value is out of range; the message names the key and the range.
    """
    limits: dict[str, tuple[float, float]] = {
        "users": (0, 1 << 40),
        "test_only_users": (0, 1 << 40),
        "titles": (20, 1_000_000),
        "weeks": (1, 520),
        "slate": (2, 1000),
        "plays_per_user": (2.0, 1000.0),
        "sitting": (1.0, 100.0),
        "trailers": (0.0, 10.0),
    }
    limits |= {name: (0.0, 10.0) for name in ("taste", "interest", "mood", "appeal", "satisfaction", "match")}
    limits |= {name: (0.0, 10.0) for name in ("surprise", "leniency", "regimes")}
    limits |= {
        name: (0.0, 5.0)
        for name in ("popularity", "clickbait", "patience", "novelty", "country_taste", "kinship")
    }
    limits |= {"trend": (0.0, 2.0), "launches": (0.0, 0.9), "unlicensed": (0.0, 0.5)}
    limits["countries"] = (1, len(COUNTRIES))
    rates = (
        "interest_moves", "interruptions", "replay_watched", "replay_abandoned", "habit", "thumbs", "ratings",
        "lists", "impressions_logged", "mood_moves", "search", "similar",
    )  # fmt: skip
    limits |= {name: (0.0, 1.0) for name in rates}
    if c.test_impressions_logged is not None:
        limits["test_impressions_logged"] = (0.0, 1.0)
    for name, (low, high) in limits.items():
        value = getattr(c, name)
        if not low <= value <= high:
            raise InputError(f"source.{name}={value} is not within {low:.15g} to {high:.15g}")
    for name in ("country_taste", "unlicensed"):
        if getattr(c, name) and c.countries == 1:
            value = getattr(c, name)
            raise InputError(f"source.{name}={value} must be 0 with source.countries=1")
    if c.search + c.similar > 1:
        raise InputError(f"source.search={c.search} and source.similar={c.similar} must add to at most 1")
