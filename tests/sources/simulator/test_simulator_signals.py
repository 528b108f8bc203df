"""Signals of the simulated service: rules, knobs, order, and the truth's expectations of labels."""

import dataclasses
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from test_simulator import make_service, select_users

from jaxrec.config.schema import Label, Signal, Simulator
from jaxrec.core.tables import Source
from jaxrec.data.labels.extraction import extract
from jaxrec.data.labels.tables import PLAY, Anchors, Events, LabelTitles
from jaxrec.sources.simulator import enjoyment, world
from jaxrec.sources.simulator import source as source_module
from jaxrec.sources.simulator.plays import NEVER, make_plays, slate_titles
from jaxrec.sources.simulator.signals import OTHERS, first_end, last_end, make_signals
from jaxrec.sources.simulator.source import SimulatorSource, to_interactions

SIGNALS = tuple(Signal(name, value) for name, value in Simulator.generated_signals.items())
NAMES = tuple(signal.name for signal in SIGNALS)
HOUR = 3_600_000
# More events than by default, so that a small service decides. About 20,000 plays.
KNOBS = dict(
    thumbs=0.3, ratings=0.6, lists=0.8, impressions_logged=0.7, trailers=1.5, habit=0.1, replay_watched=0.3
)
USERS = 1700


@cache
def service():
    """Return (config, catalogue, latents, plays) of a service."""
    return make_service(USERS, **KNOBS)


@cache
def events(name):
    """Return the events of a signal, with the play of each."""
    c, catalogue, latents, plays = service()
    return with_plays(make_signals(c, catalogue, latents, plays, (name,)))


class Event(NamedTuple):
    """Events of one signal."""

    play: np.ndarray  # first play at or after the event, for trailers; at the event or before for others
    title: np.ndarray
    time: np.ndarray
    value: np.ndarray


def with_plays(signals):
    _, _, _, plays = service()
    stamp = plays.row * 2**45 + (plays.time - world.EPOCH_MS)
    at = signals.user * 2**45 + (signals.time - world.EPOCH_MS)
    return Event(np.searchsorted(stamp, at), signals.title, signals.time, signals.value)


def play_of_title(user, title):
    """Return the play of each user and title; -1 for none."""
    _, _, _, plays = service()
    pair = plays.row * 1000 + plays.title
    order = np.argsort(pair)
    at = order[np.minimum(np.searchsorted(pair[order], user * 1000 + title), len(pair) - 1)]
    return np.where(pair[at] == user * 1000 + title, at, -1)


@cache
def signals_of(*names):
    return make_signals(*service(), names)


# ---------------------------------------------------------------- enjoyment


def test_enjoyment_has_the_spread_that_was_designed():
    """Under the density of first choices: mean .546, 39% by title, 14% by request, .61 with staying."""
    c, catalogue, latents, plays = make_service(800, plays_per_user=2.0)
    at = np.flatnonzero(plays.index == 0)
    truth = SimulatorSource(c).truth()
    key, time = latents.key[plays.row[at]], plays.time[at]
    density, e = (x.astype(np.float64) for x in (truth.choice(key, time), truth.reward(key, time)))
    wish = world.preference(c, latents, plays.row[at], plays.week[at], plays.mood[at])
    match = wish @ catalogue.taste.T
    stay = world.stay_probability(c, catalogue.satisfaction, latents.patience[plays.row[at], None], match)

    def mean(x):
        return (density * x).sum() / len(at)

    by_title, by_request = (density * e).sum(axis=0) / density.sum(axis=0), (density * e).sum(axis=1)
    spread = mean((e - mean(e)) ** 2)
    assert mean(e) == pytest.approx(0.546, abs=0.015)
    assert mean((by_title - mean(e)) ** 2) / spread == pytest.approx(0.39, abs=0.03)
    assert ((by_request - mean(e)) ** 2).mean() / spread == pytest.approx(0.14, abs=0.025)
    correlation = mean((e - mean(e)) * (stay - mean(stay)))
    correlation /= (spread * mean((stay - mean(stay)) ** 2)) ** 0.5
    assert correlation == pytest.approx(0.61, abs=0.03)

    # One value by hand. z has the hash of the user and the title alone.
    n, title = at[3], 17
    z = world.normal(c.seed, world.Draw.SURPRISE, latents.key[plays.row[n]], title)
    odds = -0.6 + 0.6 * catalogue.satisfaction[title] + 0.5 * (match[3, title] - 3) + 0.5 * z
    assert e[3, title] == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-6)


