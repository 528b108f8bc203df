"""Tests of the reachable bound against brute force, the oracle and the simulated plays."""

import dataclasses
import itertools

import numpy as np
import pytest
from test_simulator_truth import make_targets

from jaxrec.config.schema import Simulator
from jaxrec.core.errors import InputError
from jaxrec.sources.simulator.draws import Draw, normal, on_grid
from jaxrec.sources.simulator.oracle.choices import choice_density
from jaxrec.sources.simulator.oracle.expectations import _reaches_finally
from jaxrec.sources.simulator.oracle.following import unplayed
from jaxrec.sources.simulator.oracle.observations import (
    completion_density,
    observe,
    patience_likelihood,
    segment_likelihood,
)
from jaxrec.sources.simulator.oracle.reachable import StateFilter, stratified
from jaxrec.sources.simulator.oracle.states import make_tables, patience_nodes, triples
from jaxrec.sources.simulator.service import SimulatedService
from jaxrec.sources.simulator.source import SimulatorSource
from jaxrec.sources.simulator.world import (
    GENRES,
    INTEREST,
    MOOD,
    TASTE,
    TASTE_OF_RANK,
    abandon_probability,
    final_abandon_probability,
    stay_probability,
)

FEW = Simulator(users=60, test_only_users=0, titles=40, slate=10, plays_per_user=6.0)
HISTORY = 20


def ndcg(p, target, is_free):
    """Return NDCG@10 [N] of targets among the titles that were not played, by probabilities [N, V]."""
    p = np.where(is_free, p, -1)
    rank = 1 + (p > np.take_along_axis(p, target[:, None], axis=1)).sum(axis=1)
    return np.where(rank <= 10, 1 / np.log2(rank + 1.0), 0)


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize("habit", [0.0, 0.3])
def test_completion_density_is_the_slope_of_the_distribution(habit):
    c = dataclasses.replace(FEW, habit=habit, interruptions=0.2)
    at, stay = np.linspace(0.06, 0.99, 94)[:, None] + 1e-4, np.array([0.2, 0.6, 0.95])
    at = at[np.all([abs(at[:, 0] - edge) > 2e-3 for edge in (0.2, 0.85)], axis=0)]
    step = 1e-3
    above = [_reaches_finally(c, stay, x) for x in (at - step, at + step)]
    slope = (above[0] - above[1]) / (2 * step)
    np.testing.assert_allclose(completion_density(c, at, stay), slope, rtol=2e-2, atol=2e-3)


def test_triples_are_those_of_the_latent_states():
    genres, prior = triples()
    assert prior.sum() == pytest.approx(1, abs=1e-12) and len(np.unique(genres, axis=0)) == 18 * 17 * 16
    _, _, latents, _, _ = make_targets(dataclasses.replace(FEW, titles=20), 20_000)
    for place in range(3):
        share = np.bincount(latents.genres[:, place], minlength=18) / 20_000
        expected = np.bincount(genres[:, place], prior, minlength=18)
        assert abs(share - expected).max() < 4 * (0.1 / 20_000) ** 0.5


def test_stratified_samples_have_the_shares_of_the_weights():
    weight = np.random.default_rng(0).dirichlet(np.full(30, 0.3), size=5)
    drawn = stratified(weight, 200)
    for w, d in zip(weight, drawn, strict=True):
        count = np.bincount(d, minlength=30)
        assert (abs(count - 200 * w) < 2).all()
    # Equal blocks of columns, as many as there are shares, are sampled within.
    repeated = np.tile(weight[0], 200)[None]
    count = np.bincount(stratified(repeated, 200)[0] % 30, minlength=30)
    assert (abs(count - 200 * weight[0]) < 4).all()


# ---------------------------------------------------------------- against brute force


