"""Study of post-training: objectives that start from one run of behaviour cloning a seed.

python -m jaxrec.study --config configs/study_post.py --seeds 3 --jobs 1 --workdir S
python -m jaxrec.study --config configs/study_post.py:tiny --seeds 2 --workdir S

The base is configs/policy.py:small. Every row but the first trains as many steps more from the run of its
seed, so that `bc`, imitation for as long, is the control: a few more epochs of imitation alone change the
value. The values are those of the last checkpoints under the truth of the simulated service.
"""

from dataclasses import replace

from configs import policy
from jaxrec.config import Config, Post
from jaxrec.core.errors import InputError
from jaxrec.studies.plan import Claim, Premise, ResultTable, Row, Study

TABLE = "post"
FIRST = "imitation"
BETAS = (0.25, 0.5, 1.0, 2.0, 4.0)
BASELINES = ("user", "title", "soft")
_SOURCES = ("model", "ensemble")


def _edits(base: Config, post: Post) -> dict[str, object]:
    """Return the settings of a row that starts from the first."""
    rate, duration = (0.4 * base.optimizer.learning_rate, "5 epochs")
    tiny = {"train.duration": "1 epochs"} if base.name == "policy-tiny" else {}
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
    return (
        Row(FIRST, {}, {TABLE: "imitation"}),
        *(Row(name, _edits(base, p), {TABLE: label}, against="bc", after=FIRST)
          for name, (p, label) in post.items()),
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
)  # fmt: skip
PREMISES = (Premise("A-SFT by the spread of leniency", "source.leniency", "asft_0.5", "exp_rsft_0.5"),)


def get_config(scale: str = "small") -> Study:
    """Return the study for "small" or "tiny"."""
    if scale not in ("small", "tiny"):
        raise InputError(f"configs/study_post.py:{scale}: the argument must be small or tiny")
    table = ResultTable(TABLE, "Post-training")
    return Study(f"post-{scale}", policy.get_config(scale), rows, (table,), (TABLE,), CLAIMS, PREMISES)
