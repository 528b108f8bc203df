"""Lines of the reachable bound: the filter of latent states, its evidence and its moves."""

from tests.broken.line import Line

_TEST = "tests/sources/simulator/test_reachable.py"
_FILTER = "jaxrec/sources/simulator/oracle/reachable.py"
_SUM = f"{_TEST}::test_bound_is_the_sum_over_all_states"

LINES = (
    Line(
        "a title that was played leaves the slates of later plays",
        _FILTER,
        "left[..., node] = taken[..., node] - arrival * (1 - absent)",
        "left[..., node] = taken[..., node]",
        (f"{_TEST}::test_probability_of_a_title_is_that_of_the_sum_over_the_catalogue",),
    ),
    Line(
        "a new sitting has a new mood",
        _FILTER,
        "lasts = np.where(seen.is_new[:, place], 0.0,",
        "lasts = np.where(seen.is_new[:, place], 1.0,",
        (_SUM,),
    ),
    Line(
        "interests move by the week",
        _FILTER,
        "same = ((1 - c.interest_moves) ** seen.weeks[:, place])",
        "same = ((1 - c.interest_moves) ** (0 * seen.weeks[:, place]))",
        (_SUM,),
    ),
    Line(
        "the taste of a country is known",
        "jaxrec/sources/simulator/oracle/states.py",
        " + taste_of_countries(c, len(GENRES))[country]",
        "",
        (_SUM,),
    ),
    Line(
        "a title without a licence is on no slate",
        "jaxrec/sources/simulator/oracle/states.py",
        "catalogue.exposure * catalogue.change.licensed[country]",
        "catalogue.exposure",
        (_SUM,),
    ),
    Line(
        "users are filtered with the tables of their country",
        "jaxrec/sources/simulator/truth.py",
        "make_tables(self.config, self.catalogue, country)",
        "make_tables(self.config, self.catalogue, 0)",
        (_SUM,),
    ),
    Line(
        "the proposal is divided out",
        _FILTER,
        "likelihood = (ends * (chosen / proposed[..., None])[:, :, None])",
        "likelihood = (ends * chosen[:, :, None])",
        (_SUM,),
    ),
    Line(
        "plays that were abandoned in between are summed out",
        _FILTER,
        "ends /= 1 - np.moveaxis(tables.lost[triple[at]], 3, 2)",
        "ends /= 1",
        (_SUM,),
    ),
    Line(
        "shares are sampled at places that move",
        _FILTER,
        "points = (share + (share * _GOLDEN + 0.5) % 1.0) / number",
        "points = (share + 0.5) / number",
        (f"{_TEST}::test_stratified_samples_have_the_shares_of_the_weights",),
    ),
    Line(
        "completions are evidence of the match",
        "jaxrec/sources/simulator/oracle/observations.py",
        "below = np.exp(power * np.log(share))",
        "below = np.exp(np.log(share))",
        (f"{_TEST}::test_completion_density_is_the_slope_of_the_distribution",),
    ),
    Line(
        "the request's own play is not visible",
        "jaxrec/sources/simulator/oracle/observations.py",
        "completion=np.where(exists, np.minimum(completion, 1.0), 0.0).astype(np.float32),",
        "completion=np.minimum(completion, 1.0).astype(np.float32),",
        (f"{_TEST}::test_a_request_is_the_same_alone_and_knows_no_future",),
    ),
    Line(
        "q of a list has the hard negatives of its own density",
        "benchmarks/reachable.py",
        "out[name] = np.maximum(q - num_hard(queries, dataset, name)[:, None] * hard, 1e-9)",
        "out[name] = np.maximum(q, 1e-9)",
        ("tests/benchmarks/test_reachable_share.py::test_the_oracle_orders_the_lists_as_the_rows_do",),
    ),
)