def forward(service, at, moves):
    """Return the density [N, V] of the next kept title by a sum over all states, one request at a time.

    The states are triples x patience without moves of interest and mood, or else interest x mood x patience.
    All requests are of users of one country.
    """
    c, catalogue = service.config, service.catalogue
    seen = observe(service, at, HISTORY)
    patience = patience_nodes(c)
    genres, prior = triples()
    nats = np.zeros((len(genres), 18))
    if moves:
        nats = np.zeros((18, 18, 18))
        for g in range(18):
            nats[g, :, g] += on_grid(np.asarray(c.interest * INTEREST))
            nats[:, g, g] += on_grid(np.asarray(c.mood * MOOD))
        nats = nats.reshape(324, 18)
    else:
        for state, liked in enumerate(genres):
            nats[state, liked] = c.taste * TASTE * np.array(TASTE_OF_RANK)
    country = service.latents.country[service.plays.row[at[0]]]
    nats += c.country_taste * normal(c.seed, Draw.COUNTRY_TASTE, country, np.arange(18))
    exposure = catalogue.exposure * catalogue.change.licensed[country]
    match = nats @ catalogue.taste.T.astype(np.float64)
    utility = match + c.appeal * 0.6 * catalogue.appeal
    weight = np.exp(utility - utility.max(axis=1, keepdims=True))
    stay = stay_probability(c, catalogue.satisfaction, patience[:, None, None], match)  # [R, states, V]

    out, free = [], unplayed(service, at)
    same, one = np.full((18, 18), 1 / 18), np.eye(18)
    for n in range(len(at)):
        belief = np.full(324, 1 / 324) if moves else prior * segment_likelihood(seen, genres)[n]
        belief = patience_likelihood(seen, patience)[n][:, None] * belief
        belief = belief / belief.sum()
        arrival = np.where(np.ones(weight.shape, bool), exposure, 0)
        for place in range(HISTORY + 1):
            if moves:
                stays = (1 - c.interest_moves) ** seen.weeks[n, place]
                interest = stays * one + (1 - stays) * same
                belief = belief @ np.kron(interest, same if seen.is_new[n, place] else one)
            if place == HISTORY:
                break
            title = seen.title[n, place]
            if title < 0:
                continue
            chosen = choice_density(weight.astype(np.float32), arrival.astype(np.float32), c.slate)[:, title]
            slots = np.where(np.ones(weight.shape, bool), exposure, 0)
            first = choice_density(weight.astype(np.float32), slots.astype(np.float32), c.slate)
            lost = (first * abandon_probability(c, stay)).sum(axis=2) / first.sum(axis=1)
            ends = completion_density(c, seen.completion[n, place], stay[:, :, title])
            belief = belief * chosen * ends / (1 - lost)
            belief = belief / belief.sum()
            arrival[:, title] = 0
        arrival = (free[n] * exposure) * np.ones(weight.shape)
        chosen = choice_density(weight.astype(np.float32), arrival.astype(np.float32), c.slate)
        kept = 1 - final_abandon_probability(c, abandon_probability(c, stay))
        density = chosen * kept
        out.append(np.einsum("rs,rsv->v", belief, density / density.sum(axis=2, keepdims=True)))
    return np.stack(out)


