"""Study of post-training: objectives that start from one run of behaviour cloning a seed.

python -m jaxrec.study --config configs/study_post.py --seeds 5 --jobs 2 --workdir S
python -m jaxrec.study --config configs/study_post.py:tiny --seeds 2 --workdir S
python -m jaxrec.study --config configs/study_post.py:kuairand --config.source.directory=DIR --seeds 3 \
    --workdir S

The base is configs/policy.py:small. Every row but the first and `raters` trains as many steps more from the
run of its seed, so that `bc`, imitation for as long, is the control: a few more epochs of imitation alone
change the value. The values are those of the last checkpoints under the truth of the simulated service.
`--tables rivals` has fewer rows: each method at its best settings, and the curves of value against KL.
`--tables weights` has the rows that weigh logged choices, with the betas of the claims. `--tables others` has
what neither of both has: other baselines, rewards of models, CQL and the other betas. `--tables premise`
compares A-SFT with Exp-RSFT at three spreads of the users' leniency. `--tables composite` has a reward from
completion and thumbs, ratings unseen, which habit and clickbait bend. `--tables shown` has weighted binary
classification of the titles that were shown, and rivals on a dataset that stores these titles too.

`kuairand` has a reward from long_view, like, comment and hate (configs/policy.py:kuairand). There is no
truth: the reward models of `raters` alone measure its policies.

The row `raters` is an imitation of other seeds, by whose reward models the policies of `post` and `rivals`
are measured. No policy is trained by them.
"""

from dataclasses import replace

from configs import policy
from jaxrec.config import Config, Post
from jaxrec.core.errors import InputError
from jaxrec.studies.plan import Claim, CurvePremise, Policies, Premise, ResultTable, Row, Study

TABLE, RIVALS, WEIGHTS, OTHERS = "post", "rivals", "weights", "others"
COMPOSITE = policy.COMPOSITE  # table, and the first row of its rows
SHOWN = "shown"
RATERS = "raters"
_SEED_OF_RATERS = 1_000
FIRST = "imitation"
BETAS = (0.25, 0.5, 1.0, 2.0, 4.0)
BASELINES = ("user", "title", "soft")
_SOURCES = ("model", "ensemble")
_BY_OTHERS = {  # rows that learn from titles that a policy draws
    "ppo": "PPO, kappa 0", "ppo_kl": "PPO, kappa 0.1", "grpo": "GRPO, kappa 0.1", "dpo": "DPO, beta 0.1",
    "ipo": "IPO, beta 0.1",
}  # fmt: skip
_OF_RIVALS = (
    "bc", "reward", "exp_rsft_0.5", "exp_rsft_1", "asft_0.25", "asft_0.5", "asft_1", "asft_4", *_BY_OTHERS,
)  # fmt: skip
_OF_WEIGHTS = (
    "bc", "reward", "exp_rsft_0.25", "exp_rsft_0.5", "exp_rsft_1",
    "asft_0.25", "asft_0.5", "asft_1", "asft_4",
)  # fmt: skip
_OF_OTHERS = (
    "bc", "exp_rsft_2", "exp_rsft_4", "asft_0.5", "asft_2", *(f"asft_{name}" for name in BASELINES), "cql",
    *(f"asft_{source}" for source in _SOURCES),
)  # fmt: skip
_OF_PREMISE = ("0.25", "0.5", "1")  # betas at each spread of leniency
_OF_COMPOSITE = {
    "bc": "BC, continued", "reward": "reward-weighted BC", "exp_rsft": "Exp-RSFT, beta 0.5",
    "asft": "A-SFT, beta 0.5",
}  # fmt: skip
_OF_SHOWN = {
    "bc": "BC, continued", "reward": "reward-weighted BC", "wbc": "binary classification of what was shown",
}  # fmt: skip
CURVES = {
    "A-SFT": tuple(f"asft_{beta:g}" for beta in BETAS),
    "Exp-RSFT": tuple(f"exp_rsft_{beta:g}" for beta in BETAS),
    "reward-weighted": ("bc", "reward"),
    "PPO": ("ppo_kl", "ppo"),
    "GRPO": ("grpo",),
    "DPO, IPO": ("dpo", "ipo"),
}


def _edits(base: Config, post: Post) -> dict[str, object]:
    """Return the settings of a row that starts from the first."""
    rate, duration = (0.4 * base.optimizer.learning_rate, "5 epochs")
    # The reward models of a tiny run differ by more than their predictions: pairs need narrow bounds.
    tiny = {"train.duration": "1 epochs", "post.pessimism": 0.01} if base.name == "policy-tiny" else {}
    tiny = {"train.duration": "2 epochs"} if base.name == "policy-kuairand" else tiny
    return {
        **{f"post.{name}": value for name, value in vars(post).items()},
        "optimizer.learning_rate": rate, "train.duration": duration, **tiny,
    }  # fmt: skip


