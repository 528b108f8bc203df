"""Study of several heads on one model: each task alone, shared, with trunks, and with learned weights.

python -m jaxrec.study --config configs/study_hydra.py --seeds 5 --jobs 2 --workdir S       # simulated
python -m jaxrec.study --config configs/study_hydra.py:kuairand --config.source.directory=DIR \
    --seeds 5 --jobs 2 --workdir S
python -m jaxrec.study --config configs/study_hydra.py --tables delayed --workdir S

The simulated service has the tasks play (click), finished, thumb (up, where there is a thumb) and
returned; the labels of the last three are known for plays alone. `kuairand` has the feedback on exposures,
and its five seeds are five folds, so that every user is tested once. `tiny` is the simulated study at the
size of configs/tiny.py.

A shared model has heads of one weight beside play, and the study chooses the weight on validation twice: by
the loss of thumbs and by the ranking of plays. A list add names a title of the slate that was not played, so
that rows of plays have no label for it.

The table `no_taste` has the tasks thumb and all together on a service of taste and satisfaction 0. The table
`delayed` has the offline models of configs/delayed.py, which predict from labels of the first day
whether a title is finished within 30 days. They are trained and tested on fewer users.
"""

from configs import delayed, kuairand_impressions, smoe, tiny
from configs.kuairand_labels import FEEDBACK
from jaxrec.config import Config, Head, Label, Signal, Simulator
from jaxrec.core.errors import InputError
from jaxrec.studies.plan import Choice, Claim, ResultTable, Row, Study

LABELS = (
    Label("finished", "at_least", hours=24, at=0.9, of_drawn="unknown"),
    Label("thumb", "positive", "thumb", hours=24, of_drawn="unknown"),
    Label("returned", "returned", hours=72, of_drawn="unknown"),
)
TASKS = tuple(label.name for label in LABELS)
DELAYED, DELAYED_USERS = "delayed", 6_000  # table, and its users for training and for the test
RATES = (0.3, 1.0, 3.0)  # learning rates of a task alone, relative to that of the base
LIGHT = (0.1, 0.03, 0.01)  # weights of each head beside play, where they are to cost play little
TABLE, NO_TASTE = "heads", "no_taste"
NO_GAIN = 0.01  # largest difference of AUC that counts as none
SHARED = ("shared", *(f"light_{w:g}" for w in LIGHT))  # rows of all heads on one tower, by their weight
ALONE = "thumb alone"  # choices on validation
WITHOUT = "without taste: "
BY_THUMB, BY_PLAY = "shared heads, weight by thumbs,", "shared heads, weight by plays,"
_PLAY = {"objective.ranking": 0.0, "objective.regression": 0.0}
# KuaiRand: labels with enough positives for a verdict; of the others the study prints what would be visible.
DECIDED = ("like", "profile_enter")


def _row(name: str, label: str, heads: tuple[str, ...], /, weight: float = 1.0, **edits: object) -> Row:
    """Return a row with heads of these labels, of one weight; edits have `__` in place of dots."""
    dotted = {key.replace("__", "."): value for key, value in edits.items()}
    return Row(
        name, {"objective.heads": tuple(Head(h, h, weight=weight) for h in heads), **dotted}, {TABLE: label}
    )


def _together(heads: tuple[str, ...], **play: float) -> tuple[Row, ...]:
    """Return the rows of all heads on one model."""
    return (
        _row("shared", "shared", heads, **play),
        *(_row(f"light_{w:g}", f"shared, weights {w:g}", heads, weight=w, **play) for w in LIGHT),
        _row("mmoe", "MMoE", heads, model__trunk="mmoe", **play),
        _row("ple", "PLE", heads, model__trunk="ple", **play),
        _row("uncertainty", "shared, learned weights", heads, objective__weighting="uncertainty", **play),
    )


def _thumb_alone(base: Config) -> tuple[Row, ...]:
    """Return the rows of thumbs alone, by the learning rate."""
    rate = base.optimizer.learning_rate
    return tuple(
        _row(f"thumb_alone_{factor:g}", f"thumb alone, rate {factor:g}", ("thumb",),
             objective__ctr=0.0, optimizer__learning_rate=rate * factor)
        for factor in RATES
    )  # fmt: skip


def simulated_rows(base: Config) -> tuple[Row, ...]:
    """Return the rows of the simulated study."""
    return (
        _row("play_alone", "play alone", ()),
        *_thumb_alone(base),
        *(_row(f"{task}_alone", f"{task} alone", (task,), objective__ctr=0.0) for task in TASKS
          if task != "thumb"),
        *_together(TASKS),
    )  # fmt: skip


def no_taste_rows(base: Config) -> tuple[Row, ...]:
    """Return thumbs alone, and all tasks together, on a service whose users have no taste of their own."""
    edits = {"source.taste": 0.0, "source.satisfaction": 0.0}
    together = [row for row in _together(TASKS) if row.name in SHARED]
    return tuple(
        Row(f"{NO_TASTE}_{row.name}", {**row.edits, **edits}, {NO_TASTE: row.tables[TABLE]})
        for row in (*_thumb_alone(base), *together)
    )