@pytest.mark.parametrize(
    ("knobs", "moves", "particles"),
    [
        (dict(interest=0.0, mood=0.0), False, 3000),
        (dict(taste=0.0, interest_moves=0.3), True, 2000),
        (dict(taste=0.0, interest=0.0), True, 2000),
        (dict(interest=0.0, mood=0.0, countries=3, country_taste=1.0, unlicensed=0.3), False, 3000),
    ],
)
def test_bound_is_the_sum_over_all_states(knobs, moves, particles):
    c = dataclasses.replace(FEW, **knobs)
    truth, catalogue, latents, plays, at = make_targets(c, 30)
    country = c.countries // 2  # 0 without countries
    at = at[latents.country[plays.row[at]] == country]
    at = at[:: max(1, len(at) // 8)][:8]
    assert (plays.index[at] > 3).any() and len(at) == 8
    service = SimulatedService(c, catalogue, latents, plays)
    expected = forward(service, at, moves)
    kept, _, _ = truth.reachable(latents.key[plays.row[at]], plays.time[at], HISTORY, particles)
    off = 0.5 * abs(kept - expected).sum(axis=1)
    assert off.max() < 0.02 and off.mean() < 0.01
    # The posterior matters: the prior alone is farther away.
    prior, _, _ = truth.reachable(latents.key[plays.row[at]], plays.time[at], 0, particles)
    assert 0.5 * abs(prior - expected).sum(axis=1).mean() > 4 * off.mean()


def zero_knobs(patience):
    """Return (densities of the bound, of the oracle, targets) of a service without taste, interest, mood."""
    knobs = dict(taste=0.0, interest=0.0, mood=0.0, patience=patience)
    c = dataclasses.replace(FEW, users=300, titles=200, slate=50, **knobs)
    truth, _, latents, plays, at = make_targets(c, 300, 600)
    user, time, target = latents.key[plays.row[at]], plays.time[at], plays.title[at]
    every = np.broadcast_to(np.arange(c.titles), (len(at), c.titles))
    oracle = truth.shown(user, time, every)[0], *truth.densities(user, time, every)
    return truth.reachable(user, time, HISTORY, 32), oracle, target


def test_without_latent_states_the_bound_is_the_oracle():
    bound, oracle, _ = zero_knobs(patience=0.0)
    for ours, theirs, most in zip(bound, oracle, (1e-4, 0.01, 0.03), strict=True):
        assert 0.5 * abs(ours - theirs).sum(axis=1).mean() < most


def test_without_taste_interest_and_mood_the_bound_ranks_as_the_oracle():
    (kept, _, _), (oracle, _, _), target = zero_knobs(patience=1.0)
    is_free = oracle > 0
    assert ((kept > 0) == is_free).all()
    assert abs(ndcg(kept, target, is_free).mean() - ndcg(oracle, target, is_free).mean()) <= 1e-3


def test_requests_of_several_countries_are_those_of_each_alone():
    c = dataclasses.replace(FEW, countries=3, country_taste=1.0, unlicensed=0.3)
    truth, catalogue, latents, plays, at = make_targets(c, 30)
    at = at[::4]
    user, time, country = latents.key[plays.row[at]], plays.time[at], latents.country[plays.row[at]]
    assert len(np.unique(country)) == 3
    together = truth.reachable(user, time, HISTORY, 32)
    for number in range(3):
        own = country == number
        for alone, of_all in zip(truth.reachable(user[own], time[own], HISTORY, 32), together, strict=True):
            np.testing.assert_array_equal(alone, of_all[own])
        kept, lacks = together[0][own], ~catalogue.change.licensed[number]
        assert lacks.any() and not kept[:, lacks].any()


# ---------------------------------------------------------------- against the log


def test_bound_is_calibrated_and_between_popularity_and_oracle():
    c = dataclasses.replace(FEW, users=300, titles=200, slate=50, plays_per_user=12.0)
    truth, catalogue, latents, plays, at = make_targets(c, 300)
    _, first, count = np.unique(plays.row[at], return_index=True, return_counts=True)
    at = at[first + count // 2]  # one of each user: those of one user are not independent
    user, time, target = latents.key[plays.row[at]], plays.time[at], plays.title[at]
    every = np.broadcast_to(np.arange(c.titles), (len(at), c.titles))
    kept, p, a = truth.reachable(user, time, HISTORY, 48)
    for density in (kept, p, a):
        np.testing.assert_allclose(density.sum(axis=1), 1, atol=1e-5)
    # The mass of the best titles is the share of requests whose title is among them.
    order = np.argsort(-kept, axis=1)[:, :10]
    hit, mass = (order == target[:, None]).any(axis=1), np.take_along_axis(kept, order, axis=1).sum(axis=1)
    assert abs((hit - mass).mean()) < 3 * hit.std() / len(at) ** 0.5
    # The information of the latent state is worth something, and that of the history too.
    oracle, _, _ = truth.shown(user, time, every)
    popular = oracle.astype(bool) * catalogue.exposure
    popular = popular / popular.sum(axis=1, keepdims=True)
    logs = [np.log(np.take_along_axis(q, target[:, None], axis=1))[:, 0] for q in (popular, kept, oracle)]
    for less, more in itertools.pairwise(logs):
        assert (more - less).mean() > 3 * (more - less).std() / len(at) ** 0.5


def test_a_request_is_the_same_alone_and_knows_no_future():
    truth, catalogue, latents, plays, at = make_targets(FEW, 30)
    user, time = latents.key[plays.row[at]], plays.time[at]
    together = truth.reachable(user, time, HISTORY, 64)
    for alone, of_all in zip(truth.reachable(user[5:6], time[5:6], HISTORY, 64), together, strict=True):
        np.testing.assert_array_equal(alone[0], of_all[5])
    later = np.arange(len(plays.title)) >= at[5]
    other = dataclasses.replace(
        plays, title=np.where(later, 0, plays.title), seconds=np.where(later, 1.0, plays.seconds)
    )
    seen = [observe(SimulatedService(FEW, catalogue, latents, p), at[5:6], HISTORY) for p in (plays, other)]
    for one, two in zip(*seen, strict=True):
        np.testing.assert_array_equal(one, two)


def test_knobs_that_add_to_choices_are_refused():
    truth = SimulatorSource(dataclasses.replace(FEW, regimes=1.0)).truth()
    with pytest.raises(InputError, match=r"source\.regimes=1\.0: the reachable bound covers taste"):
        truth.reachable(np.array([0]), np.array([2 * 10**12]), HISTORY, 8)


def test_probability_of_a_title_is_that_of_the_sum_over_the_catalogue():
    _, catalogue, _, _, _ = make_targets(FEW, 2)
    tables = make_tables(FEW, catalogue)
    estimate = StateFilter(FEW, catalogue, tables, 4)
    triple, removed = np.array([[5, 4000]]), 3
    exposure = catalogue.exposure.astype(np.float32)
    _, taken, _ = estimate._choose(triple, tables.taken[triple], np.array([removed]))
    arrival = np.where(np.arange(FEW.titles) == removed, 0, exposure)
    match = (tables.taste[triple[0]] @ catalogue.taste.T)[:, None] + tables.pairs
    utility = match + np.float32(0.6) * catalogue.appeal
    weight = np.exp(utility - utility.max(axis=2, keepdims=True)).reshape(-1, FEW.titles)
    expected = choice_density(weight, np.broadcast_to(arrival, weight.shape), FEW.slate)
    for title in (0, 7, 21):
        chosen, _, of_title = estimate._choose(triple, taken, np.array([title]))
        np.testing.assert_allclose(chosen.ravel(), expected[:, title], rtol=5e-3, atol=1e-6)
        np.testing.assert_allclose(of_title[0], match[..., title], atol=1e-5)
    assert len(GENRES) ** 2 == len(tables.pair_of)
