"""Study of a changing service: models that are updated day by day, each evaluated on the day after.

python -m jaxrec.days --config configs/study_rolling.py --days 14 --workdir R
python -m jaxrec.days --config configs/study_rolling.py:tiny --days 2 --seeds 1 --workdir R

The service launches three titles in ten, draws attention to new ones and lets appeals move. `stale` keeps the
model of day 0. `retrain` trains from nothing on all plays before a day, for days 1, 4, 7, 10 and 14.
`daily_r10` updates the model of the day before on the plays of the day and a tenth of the older targets,
`daily_r0` and `daily_r30` on none and on three tenths, `third_day` every third day. The rows that start with
`week` are updated for seven days: their rows of new titles start at the mean or at those of similar titles
(`start.rows`), their title vectors are concatenated or mixed (`model.entity`), with cold masking or without.
`_fast` rows update at three times the learning rate: benchmarks/results/study-rolling.md has the reason.
"""

from dataclasses import replace

from configs import sequences
from jaxrec.config import Config, Feature, Simulator
from jaxrec.core.errors import InputError
from jaxrec.studies.rolling.plan import NEW, OLD, POPULAR, Comparison, RollingRow, RollingStudy

READS = (
    "title_id",
    "genres",
    "runtime",
    "form",
)  # launch_day is left out: later days are unknown in training
MIXED = {"model.entity": "mixed", "model.launch_day": "launch_day"}
MASKED = {"model.cold_masking": 0.05, "model.cold_masking_new": 0.5}
MODELS = {
    "concat": {},
    "mixed": MIXED,
    "concat_masked": MASKED,
    "mixed_masked": MIXED | MASKED,
}
DAILY, WEEK = tuple(range(1, 14)), tuple(range(1, 7))
RETRAINED = (1, 4, 7, 10, 14)  # evaluated days
WEEK_ROWS = (
    ("concat", "mean"),
    ("concat", "metadata"),
    ("mixed", "metadata"),
    ("concat_masked", "metadata"),
    ("mixed_masked", "metadata"),
)
MEAN_ROWS, FAST = "week_concat_mean", 3e-3  # the learning rate of `_fast` rows
FAST_ROWS = (WEEK_ROWS[0], WEEK_ROWS[-1])
INCREMENTAL = ("daily_r0", "daily_r10", "daily_r30", "third_day", MEAN_ROWS)


def rows(retrained: tuple[int, ...]) -> tuple[RollingRow, ...]:
    """Return the rows of a study whose retrained models are evaluated on some days."""
    return (
        RollingRow("stale", "stale"),
        RollingRow(
            "retrain", "retrained", tuple(day - 1 for day in retrained if day > 1), None, evaluated=retrained
        ),
        RollingRow("daily_r0", "daily, no replay", DAILY, 0.0),
        RollingRow("daily_r10", "daily, replay .1", DAILY, 0.1),
        RollingRow("daily_r30", "daily, replay .3", DAILY, 0.3),
        RollingRow("third_day", "every third day, replay .1", DAILY[2::3], 0.1),
        *(
            RollingRow(
                f"week_{model}_{first}", f"a week, {model.replace('_', ', ')}, {first} rows", WEEK, 0.1,
                model, first, tuple(range(1, 8)),
            )
            for model, first in WEEK_ROWS
        ),
        *(
            RollingRow(
                f"week_{model}_{first}_fast", f"a week, {model.replace('_', ', ')}, {first} rows, rate .003",
                WEEK, 0.1, model, first, tuple(range(1, 8)), FAST,
            )
            for model, first in FAST_ROWS
        ),
    )  # fmt: skip


def comparisons(retrained: tuple[int, ...]) -> tuple[Comparison, ...]:
    """Return the differences that the report has."""
    week = [f"week_{model}_{first}" for model, first in WEEK_ROWS]
    out = [
        Comparison("retrained less stale, last retraining", "retrain", "stale", retrained[-1:]),
        Comparison("retrained less stale", "retrain", "stale"),
    ]
    for name in INCREMENTAL:
        out += [
            Comparison(f"{name} less retrained", name, "retrain", retrained[1:]),
            Comparison(f"{name} less retrained, old titles", name, "retrain", retrained[1:], OLD),
        ]
    out += [Comparison(f"{name} less {MEAN_ROWS}, new titles", name, MEAN_ROWS, (), NEW) for name in week[1:]]
    out += [
        Comparison(f"{name} less popularity of 7 days, new titles", name, POPULAR, (), NEW)
        for name in ("stale", *week)
    ]
    base, fast = (f"week_{model}_{first}_fast" for model, first in FAST_ROWS)
    out.append(Comparison(f"{fast} less {base}, new titles", fast, base, (), NEW))
    out.append(Comparison(f"{fast} less {MEAN_ROWS}, new titles", fast, MEAN_ROWS, (), NEW))
    return tuple(out)


def _base() -> Config:
    config = sequences.simulated()
    config.name = "rolling"
    config.source = Simulator(users=8_000, test_only_users=12_000, launches=0.3, novelty=2.0, trend=0.3)
    config.features = (
        Feature("title_id", "category", "title", 48),
        Feature("genres", "categories", "title", 16, 3),
        Feature("runtime", "number", "title", 4),
        Feature("form", "category", "title", 4),
        Feature("launch_day", "number", "title", 4),
    )
    config.data = replace(config.data, split="users", validation_share=0.1, max_history=32, capacity=256)
    config.model.features = READS
    config.model.experts = (replace(config.model.experts[0], num_layers=1),)
    config.train.duration, config.train.log_seconds = "30 epochs", 0.5
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 3e-3, 50
    config.evaluate.checkpoint = "last"
    return config


def get_config(size: str = "") -> RollingStudy:
    """Return the study; "small" has 12,000 users and 400 titles, "tiny" a few hundred users."""
    base, retrained = _base(), RETRAINED
    update = {
        "train.duration": "3 epochs",
        "start.optimizer": "kept",
        "optimizer.learning_rate": 1e-3,
        "optimizer.warmup_steps": 0,
    }
    if size == "tiny":
        base.source = replace(base.source, users=300, test_only_users=150, titles=200, slate=20)
        base.data.partitions = 1
        base.model.width = 16
        base.model.experts = (replace(base.model.experts[0], max_len=8),)
        base.data.max_history = 8
        base.train.duration, base.train.batch_size, base.optimizer.warmup_steps = "2 epochs", 32, 2
        update["train.duration"] = "1 epochs"
    elif size == "small":
        base.source = replace(base.source, users=4_000, test_only_users=8_000, titles=400)
        base.data.capacity, retrained = 64, (1, 7)
    elif size:
        raise InputError(f"configs/study_rolling.py:{size}: the argument must be small, tiny, or none")
    return RollingStudy(
        "Rolling study of a changing service",
        base,
        MODELS,
        rows(retrained),
        "2025-01-10",
        update,
        comparisons(retrained),
    )