def test_knobs_remove_parts_of_enjoyment():
    c, catalogue, _, _ = service()

    def odds(**knobs):
        changed = dataclasses.replace(c, **knobs)
        return enjoyment.enjoyment_odds(
            changed, catalogue, np.array([3, 4]), np.array([5, 5]), np.array([2.0, 1])
        )

    plain = odds(surprise=0.0)
    assert plain[0] - plain[1] == pytest.approx(0.5)
    assert odds()[0] - odds()[1] != pytest.approx(0.5, abs=1e-3)
    assert odds(surprise=0.0, match=0.0) == pytest.approx(-0.6 + 0.6 * catalogue.satisfaction[[5, 5]])
    assert odds(surprise=0.0, match=0.0, satisfaction=0.0) == pytest.approx([-0.6, -0.6])


# ---------------------------------------------------------------- each signal


def test_thumbs_are_of_watched_titles_at_the_end_of_the_first_session_or_days_later():
    c, _, _, plays = service()
    made = signals_of("thumb")
    play = play_of_title(made.user, made.title)
    assert (play >= 0).all() and len(np.unique(play)) == len(play)
    assert (plays.seen_from[play] == plays.time[play]).all() and set(made.value) == {-1, 1}
    wait = (made.time - first_end(plays)[play]) / (24 * HOUR)
    late = wait > 0
    assert late.mean() == pytest.approx(0.1, abs=4 * (0.09 / len(late)) ** 0.5)
    assert (wait >= 0).all() and wait[late].min() >= 1 and 6 < wait[late].max() <= 7
    none = make_signals(dataclasses.replace(c, thumbs=0.0), *service()[1:], ("thumb",))
    assert len(none.user) == 0


def test_leniency_moves_thumbs_of_users_together():
    """Share of a user's thumbs that are up: its variance over users, beside that of the draws."""
    spread = []
    for leniency in (0.0, 2.0):
        c = dataclasses.replace(service()[0], leniency=leniency, thumbs=1.0, surprise=0.0)
        made = make_signals(c, *service()[1:], ("thumb",))
        number = np.bincount(made.user, minlength=USERS)
        up = np.bincount(made.user, made.value > 0, minlength=USERS)[number > 5] / number[number > 5]
        spread.append(up.var())
    assert spread[1] > 1.4 * spread[0]


def test_ratings_are_whole_numbers_at_the_end_of_the_last_session():
    c, _, _, plays = service()
    made = signals_of("rating")
    play = play_of_title(made.user, made.title)
    assert len(play) / len(plays.row) == pytest.approx(c.ratings, abs=4 * (0.24 / len(plays.row)) ** 0.5)
    assert set(made.value) == {1, 2, 3, 4, 5}
    np.testing.assert_array_equal(made.time, last_end(plays)[play])
    assert (last_end(plays) > first_end(plays)).mean() > 0.1
    abandoned = plays.seen_from[play] == NEVER
    assert made.value[abandoned].mean() < made.value[~abandoned].mean() - 0.5


def slates_of(play):
    c, catalogue, latents, plays = service()
    return slate_titles(c, catalogue.shelf, latents.key[plays.row[play]], plays.index[play])


def played_before(play, title):
    """Return whether the user played a title before each play."""
    _, _, _, plays = service()
    first = play_of_title(plays.row[play], title)
    return (first >= 0) & (plays.index[first] < plays.index[play])


def test_impressions_are_the_chosen_title_and_others_of_the_slate():
    c, _, _, plays = service()
    shown = events("impression")
    np.testing.assert_array_equal(plays.time[shown.play], shown.time)
    logged, number = np.unique(shown.play, return_counts=True)
    rate = len(logged) / len(plays.row)
    assert rate == pytest.approx(c.impressions_logged, abs=4 * (0.21 / len(plays.row)) ** 0.5)
    assert number.max() == OTHERS + 1 and (number == OTHERS + 1).mean() > 0.99
    chosen = shown.title == plays.title[shown.play]
    assert chosen.sum() == len(logged)
    pair = shown.play * 1000 + shown.title
    assert len(np.unique(pair)) == len(pair)
    some = np.flatnonzero(shown.play < 3000)
    assert (slates_of(shown.play[some]) == shown.title[some][:, None]).any(axis=1).all()
    assert not played_before(shown.play, shown.title).any()


