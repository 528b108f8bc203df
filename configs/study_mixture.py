"""Study of a positive control for the mixture: two regimes of users with opposite transitions.

python -m jaxrec.study --config configs/study_mixture.py --seeds 3 --jobs 2 --workdir S
python -m jaxrec.study --config configs/study_mixture.py --tables premise --seeds 3 --jobs 2 --workdir S
python -m jaxrec.study --config configs/study_mixture.py --tables "only ahead,only back" --seeds 1 --workdir S

After a title of genre g, users of one regime of the simulated service prefer the genre g + 1, and the others
the genre g - 1 (`source.regimes`). In the table "told" the models read the regime as a user feature; in
"hidden" they do not. A mixture may learn an expert for each regime, chosen by its gate, which reads the
regime; one expert reads titles alone, and its heads must tell the regimes apart.

`only_<regime>` is BST trained on the users of a regime alone, and `tuned_<regime>` goes on from BST with
them. A gate that chooses between two such models is the most that a mixture of experts for regimes can be.

`small` is configs/smoe.py:small. With 6,000 users and half the width, neither BST (.257 NDCG@1 on the enabled
list) nor S-MoE (.260) came near the oracle (.560), so that such a size decides nothing.
"""

from dataclasses import replace

from configs import smoe, tiny
from jaxrec.config import Config, Feature
from jaxrec.config.serialization import dataset_directory
from jaxrec.core.errors import InputError
from jaxrec.studies.plan import Claim, Premise, ResultTable, Row, Study

TOLD, HIDDEN = "told", "hidden"
REGIMES = 2.0  # strength of the transitions
SIDES = ("ahead", "back")  # regimes


def rows(base: Config) -> tuple[Row, ...]:
    """Return the rows of the study."""
    _, long = base.model.experts
    models = {
        "bst": ("BST", {"model.experts": (long,)}),
        "wide": ("BST, feed-forward twice as wide", {"model.experts": (replace(long, mlp_ratio=4.0),)}),
        "smoe": ("S-MoE", {}),
        "equal": ("V-MoE, two equal experts", {"model.experts": (long, long)}),
        "balanced": ("S-MoE, balanced gate", {"objective.balance": 0.1}),
        "free": (
            "S-MoE without the entropy term",
            {"objective.entropy": 0.0, "model.gate.target_entropy": None},
        ),
    }
    unread = {"model.features": tuple(f.name for f in base.features if f.name != "regime")}
    with_regime = [Row(f"{name}_{TOLD}", edits, {TOLD: label}) for name, (label, edits) in models.items()]
    without = [
        Row(f"{name}_{HIDDEN}", {**models[name][1], **unread}, {HIDDEN: models[name][0]})
        for name in ("bst", "smoe", "equal")
    ]
    return (*with_regime, *without, *(row for side in SIDES for row in _of_regime(base, side)))


def _of_regime(base: Config, side: str) -> tuple[Row, Row]:
    """Return the rows of BST trained on the users of a regime, from nothing and from BST of all users."""
    data = {"data.only": f"regime={side}", "data.continues": dataset_directory(base)}
    one = data | {"model.experts": base.model.experts[1:], "train.duration": base.train.duration}
    tuned = one | {"optimizer.learning_rate": base.optimizer.learning_rate / 3}
    table = f"only {side}"
    return (
        Row(f"only_{side}", one, {table: "BST of the regime alone"}),
        Row(f"tuned_{side}", tuned, {table: "BST, then the regime alone"}, after=f"bst_{TOLD}"),
    )


CLAIMS = (
    Claim("the mixture beats one expert where the regime is a feature", ((f"smoe_{TOLD}", f"bst_{TOLD}"),)),
    Claim("so does a mixture of equal experts", ((f"equal_{TOLD}", f"bst_{TOLD}"),)),
    Claim("the mixture beats one expert where the regime is hidden", ((f"smoe_{HIDDEN}", f"bst_{HIDDEN}"),)),
)
# The service has the regime as a user feature only where the strength is above 0; .01 is as good as none.
STRENGTHS = (0.01, 1.0, REGIMES)
PREMISES = tuple(
    Premise(f"the mixture's gain with the strength of the regimes, {table}", "source.regimes",
            f"smoe_{table}", f"bst_{table}", values=STRENGTHS)
    for table in (TOLD, HIDDEN)
)  # fmt: skip


def get_config(scale: str = "small") -> Study:
    """Return the study for "small" or "tiny"."""
    if scale not in ("small", "tiny"):
        raise InputError(f"configs/study_mixture.py:{scale}: the argument must be small or tiny")
    config = smoe.get_config("small") if scale == "small" else tiny.get_config()
    config.source.regimes = REGIMES
    config.features += (Feature("regime", "category", "user", width=4),)
    tables = (
        ResultTable(TOLD, "The regime is a user feature"), ResultTable(HIDDEN, "The regime is hidden"),
        *(ResultTable(f"only {side}", f"Trained and tested on the regime {side!r} alone") for side in SIDES),
    )  # fmt: skip
    return Study(f"mixture-{scale}", config, rows, tables, (TOLD, HIDDEN), CLAIMS, PREMISES)