def delayed_rows(base: Config) -> tuple[Row, ...]:
    """Return the rows of offline models: by features of the request, and with labels of the first day."""
    assert isinstance(base.source, Simulator)
    users = {name: min(getattr(base.source, name), DELAYED_USERS) for name in ("users", "test_only_users")}
    edits = {
        "source.users": users["users"], "source.test_only_users": users["test_only_users"], "signals": (),
        "labels": (delayed.LATE, *delayed.EARLY), "data.targets": "every", "offline": True,
        "objective.ctr": 0.0, "objective.heads": (Head("finished", "finished"),),
    }  # fmt: skip
    rows = {
        "request": ("features of the request", ()),
        "completion": ("and completion of the first day", delayed.OBSERVED[1:2]),
        "observed": ("and all labels of the first day", delayed.OBSERVED),
    }
    return tuple(
        Row(f"{DELAYED}_{name}", edits | {"features": (*base.features, *features)}, {DELAYED: label})
        for name, (label, features) in rows.items()
    )


def kuairand_rows(base: Config) -> tuple[Row, ...]:
    """Return the rows of the study on exposures."""
    return (*(_row(f"{name}_alone", f"{name} alone", (name,)) for name in FEEDBACK), *_together(FEEDBACK))


def _simulated(config: Config) -> Config:
    """Return a config of the simulated service with the labels, and click as the only head of the paper."""
    config.signals, config.labels = (Signal("thumb", "sign"),), LABELS
    for key, value in _PLAY.items():
        setattr(config.objective, key.removeprefix("objective."), value)
    return config


def _choices(where: str = "", prefix: str = "") -> tuple[Choice, ...]:
    """Return the choices on validation: the rate of thumbs alone, and the weight of shared heads.

    Args:
        where: Beginning of the names of the choices.
        prefix: Beginning of the names of the rows.
    """
    shared = tuple(prefix + row for row in SHARED)
    return (
        Choice(where + ALONE, tuple(f"{prefix}thumb_alone_{factor:g}" for factor in RATES), "loss_thumb"),
        Choice(where + BY_THUMB, shared, "loss_thumb"),
        Choice(where + BY_PLAY, shared, "disabled/ndcg@1"),
    )


def _claims() -> tuple[Claim, ...]:
    of_choices = tuple(
        claim
        for name in (BY_THUMB, BY_PLAY)
        for claim in (
            Claim(f"{name} rank thumbs better than the task alone", ((name, ALONE),), metric="auc/thumb"),
            Claim(f"{name} cost play nothing", ((name, "play_alone"),), margin=0.002),
        )
    )
    return (
        *of_choices,
        *(Claim(f"{WITHOUT}{name} change no more than {NO_GAIN:g}",
                ((WITHOUT + name, WITHOUT + ALONE), (WITHOUT + ALONE, WITHOUT + name)),
                metric="auc/thumb", margin=NO_GAIN)
          for name in (BY_THUMB, BY_PLAY)),
    )  # fmt: skip


def _delayed_claims() -> tuple[Claim, ...]:
    pairs = ((f"{DELAYED}_observed", f"{DELAYED}_request"),)
    return (Claim("labels of the first day predict those of 30 days", pairs, metric="auc/finished"),)


def _kuairand_claims() -> tuple[Claim, ...]:
    return tuple(
        Claim(f"shared heads rank {name} better than the task alone", (("shared", f"{name}_alone"),),
              metric=f"auc/{name}")
        for name in DECIDED
    )  # fmt: skip


def get_config(scale: str = "small") -> Study:
    """Return the study for "small", "kuairand" or "tiny"."""
    tables = (ResultTable(TABLE, "Heads"),)
    if scale == "kuairand":
        config = kuairand_impressions.get_config()
        config.train.duration = "1 epochs"
        return Study("hydra-kuairand", config, kuairand_rows, tables, (TABLE,), _kuairand_claims(), folds=5)
    if scale not in ("small", "tiny"):
        raise InputError(f"configs/study_hydra.py:{scale}: the argument must be small, kuairand or tiny")
    config = _simulated(smoe.get_config("small") if scale == "small" else tiny.get_config())
    if scale == "small":
        config.train.duration = "3 epochs"
    tables = (
        *tables, ResultTable(NO_TASTE, "Without taste and satisfaction"),
        ResultTable(DELAYED, "Delayed feedback"),
    )  # fmt: skip

    def rows(base: Config) -> tuple[Row, ...]:
        return (*simulated_rows(base), *no_taste_rows(base), *delayed_rows(base))

    claims, choices = (*_claims(), *_delayed_claims()), (*_choices(), *_choices(WITHOUT, f"{NO_TASTE}_"))
    return Study(f"hydra-{scale}", config, rows, tables, (TABLE,), claims, choices=choices)