def test_list_adds_are_other_titles_of_the_slate():
    c, _, _, plays = service()
    listed = events("list_add")
    np.testing.assert_array_equal(plays.time[listed.play], listed.time)
    rate = len(listed.play) / len(plays.row)
    assert rate == pytest.approx(c.lists, abs=4 * (0.25 / len(plays.row)) ** 0.5)
    assert (listed.title != plays.title[listed.play]).all() and len(np.unique(listed.play)) == len(
        listed.play
    )
    assert (slates_of(listed.play) == listed.title[:, None]).any(axis=1).all()
    assert not played_before(listed.play, listed.title).any()


def test_trailers_come_in_the_minutes_before_a_play_and_are_longer_with_the_match():
    c, catalogue, latents, plays = service()
    trailer = events("trailer")
    per_play = np.bincount(trailer.play, minlength=len(plays.row))
    assert per_play.mean() == pytest.approx(c.trailers, abs=4 * (c.trailers / len(plays.row)) ** 0.5)
    assert per_play.var() == pytest.approx(c.trailers, rel=0.05)
    wait = plays.time[trailer.play] - trailer.time
    assert wait.min() > 0 and wait.max() <= 5 * 60_000
    previous = np.maximum(trailer.play - 1, 0)
    same = (plays.row[previous] == plays.row[trailer.play]) & (previous < trailer.play)
    assert (trailer.time >= first_end(plays)[previous])[same].all()
    assert trailer.value.min() >= 5 and trailer.value.max() <= 60
    assert (slates_of(trailer.play) == trailer.title[:, None]).any(axis=1).all()
    wish = world.preference(c, latents, plays.row, plays.week, plays.mood)[trailer.play]
    match = np.einsum("pd,pd->p", wish, catalogue.taste[trailer.title])
    assert np.corrcoef(match, trailer.value)[0, 1] > 0.5
    # Appeal plays no part: titles of trailers have less of it than titles played, and more match.
    assert catalogue.appeal[trailer.title].mean() < catalogue.appeal[plays.title].mean() - 0.1
    other = np.einsum("pd,pd->p", wish, catalogue.taste[plays.title[trailer.play]])
    assert match.mean() > other.mean()
    assert len(make_signals(dataclasses.replace(c, trailers=0.0), *service()[1:], ("trailer",)).user) == 0


# ---------------------------------------------------------------- the same in any order


def fields(signals, kept=slice(None)):
    return np.stack(
        [getattr(signals, f)[kept].astype(np.float64) for f in ("user", "title", "time", "value")]
    )


def test_a_signal_does_not_depend_on_the_other_signals_and_users():
    c, catalogue, latents, plays = service()
    every = signals_of(*NAMES)
    assert (
        every.kind.dtype == np.int8 and every.value.dtype == np.float32 and (np.diff(every.time) >= 0).all()
    )
    assert len(every.user) > 10 * len(plays.row)
    for kind, name in enumerate(NAMES):
        alone = signals_of(name)
        assert not alone.kind.any() and len(alone.user) > 1000
        np.testing.assert_array_equal(fields(alone), fields(every, every.kind == kind))
    rows = [3, 500, 1200]
    few = world.make_latents(c, latents.key[rows])
    some = make_signals(c, catalogue, few, make_plays(c, catalogue, few), NAMES)
    np.testing.assert_array_equal(fields(some), fields(every, np.isin(every.user, rows)))
    renumbered = make_signals(c, catalogue, few, select_users(plays, rows), NAMES)
    np.testing.assert_array_equal(fields(some), fields(renumbered))