def rows(base: Config) -> tuple[Row, ...]:
    """Return the rows: imitation, the control, and the objectives."""
    objectives = policy.OBJECTIVES
    post = {"bc": (objectives["bc"], "BC, continued"), "reward": (objectives["reward"], "reward-weighted BC")}
    for beta in BETAS:
        post[f"exp_rsft_{beta:g}"] = replace(objectives["exp_rsft"], beta=beta), f"Exp-RSFT, beta {beta:g}"
        post[f"asft_{beta:g}"] = replace(objectives["asft"], beta=beta), f"A-SFT, beta {beta:g}"
    for name in BASELINES:
        post[f"asft_{name}"] = replace(objectives["asft"], baseline=name), f"baseline {name}, beta 0.5"
    post["cql"] = objectives["cql"], "CQL"
    for source in _SOURCES:
        changed = replace(objectives["asft"], source=source, reward_models=base.post.reward_models)
        post[f"asft_{source}"] = changed, f"A-SFT, rewards of the {source}, beta 0.5"
    post |= {name: (objectives[name], label) for name, label in _BY_OTHERS.items()}
    tables = {RIVALS: _OF_RIVALS, WEIGHTS: _OF_WEIGHTS, OTHERS: _OF_OTHERS}
    return (
        Row(FIRST, {}, dict.fromkeys((TABLE, *tables), "imitation")),
        Row(RATERS, {"train.seed": base.train.seed + _SEED_OF_RATERS}, {}),
        *(Row(name, _edits(base, p), dict.fromkeys((TABLE, *(t for t in tables if name in tables[t])), label),
              against="bc", after=FIRST, pairs=p.objective in ("dpo", "ipo"))
          for name, (p, label) in post.items()),
        *_composite_rows(base),
        *(Row(f"{SHOWN}_{name}", {**_edits(base, objectives[name]), **policy.SHOWN_EDITS}, {SHOWN: label},
              against=f"{SHOWN}_bc", after=FIRST)
          for name, label in _OF_SHOWN.items()),
    )  # fmt: skip


def _composite_rows(base: Config) -> tuple[Row, ...]:
    """Return the rows with a reward from completion and thumbs, after an imitation of their own."""
    edits = policy.COMPOSITE_EDITS
    return (
        Row(COMPOSITE, edits, {COMPOSITE: "imitation"}),
        *(Row(f"{COMPOSITE}_{name}", {**_edits(base, policy.OBJECTIVES[name]), **edits}, {COMPOSITE: label},
              against=f"{COMPOSITE}_bc", after=COMPOSITE)
          for name, label in _OF_COMPOSITE.items()),
    )  # fmt: skip


CLAIMS = (
    Claim("A-SFT has a higher value than imitation continued", (("asft_0.5", "bc"),), metric="truth/value"),
    Claim(
        "A-SFT has a higher value than reward-weighted BC", (("asft_0.5", "reward"),), metric="truth/value"
    ),
    Claim(
        "A-SFT is best between beta .25 and 4", (("asft_0.5", "asft_0.25"), ("asft_0.5", "asft_4")),
        metric="truth/value",
    ),
    Claim("a value is worth more than none", (("asft_0.5", "exp_rsft_0.5"),), metric="truth/value"),
    Claim("by a composite reward A-SFT has a higher value than imitation continued",
          ((f"{COMPOSITE}_asft", f"{COMPOSITE}_bc"),), metric="truth/value"),
    Claim("what was shown gives a higher value than reward-weighted BC",
          ((f"{SHOWN}_wbc", f"{SHOWN}_reward"),), metric="truth/value"),
    Claim("PPO has a higher value than A-SFT", (("ppo", "asft_0.5"),), metric="truth/value"),
    Claim("pairs have a higher value than A-SFT", (("dpo", "asft_0.5"), ("ipo", "asft_0.5")),
          metric="truth/value"),
)  # fmt: skip
PREMISES = (
    Premise(
        "A-SFT by the spread of leniency", "source.leniency", "asft_0.5", "exp_rsft_0.5", metric="truth/value"
    ),
)
METHODS = (
    CurvePremise(
        "A-SFT less Exp-RSFT by the spread of leniency", "source.leniency",
        ("A-SFT", tuple(f"asft_{beta}" for beta in _OF_PREMISE)),
        ("Exp-RSFT", tuple(f"exp_rsft_{beta}" for beta in _OF_PREMISE)),
    ),
)  # fmt: skip


def _kuairand_rows(base: Config) -> tuple[Row, ...]:
    """Return the rows on KuaiRand: those of the composite reward, by a reward of the feedback."""
    first = Row(FIRST, {}, {TABLE: "imitation"})
    post = {name: replace(policy.OBJECTIVES[name], reward=base.post.reward) for name in _OF_COMPOSITE}
    return (
        first, Row(RATERS, {"train.seed": base.train.seed + _SEED_OF_RATERS}, {}),
        *(Row(name, _edits(base, post[name]), {TABLE: label}, against="bc", after=FIRST)
          for name, label in _OF_COMPOSITE.items()),
    )  # fmt: skip


def get_config(scale: str = "small") -> Study:
    """Return the study for "small", "kuairand" or "tiny"."""
    if scale not in ("small", "kuairand", "tiny"):
        raise InputError(f"configs/study_post.py:{scale}: the argument must be small, kuairand or tiny")
    if scale == "kuairand":
        table = ResultTable(TABLE, "Post-training on KuaiRand")
        policies = Policies(measured_by=RATERS, percent_of="reward")
        base = policy.get_config(scale)
        return Study(f"post-{scale}", base, _kuairand_rows, (table,), (TABLE,), policies=policies)
    tables = (
        ResultTable(TABLE, "Post-training"), ResultTable(RIVALS, "Methods of post-training"),
        ResultTable(WEIGHTS, "Weights of logged choices"),
        ResultTable(OTHERS, "Other baselines, rewards and betas"), ResultTable(COMPOSITE, "Composite reward"),
        ResultTable(SHOWN, "Titles that were shown"),
    )  # fmt: skip
    policies = Policies(CURVES, RATERS, "reward", (TABLE, RIVALS), METHODS)
    return Study(
        f"post-{scale}", policy.get_config(scale), rows, tables, (TABLE,), CLAIMS, PREMISES, policies=policies
    )
