"""Study of titles as codes: where codes come from, sessions, and rounds of pairs, against a title policy.

python -m jaxrec.study --config configs/study_onerec.py --seeds 3 --jobs 1 --workdir S
python -m jaxrec.study --config configs/study_onerec.py:reduced --seeds 3 --jobs 1 --workdir S --tables codes
python -m jaxrec.study --config configs/study_onerec.py:tiny --seeds 1 --workdir S

The base is the title policy, imitation with four reward models beside it. Its vectors are coded, and its
reward models prefer in all rounds. Policy t + 1 of a round starts from policy t and learns from pairs among
the 32 best titles, or beams, of policy t at the positions of 1% of the users; at all other positions it
imitates. `raters` is an imitation of other seeds, by whose reward models all policies are measured.

| table | rows |
|---|---|
| codes | the title policy, and models of codes of its vectors, of metadata and random, of 1 and 5 titles |
| rounds | rounds 0 to 3 of codes from vectors |
| title_rounds | rounds 0 to 3 of the title policy |

`reduced` has fewer users, epochs and rows, and all claims but that of metadata. Its policies are measured by
the reward models of the title policy, which have preferred in the rounds. Its rounds have three times the
share of users with pairs, and twice the epochs, so that pairs and steps are nearly as many as with all users.
"""

from functools import partial

from configs import policy
from jaxrec.config import Config, Feature
from jaxrec.core.errors import InputError
from jaxrec.studies.plan import Claim, Policies, ResultTable, Row, Study

CODES, ROUNDS, TITLE_ROUNDS = "codes", "rounds", "title_rounds"
TITLE, RATERS = "title", "raters"
SCALES = ("small", "reduced", "tiny")
_SEED_OF_RATERS = 1_000
LAST_ROUND = {"small": 3, "reduced": 2, "tiny": 3}
_LEFT_OUT = {"reduced": ("raters", "metadata", "sessions")}  # scale -> rows that it lacks


def _base(scale: str) -> Config:
    """Return the title policy of the study."""
    base = policy.get_config("tiny" if scale == "tiny" else "small")
    base.name, width = f"onerec-{scale}", base.model.width
    if scale == "reduced":
        base.source.users, base.source.test_only_users = 6_000, 4_000
        base.data.validation_truth_queries, base.train.duration = 0, "10 epochs"
    base.features = (
        Feature("title_id", "category", "title", width=width),
        Feature("genres", "categories", "title", width=width, most=3),
    )
    base.model.features = ("title_id",)
    return base


def _generative(base: Config, is_tiny: bool) -> dict[str, object]:
    """Return the edits of a model of codes of equal width."""
    edits: dict[str, object] = {
        "task.name": "generative", "post.reward": "", "post.reward_models": 0,
        "optimizer.learning_rate": 3e-3,
    }  # fmt: skip
    if is_tiny:
        edits |= {"codes.levels": 2, "codes.size": 16, "codes.decoder": 1, "codes.places": 4, "codes.beam": 8}
    return edits


def _round(base: Config, scale: str) -> dict[str, object]:
    """Return the edits of a round of pairs."""
    edits: dict[str, object] = {
        "post.objective": "dpo", "post.beta": 0.1, "post.candidates": "best", "post.samples": 32,
        "post.pair_users": 0.01, "post.eta": 1.0, "post.rest": 1.0, "train.duration": "1 epochs",
        "optimizer.learning_rate": 0.2 * base.optimizer.learning_rate,
    }  # fmt: skip
    if scale == "reduced":
        edits |= {"post.pair_users": 0.03, "train.duration": "2 epochs"}
    if scale == "tiny":  # the reward models of a tiny run differ by more than their predictions
        edits |= {"post.pair_users": 0.5, "post.samples": 8, "post.pessimism": 0.01}
    return edits


def rows(base: Config, scale: str = "small") -> tuple[Row, ...]:
    """Return the rows: the title policy, models of codes, and the rounds of both."""
    is_tiny = scale == "tiny"
    generative, of_round = _generative(base, is_tiny), _round(base, scale)
    random, metadata = {"codes.vectors": "random"}, {"codes.vectors": "metadata"}
    if not is_tiny:  # 34 titles of the same genres share a path: the last token needs as many values
        metadata["codes.size"] = 64
    sessions = {"codes.titles": 5, "codes.reward": policy.REWARD}
    rounds = []
    for number in range(1, LAST_ROUND[scale] + 1):
        for first, edits, table in (("vectors", generative, ROUNDS), (TITLE, {}, TITLE_ROUNDS)):
            after = first if number == 1 else f"{first}_round_{number - 1}"
            codes = TITLE if edits else ""
            rounds.append(
                Row(f"{first}_round_{number}", edits | of_round, {table: f"round {number}"},
                    against=first, after=after, pairs=True, rewards=TITLE, codes=codes)
            )  # fmt: skip
    every = (
        Row(TITLE, {}, {CODES: "title policy", TITLE_ROUNDS: "round 0"}),
        Row(RATERS, {"train.seed": base.train.seed + _SEED_OF_RATERS}, {}),
        Row("vectors", generative, {CODES: "codes of vectors", ROUNDS: "round 0"}, codes=TITLE),
        Row("metadata", generative | metadata, {CODES: "codes of metadata"}, against="vectors"),
        Row("random", generative | random, {CODES: "random codes"}, against="vectors"),
        Row("sessions", generative | sessions, {CODES: "codes of vectors, 5 titles"}, against="vectors",
            codes=TITLE),
        *rounds,
    )  # fmt: skip
    return tuple(row for row in every if row.name not in _LEFT_OUT.get(scale, ()))


_OF_ALL = {"lists": ("catalogue",), "metric": "hr@10"}
CLAIMS = (
    Claim("codes of vectors have a higher HR@10 than random codes", (("vectors", "random"),), **_OF_ALL),
    Claim("codes of vectors have a higher HR@10 than of metadata", (("vectors", "metadata"),), **_OF_ALL),
    Claim("codes of vectors are less than .02 HR@10 below the title policy", (("vectors", TITLE),),
          margin=0.02, **_OF_ALL),
    Claim("two rounds raise the value of codes", (("vectors_round_2", "vectors"),), metric="truth/value"),
    Claim("two rounds raise the value of the title policy", (("title_round_2", TITLE),),
          metric="truth/value"),
    Claim("two rounds of codes have a higher value than of the title policy",
          (("vectors_round_2", "title_round_2"),), metric="truth/value"),
)  # fmt: skip


def get_config(scale: str = "small") -> Study:
    """Return the study for a name in SCALES."""
    if scale not in SCALES:
        raise InputError(f"configs/study_onerec.py:{scale}: the argument must be one of {', '.join(SCALES)}")
    tables = (
        ResultTable(CODES, "Codes"), ResultTable(ROUNDS, "Rounds of pairs, codes of vectors"),
        ResultTable(TITLE_ROUNDS, "Rounds of pairs, title policy"),
    )  # fmt: skip
    policies, base = Policies(measured_by=RATERS, percent_of=TITLE), _base(scale)
    if scale == "reduced":
        policies = Policies(measured_by=TITLE, percent_of="vectors")
    names = {row.name for row in rows(base, scale)}
    claims = tuple(c for c in CLAIMS if all(name in names for pair in c.pairs for name in pair))
    default = tuple(table.name for table in tables)
    of_scale = partial(rows, scale=scale)
    return Study(base.name, base, of_scale, tables, default, claims, policies=policies)