def test_parts_and_blocks_of_the_source_give_the_same_events(monkeypatch):
    c = dataclasses.replace(service()[0], users=80, test_only_users=20, titles=200)
    monkeypatch.setattr("jaxrec.sources.simulator.signals._CELLS", 30_000)  # thirty plays at a time
    [whole] = SimulatorSource(c, SIGNALS).signals()
    monkeypatch.undo()
    monkeypatch.setattr(source_module, "BLOCK", 27)
    source: Source = SimulatorSource(c, SIGNALS)
    parts = [chunk for part in source.signal_parts() for chunk in source.signals(part)]
    assert len(parts) == len(source.signal_parts()) == 4
    for a, b in zip(parts, source.signals(), strict=True):
        np.testing.assert_array_equal(fields(a), fields(b))
    both = np.concatenate([fields(chunk) for chunk in parts], axis=1)
    kinds = np.concatenate([chunk.kind for chunk in parts])

    def ordered(columns, kind):
        columns = np.concatenate([columns, kind[None]])
        return columns[:, np.lexsort(columns)]

    np.testing.assert_array_equal(ordered(both, kinds), ordered(fields(whole), whole.kind))
    plain: Source = SimulatorSource(c)
    assert plain.signal_parts() == () and list(plain.signals()) == []
    # Plays are those of the service without signals.
    for a, b in zip(plain.interactions(), source.interactions(), strict=True):
        np.testing.assert_array_equal(a.time, b.time)


def test_defaults_and_signals_leave_the_plays_as_they_are():
    """Knobs of signals change no play; `habit` does."""
    c = Simulator(users=80, test_only_users=0)
    expected = next(iter(SimulatorSource(c).interactions()))
    knobs = dict(
        surprise=0.2, thumbs=0.5, leniency=2.0, ratings=1.0, lists=1.0, impressions_logged=0.1, trailers=3.0
    )
    for changed, equal in ((knobs, True), ({"habit": 0.2}, False)):
        chunk = next(iter(SimulatorSource(dataclasses.replace(c, **changed)).interactions()))
        assert np.array_equal(chunk.seconds, expected.seconds) == equal


# ---------------------------------------------------------------- expectations

LABELS = (
    Label("finished", "at_least", at=0.9),
    Label("finished_month", "at_least", at=0.9, hours=720),
    Label("begun", "at_least", at=0.1),
    Label("half", "quick", at=0.5, hours=60),
    Label("share", "completion"),
    Label("share_month", "completion", hours=720),
    Label("thumb", "happened", "thumb"),
    Label("thumb_week", "count", "thumb", hours=100),
    Label("liked", "last", "thumb", hours=200),
    Label("thumb_up", "positive", "thumb", hours=200),
    Label("rated", "happened", "rating"),
    Label("rated_week", "count", "rating", hours=200),
    Label("stars", "last", "rating", hours=300),
    Label("shown", "happened", "impression", hours=0.01),
)


def outcomes(c, catalogue, latents, plays, made):
    """Return the expected and the observed values of LABELS at the first plays of users.

    Observed values are NaN where a label is unknown.
    """
    log = to_interactions(c, catalogue, latents, plays)

    def ordered(user, title, time, kind, value):
        order = np.lexsort((time, title, user))
        return Events(user[order], title[order], time[order], kind[order], value[order])

    kind = np.full(len(log.user), PLAY, np.int8)
    values = extract(
        Anchors(latents.key[plays.row], plays.title, plays.time),
        ordered(log.user, log.title, log.time, kind, log.seconds),
        ordered(made.user, made.title, made.time, made.kind, made.value),
        LabelTitles(catalogue.runtime, {}), LABELS, int(log.time.max()) + 1, NAMES,
    )  # fmt: skip
    expected = (
        SimulatorSource(c)
        .truth()
        .labels(latents.key[plays.row], plays.time, plays.title[:, None], LABELS)[:, 0]
    )
    observed = [np.where(values[label.name].known, values[label.name].y, np.nan) for label in LABELS]
    return expected, np.stack(observed, axis=1)


def deviations(expected, observed, label):
    """Return (mean observed - mean expected) / standard error in 20 bins of the expectation.

    The error of a rate is that of the expectation: in a bin of rare events there may be none.
    """
    is_rate = label.rule in ("happened", "count", "at_least", "quick")
    known = ~np.isnan(observed)
    expected, observed = expected[known], observed[known]
    assert np.isfinite(expected).all()
    out = []
    for rows in np.array_split(np.argsort(expected, kind="stable"), 20):
        difference = observed[rows] - expected[rows]
        variance = (expected[rows] * (1 - expected[rows])).mean() if is_rate else difference.var()
        out.append(difference.mean() / max(variance / len(rows), 1e-12) ** 0.5)
    return np.array(out)


