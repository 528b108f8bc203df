"""Enjoyment of titles on the simulated service, which thumbs and ratings follow.

The enjoyment of a user, a title and a request is

    e = sigmoid(-.6 + .6 satisfaction + .5 (match - 3) + .5 surprise z),

with z standard normal of (user, title). Its first part is that of staying, and its last part is unlike
staying: a reward of staying alone leaves little to personalise. The knobs `satisfaction` and `match` multiply
their terms. Users are lenient or strict: thumbs and ratings follow e' = sigmoid(logit e + leniency n(user)).
"""

import numpy as np

from jaxrec.config.schema import Simulator
from jaxrec.sources.simulator.draws import Draw, normal
from jaxrec.sources.simulator.world import MATCH_AT, SimulatedCatalogue

BASE, SATISFACTION_GAIN, MATCH_GAIN, SURPRISE = -0.6, 0.6, 0.5, 0.5  # log-odds
RATING_NOISE = 0.8  # standard deviation of a rating's noise, in log-odds
STARS = 5  # a rating is a whole number from 1


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)) [...] of the elements of x [...]."""
    return 1.0 / (1.0 + np.exp(-x))


def enjoyment_odds(
    c: Simulator, catalogue: SimulatedCatalogue, key: np.ndarray, title: np.ndarray, match: np.ndarray
) -> np.ndarray:
    """Return the log-odds of enjoyment, float64.

    Args:
        c: Config.
        catalogue: Titles.
        key: [...] keys of users.
        title: [...] rows of titles.
        match: [...] dot product of the preference with the taste vector of the title.

    Returns:
        [...]; the arguments are broadcast together.
    """
    odds = BASE + SATISFACTION_GAIN * c.satisfaction * catalogue.satisfaction[title].astype(np.float64)
    odds = odds + MATCH_GAIN * c.match * (match - MATCH_AT)
    if c.surprise:
        odds = odds + SURPRISE * c.surprise * normal(c.seed, Draw.SURPRISE, key, title)
    return odds


def leniency(c: Simulator, key: np.ndarray) -> np.ndarray:
    """Return the leniency [...] of users, in log-odds; mean 0."""
    return c.leniency * normal(c.seed, Draw.LENIENCY, key)


def thumb_probability(c: Simulator, opinion: np.ndarray) -> np.ndarray:
    """Return the probability that a title that was not abandoned gets a thumb.

    Args:
        c: Config.
        opinion: [...] e', the probability that the thumb is up.
    """
    return np.minimum(1.0, 2.0 * c.thumbs * np.abs(2.0 * opinion - 1.0))
