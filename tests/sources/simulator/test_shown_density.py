"""The density of titles that a slate shows beside the chosen one, against drawn slates."""

import numpy as np
import pytest

from jaxrec.sources.simulator.oracle.choices import choice_density, luce_density, shown_density

SLATES = 40_000
ARRIVAL = np.array([0.3, 0.2, 0.15, 0.1, 0.08, 0.07, 0.06, 0.04])
WEIGHT = np.array([0.1, 1.0, 0.2, 0.9, 0.05, 0.6, 0.3, 1.0])


@pytest.mark.parametrize(("slate", "others"), [(6, 20), (12, 3), (12, 20)])
def test_the_density_is_that_of_drawn_slates(slate, others):
    rng = np.random.default_rng(0)
    slots = rng.choice(len(ARRIVAL), (SLATES, slate), p=ARRIVAL)
    # A race: the slot of the greatest log-weight plus Gumbel noise is chosen.
    slot = (np.log(WEIGHT)[slots] + rng.gumbel(size=slots.shape)).argmax(axis=1)
    chosen = slots[np.arange(SLATES), slot]
    shown = np.zeros(len(ARRIVAL))
    for row, choice in zip(slots, chosen, strict=True):
        titles = [t for t in dict.fromkeys(row.tolist()) if t != choice]
        shown[titles[:others]] += 1 / SLATES
    p = choice_density(WEIGHT[None].astype(np.float32), ARRIVAL[None].astype(np.float32), slate)
    np.testing.assert_allclose(p[0], np.bincount(chosen, minlength=8) / SLATES, atol=0.01)
    q = shown_density(p, ARRIVAL[None], slate, others)[0]
    # All other titles are shown: exact. Else the first m slots stand for the first distinct titles.
    np.testing.assert_allclose(q, shown, atol=0.01 if others == 20 else 0.06)


def test_luce_density_weighs_by_exposure():
    density = luce_density(np.log([[1.0, 2.0, 4.0]]), np.array([4.0, 1.0, 0.5]))
    np.testing.assert_allclose(density, [[0.5, 0.25, 0.25]], rtol=1e-6)