@cache
def small_outcomes():
    return outcomes(*service(), signals_of(*NAMES))


@pytest.mark.parametrize("index", range(len(LABELS)), ids=[label.name for label in LABELS])
def test_rates_of_labels_are_those_of_the_truth(index):
    expected, observed = (columns[:, index] for columns in small_outcomes())
    z = deviations(expected, observed, LABELS[index])
    assert abs(z).max() < 4, z
    # The expectation differs between requests; a week is nearly always enough to rate.
    assert LABELS[index].name in ("shown", "rated_week") or np.nanstd(expected) > 0.01


def cells(expected, chosen):
    """Return (events - expected number) / its deviation in 20 bins of [N, V], of equal expected numbers."""
    flat = np.sort(expected.ravel())
    total = np.cumsum(flat, dtype=np.float64)
    edges = flat[np.searchsorted(total, total[-1] * np.arange(1, 20) / 20)]
    number = np.bincount(np.searchsorted(edges, expected.ravel()), expected.ravel(), minlength=20)
    events = np.bincount(np.searchsorted(edges, chosen), minlength=20)
    return (events - number) / np.sqrt(number)


def test_choices_and_list_adds_are_those_of_the_truth():
    """Over all titles: each play is one choice, and each list add one of the second draw."""
    c, _, latents, plays = service()
    at = np.arange(0, len(plays.row), 16)
    truth = SimulatorSource(c).truth()
    key, time = latents.key[plays.row[at]], plays.time[at]
    choice = truth.choice(key, time)
    np.testing.assert_allclose(choice.sum(axis=1), 1, rtol=1e-5)
    before = (plays.row == plays.row[at][:, None]) & (plays.time < time[:, None])
    n, earlier = np.nonzero(before)
    assert (choice[n, plays.title[earlier]] == 0).all()  # abandoned or not
    assert abs(cells(choice, choice[np.arange(len(at)), plays.title[at]])).max() < 4

    listed = events("list_add")
    every = np.broadcast_to(np.arange(1000), choice.shape)
    second = truth.labels(key, time, every, [Label("add", "happened", "list_add", hours=0.01)])[..., 0]
    np.testing.assert_allclose(second.sum(axis=1), c.lists, rtol=0.005)
    row = np.searchsorted(at, listed.play)
    sampled = (row < len(at)) & (at[np.minimum(row, len(at) - 1)] == listed.play)
    assert sampled.sum() > 900
    assert abs(cells(second, second[row[sampled], listed.title[sampled]])).max() < 4


def test_labels_without_a_closed_form_are_nan():
    c, _, latents, plays = service()
    truth, at = SimulatorSource(c).truth(), [5]
    labels = [
        Label("a", "returned"), Label("b", "count"), Label("c", "happened", "trailer"),
        Label("d", "happened", "thumb", hours=1), Label("e", "at_least", at=0.5), Label("f", "seconds"),
    ]  # fmt: skip
    values = truth.labels(latents.key[plays.row[at]], plays.time[at], np.array([[1, 2]]), labels)
    assert values.shape == (1, 2, 6)
    assert np.isnan(values).all(axis=(0, 1)).tolist() == [True, True, True, True, False, True]


@pytest.mark.slow
def test_rates_of_labels_of_200_000_plays():
    """At the default knobs, in blocks of users: 200,000 plays. Two minutes."""
    c, blocks = Simulator(users=17_000), []
    catalogue = world.make_catalogue(c)
    for first in range(0, 17_000, 3400):
        latents = world.make_latents(c, np.arange(first, first + 3400))
        plays = make_plays(c, catalogue, latents)
        made = make_signals(c, catalogue, latents, plays, NAMES)
        blocks.append(outcomes(c, catalogue, latents, plays, made))
    expected, observed = (np.concatenate(columns) for columns in zip(*blocks, strict=True))
    assert len(expected) > 195_000
    for i, label in enumerate(LABELS):
        z = deviations(expected[:, i], observed[:, i], label)
        print(f"{label.name}: mean {np.nanmean(observed[:, i]):.4f}, largest deviation {abs(z).max():.2f}")
        assert abs(z).max() < 4, (label.name, z)
