"""Study of slices: a global model, models that weigh or lack the country, and mixtures of them.

python -m benchmarks.slices --config configs/study_slices.py:small --seeds 3 --workdir S
python -m benchmarks.slices --config configs/study_slices.py:tiny --seeds 1 --workdir S
python -m benchmarks.slices --config configs/study_slices.py:kuairand --seeds 1 --workdir S

The simulated service has six countries, of which three are small (MX, IN, NZ: 7, 5 and 3% of the users),
and three tenures. `global` is trained on all users and reads the country; `no_country` does not read it;
`strata` weighs the examples of a country by the square root of its size. `only_<country>` is trained on a
small country alone, and `whole_`, `heads_`, `low_rank_` and `distil_<country>` go on from the global model
with that country (`data.only`, tables `only <country>`). `fuller` is the global model trained on ten times as
many users (four times in `tiny`): where it is better, the global model fails for want of data.
`benchmarks.slices` trains the rows, mixes them, and evaluates all by country and by country and tenure, on
the test users of the `fuller` row's dataset. `python -m jaxrec.study` prints the rows without slices.

`kuairand` has the page (`tab`) as a proxy of a country: two pages of an app differ more than two countries.
"""

from configs import kuairand, smoe, tiny
from jaxrec.config import Config, Data, Evaluate, Expert, Feature, Gate, Model, Optimizer, Simulator, Train
from jaxrec.config.serialization import dataset_directory
from jaxrec.core.errors import InputError
from jaxrec.studies.plan import Claim, Premise, ResultTable, Row, Study

GLOBAL, FULLER = "global", "fuller"
ROWS = "rows"  # name of the table
_FULLER_SHARE = 0.5  # largest share of the users that a fuller model is trained on
SCALES = ("small", "tiny", "kuairand")
SMALL_COUNTRIES = ("MX", "IN", "NZ")
_BELOW_HEADS = ("title/", "user/", "context/", "history/", "expert_")  # parameters of the encoder


def slice_feature(base: Config) -> str:
    """Return the feature by which the study divides users or requests: "country", or "tab" of KuaiRand."""
    return next(f.name for f in base.features if f.name in ("country", "tab"))


def rows(base: Config) -> tuple[Row, ...]:
    """Return the rows that are trained."""
    feature = slice_feature(base)
    others = tuple(f.name for f in base.features if f.name != feature)
    out = [
        Row(GLOBAL, {}, {ROWS: "global"}),
        Row(f"no_{feature}", {"model.features": others}, {ROWS: f"global without {feature}"}),
    ]
    if feature == "country":  # strata are of users
        edits = {"sampling.strata": feature, "sampling.strata_power": 0.5}
        out.append(Row("strata", edits, {ROWS: "strata, power .5"}))
        out.append(_fuller(base))
        out += [row for value in SMALL_COUNTRIES for row in _of_slice(base, f"{feature}={value}")]
    return tuple(out)


def _fuller(base: Config) -> Row:
    """Return the row of the global model with more users; its dataset continues that of the study."""
    share = min(10 * base.data.train_share, _FULLER_SHARE)
    more = round(share / base.data.train_share)
    data = {"data.train_share": share, "data.continues": dataset_directory(base)}
    return Row(FULLER, data, {FULLER: f"global, {more} times as many users"})


def _of_slice(base: Config, only: str) -> list[Row]:
    """Return the rows that are trained on a slice alone: from nothing, and from the global model.

    The datasets of a slice continue the study's dataset, so that ids mean the same. They are tables of their
    own, because their test users are those of the slice.
    """
    name = only.partition("=")[2]
    data = {
        "data.only": only,
        "data.continues": dataset_directory(base),
        "train.duration": base.train.duration,
    }
    tuned = data | {"optimizer.learning_rate": base.optimizer.learning_rate / 3}
    # One expert has no gate, and a pattern must match a parameter.
    frozen = (*_BELOW_HEADS, *(("gate/",) if len(base.model.experts) > 1 else ()))
    heads = {"start.freeze": tuple(f"{part}*" for part in frozen)}
    low_rank, anchor = {"start.low_rank": 8}, {"start.anchor": 0.01}
    ways = {
        "whole": {}, "whole_anchor": anchor, "heads": heads, "heads_anchor": heads | anchor,
        "low_rank": low_rank, "low_rank_anchor": low_rank | anchor, "distil": {"objective.distil": 1.0},
    }  # fmt: skip
    out = [Row(f"only_{name}", data, {f"only {name}": "slice only"})]
    for way, edits in ways.items():
        label = f"global, then {way.replace('_', ' ')}"
        out.append(Row(f"{way}_{name}", tuned | edits, {f"only {name}": label}, after=GLOBAL))
    return out


def _claims(feature: str) -> tuple[Claim, ...]:
    return (Claim(f"reading the {feature} does no harm", ((GLOBAL, f"no_{feature}"),), margin=0.005),)


def _with_countries(config: Config, width: int) -> Config:
    """Return a config of a simulated service with countries and tenures as features of users."""
    config.source.countries, config.source.country_taste, config.source.unlicensed = 6, 1.0, 0.1
    config.features = (
        *config.features,
        Feature("country", "category", "user", width=width),
        Feature("tenure", "category", "user", width=width),
    )
    return config


def _small() -> Config:
    """Return a config that one core trains in about a minute."""
    experts = (Expert(16, num_layers=1, num_heads=2, mlp_ratio=2.0, dropout=0.1),)
    return Config(
        source=Simulator(users=90_000, test_only_users=0, titles=300),
        features=smoe.features(16),
        data=Data(max_history=16, train_share=0.05, validation_share=0.01),
        model=Model(width=16, experts=experts, gate=Gate(hidden=(8,)), dropout=0.1, head_hidden=(32, 16)),
        optimizer=Optimizer(learning_rate=3e-3),
        train=Train(duration="4 epochs", batch_size=256),
        evaluate=Evaluate(batch_size=2048),
    )


def _tiny() -> Config:
    """Return configs/tiny.py with most users left for the fuller model and the test."""
    config = tiny.get_config()
    config.source.users, config.data.train_share, config.data.validation_share = 1_200, 0.125, 0.125
    return config


def get_config(scale: str = "small") -> Study:
    """Return the study for one of SCALES."""
    if scale not in SCALES:
        raise InputError(f"configs/study_slices.py:{scale}: the argument must be one of {', '.join(SCALES)}")
    if scale == "kuairand":
        config = kuairand.get_config()
    else:
        config = _with_countries(_small() if scale == "small" else _tiny(), 8)
    config.name = f"slices-{scale}"
    config.evaluate.next_k, config.evaluate.report, config.evaluate.report_users = (1,), False, 0
    # The mixture reads probabilities of a list, which the softmax loss gives.
    config.objective.ranking_loss = "softmax"
    feature = slice_feature(config)
    tables = [ResultTable(ROWS, "Rows of the study, all test users")]
    if feature == "country":
        tables.append(ResultTable(FULLER, "More users, tested on other users"))
        tables += [ResultTable(f"only {c}", f"Trained and tested on {c} alone") for c in SMALL_COUNTRIES]
    premises = (
        Premise("strata pay where countries differ", "source.country_taste", "strata", GLOBAL),
    ) if feature == "country" else ()  # fmt: skip
    return Study(config.name, config, rows, tuple(tables), (ROWS,), _claims(feature), premises)
