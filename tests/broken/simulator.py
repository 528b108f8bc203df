"""Lines of the simulated service: its signals, its truth, and what preparation stores of it."""

from tests.broken.line import Line

_SIGNALS = "tests/sources/simulator/test_simulator_signals.py"
_TRUTH = "tests/sources/simulator/test_simulator_truth.py"
_CHANGE = "tests/sources/simulator/test_service_change.py"
_EXACT = f"{_CHANGE}::test_densities_agree_with_frequencies_by_country_age_and_trend"
_PREPARED = (
    "tests/data/runners/test_simulated_signals.py::test_the_truth_of_test_queries_is_stored_by_title_id"
)

_CANVASES = "tests/sources/simulator/test_canvases.py"
_ON_CANVASES = f"{_CANVASES}::test_densities_agree_with_frequencies_on_each_canvas"

LINES = (
    Line(
        "the oracle has the kinship of a page",
        "jaxrec/sources/simulator/service.py",
        "return nats + np.float32(c.kinship) * canvases.kinship(self.plays.source[play], title)",
        "return nats",
        (_ON_CANVASES,),
    ),
    Line(
        "the oracle has the query of a search",
        "jaxrec/sources/simulator/service.py",
        "out[searched] *= query_probability(self.config, self.catalogue.canvases, *of_plays)",
        "pass",
        (f"{_CANVASES}::test_the_choice_of_a_search_is_restricted_to_the_titles_that_match",),
    ),
    Line(
        "a genre is drawn among all genres of a title",
        "jaxrec/sources/simulator/canvases/titles.py",
        "np.repeat(1.0 / lengths, lengths)",
        "np.repeat(1.0 + 0 * lengths, lengths)",
        (f"{_CANVASES}::test_queries_are_prefixes_or_genres_with_one_wrong_letter_in_twenty",),
    ),
    Line(
        "the oracle knows what is launched and licensed",
        "jaxrec/sources/simulator/oracle/following.py",
        "    free = free * service.is_offered(ids, every)\n",
        "",
        (_EXACT,),
    ),
    Line(
        "the oracle knows novelty and trends",
        "jaxrec/sources/simulator/service.py",
        "nats = appeal + self.catalogue.change.utility(self.plays.day[play], title)",
        "nats = appeal + 0 * self.catalogue.change.utility(self.plays.day[play], title)",
        (_EXACT,),
    ),
    Line(
        "titles that are not launched have no weight",
        "jaxrec/sources/simulator/plays.py",
        "weight[~catalogue.change.is_offered(today, latents.country[users], slate)] = 0.0",
        "pass",
        (
            _EXACT,
            f"{_CHANGE}::test_launches_are_even_over_the_days_and_nothing_is_played_before",
        ),
    ),
    Line(
        "signals show no title before its launch",
        "jaxrec/sources/simulator/signals.py",
        "is_free = service.is_unplayed(play, title) & service.is_offered(play, title)",
        "is_free = service.is_unplayed(play, title)",
        (f"{_CHANGE}::test_launches_are_even_over_the_days_and_nothing_is_played_before",),
    ),
    Line(
        "the oracle expects plays that are left running by habit",
        "jaxrec/sources/simulator/world.py",
        "return (1.0 - c.habit) * (1.0 - stay",
        "return 1.0 * (1.0 - stay",
        (f"{_TRUTH}::test_abandonment_agrees_with_its_closed_form",),
    ),
    Line(
        "abandoned plays get no thumb",
        "jaxrec/sources/simulator/signals.py",
        "play = np.flatnonzero(kept & drawn)",
        "play = np.flatnonzero(drawn)",
        (f"{_SIGNALS}::test_rates_of_labels_are_those_of_the_truth",),
    ),
    Line(
        "titles played before are not shown",
        "jaxrec/sources/simulator/signals.py",
        "& _first(slates.title)",
        "& _first(slates.title) | ~slates.is_free & _first(slates.title)",
        (f"{_SIGNALS}::test_impressions_are_the_chosen_title_and_others_of_the_slate",),
    ),
    Line(
        "the second draw of a slate is another title",
        "jaxrec/sources/simulator/oracle/choices.py",
        "(before.sum(axis=1, keepdims=True) - before)",
        "before.sum(axis=1, keepdims=True)",
        (f"{_SIGNALS}::test_choices_and_list_adds_are_those_of_the_truth",),
    ),
    Line(
        "replays count for labels of completion",
        "jaxrec/sources/simulator/oracle/expectations.py",
        "return _reaches(c, candidates, at, hours) + _reaches_by_replay(c, candidates, at, hours)",
        "return _reaches(c, candidates, at, hours)",
        (f"{_SIGNALS}::test_rates_of_labels_are_those_of_the_truth",),
    ),
    Line(
        "columns of the stored choices are title ids",
        "jaxrec/data/examples/truth_queries.py",
        "truth.choice(user[block], time[block])[:, row_of_id]",
        "truth.choice(user[block], time[block])",
        (_PREPARED,),
    ),
    Line(
        "the oracle of all first plays knows what was abandoned",
        "jaxrec/data/examples/truth_queries.py",
        "            p = choice_of(truth, keys, time, titles.order[rank])",
        "            pass",
        (_PREPARED,),
    ),
    Line(
        "newer fields of the simulator stay out of digests at their defaults",
        "jaxrec/config/serialization.py",
        "k not in _LATER_SIMULATOR or v",
        "True or v",
        (
            "tests/config/test_signal_rules.py::test_newer_fields_of_the_simulator_enter_a_digest_where_they_are_set",
        ),
    ),
)
