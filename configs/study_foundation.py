"""Study of models of long histories: later targets, windows, heads on tokens, metadata, narrow scores.

python -m jaxrec.study --config configs/study_foundation.py --seeds 3 --jobs 1 --workdir S
python -m jaxrec.study --config configs/study_foundation.py:reduced --seeds 3 --jobs 1 --workdir S
python -m jaxrec.study --config configs/study_foundation.py:tiny --seeds 1 --tables delay,tokens --workdir S

Every run is evaluated with scores of 0, 6, 24 and 48 hours before the request. The claims of later targets
are differences in differences: what a row of later targets loses in 48 hours less what `next` loses. Further
claims are that such a row is not below `next` by 1% of NDCG@10 with scores of the request.

| table | rows |
|---|---|
| delay | the next title alone, and targets of 72 hours with a half-life of 6, 24 and 72 hours |
| windows | windows that are the latest, mixed, or anywhere |
| tokens | plays alone, tokens, and tokens with heads on what comes next; the datasets differ |
| narrow | scores by projections an eighth as wide as the model |
| launches | a catalogue of which 30% is launched: ids alone, ids mixed with genres, cold masking |
| uses | one model for four uses: fine-tuned, its encoder frozen, and each use alone |
| scaling | four widths by three numbers of users, for `python -m benchmarks.scaling_law` |

`reduced` has the same users and tables, and a model of half the width, with 2 of 3 layers and half the
window. Its learning rate is four times that of `small`, so that 12 epochs suffice.
"""

import copy
from dataclasses import replace

from configs import foundation
from jaxrec.config import Config, Expert, Feature
from jaxrec.core.errors import InputError
from jaxrec.studies.plan import Claim, ResultTable, Row, Study

DELAY, WINDOWS, TOKENS, NARROW, LAUNCHES = "delay", "windows", "tokens", "narrow", "launches"
USES, SCALING = "uses", "scaling"
WIDTHS, SHARES = (16, 32, 64, 128), (0.25, 0.5, 1.0)  # of the model, and of the users
ENCODER = ("title/*", "layers/*", "tokens/*", "position")  # parameters below the heads
HOURS = (0.0, 6.0, 24.0, 48.0)
SCALES = ("small", "reduced", "tiny")
ONE_PERCENT = (
    0.0013  # of the NDCG@10 of one run: .1271 small (benchmarks/results/foundation.md), .1255 reduced
)


def _base(scale: str) -> Config:
    """Return the base of the study: targets of 72 hours with a half-life of 24, on plays."""
    config = foundation.get_config("tiny" if scale == "tiny" else "small")
    config.name = f"foundation-{scale}"
    if scale == "reduced":
        config.features = (Feature("title_id", "category", "title", width=32),)
        config.data.max_history = 64
        config.model.width = 32
        config.model.experts = (Expert(max_len=64, num_layers=2, num_heads=2, dropout=0.1, encoder="sasrec"),)
        config.optimizer.learning_rate, config.train.duration = 4e-3, "12 epochs"
    width = config.features[0].width
    config.features = (*config.features, Feature("genres", "categories", "title", width // 4, most=3))
    config.model.features = ("title_id",)
    config.evaluate.delay_hours, config.evaluate.report = HOURS, False
    return config


def _of_tokens(config: Config) -> dict[str, object]:
    """Return the edits of the tokens of a config."""
    return {
        "signals": config.signals, "data.tokens": config.data.tokens, "features": config.features,
        "model.features": config.model.features, "labels": config.labels,
    }  # fmt: skip


def rows_of_uses(base: Config) -> tuple[Row, ...]:
    """Return the rows of one model for four uses, and of a model of each use alone.

    Fine-tuning has a third of the learning rate and of the epochs. With a frozen encoder the head of a use is
    trained, and of `country` new projections of users and titles.
    """
    config = Config(source=copy.deepcopy(base.source), features=base.features[:1])
    config = foundation.with_uses(config)
    source, data = config.source, config.data
    of_uses = _of_tokens(config) | {
        "source.countries": source.countries, "source.country_taste": source.country_taste,
        "data.split": data.split, "data.validation_from": data.validation_from,
        "data.test_from": data.test_from, "evaluate.delay_hours": (),
    }  # fmt: skip
    epochs = int(base.train.duration.split()[0])
    shorter = {
        "optimizer.learning_rate": base.optimizer.learning_rate / 3,
        "train.duration": f"{max(epochs // 3, 1)} epochs",
    }
    frozen = {"start.take": ENCODER, "start.freeze": ENCODER}
    out = [Row(USES, of_uses | {"objective.heads": config.objective.heads}, {USES: "for all uses"})]
    for use in foundation.USES:
        edits = of_uses | foundation.edits_of_use(config, use)
        above = {"model.project": max(base.model.width // 2, 2)} if use == "country" else {}
        out += [
            Row(f"{use}_alone", edits, {USES: f"{use} alone"}),
            Row(f"{use}_tuned", edits | shorter, {USES: f"{use}, fine-tuned"}, against=f"{use}_alone",
                after=USES),
            Row(f"{use}_frozen", edits | shorter | frozen | above, {USES: f"{use}, frozen encoder"},
                against=f"{use}_alone", after=USES),
        ]  # fmt: skip
    return tuple(out)


def rows_of_scaling(base: Config) -> tuple[Row, ...]:
    """Return the rows of four widths by three numbers of users, with the targets of the base."""
    out = []
    for width in WIDTHS:
        features = tuple(replace(f, width=f.width * width // base.model.width) for f in base.features)
        for share in SHARES:
            users = int(base.source.users * share)
            edits = {"source.users": users, "features": features, "model.width": width}
            out.append(Row(f"d{width}_u{users}", edits, {SCALING: f"width {width}, {users:,} users"}))
    return tuple(out)


def rows(base: Config) -> tuple[Row, ...]:
    """Return the rows of the study."""
    half_life, window = "next_item.half_life_hours", "sampling.window"
    tokens = foundation.with_tokens(Config(features=base.features[:1]))
    of_tokens = _of_tokens(tokens)
    launched = {"source.launches": 0.3}
    metadata = launched | {"model.features": ("title_id", "genres"), "model.entity": "mixed"}
    cold = metadata | {"model.cold_masking": 0.02, "model.cold_masking_new": 0.5}
    latest = {window: "latest", "sampling.latest_share": 0.5}
    return (
        Row("next", {"next_item.horizon_hours": 0.0}, {DELAY: "next title"}),
        Row("half_6", {half_life: 6.0}, {DELAY: "72 hours, half-life 6"}),
        Row("multi", {}, {DELAY: "72 hours, half-life 24", WINDOWS: "mixed", TOKENS: "plays",
                          NARROW: "whole"}),
        Row("half_72", {half_life: 72.0}, {DELAY: "72 hours, half-life 72"}),
        Row("latest", latest, {WINDOWS: "latest"}, against="multi"),
        Row("random", latest | {window: "random"}, {WINDOWS: "anywhere"}, against="multi"),
        Row("tokens", of_tokens, {TOKENS: "tokens"}),
        Row("heads", of_tokens | {"objective.heads": tokens.objective.heads}, {TOKENS: "tokens, heads"},
            against="tokens"),
        Row("narrow", {"model.project": max(base.model.width // 8, 2)}, {NARROW: "an eighth"},
            against="multi"),
        Row("ids", launched, {LAUNCHES: "ids"}),
        Row("mixed_entity", metadata, {LAUNCHES: "ids and genres"}, against="ids"),
        Row("cold", cold, {LAUNCHES: "ids and genres, cold masking"}, against="mixed_entity"),
        *rows_of_uses(base),
        *rows_of_scaling(base),
    )  # fmt: skip


def _claims() -> tuple[Claim, ...]:
    ranked = {"lists": ("catalogue",), "metric": "ndcg@10"}
    later = {"half_6": "half-life 6", "multi": "half-life 24", "half_72": "half-life 72"}
    return (
        *(Claim(f"later targets lose less in 48 hours, {name}", ((row, "next"),), ("delay_48-0",),
                metric="ndcg@10") for row, name in later.items()),
        *(Claim(f"later targets lose 1% at most at once, {name}", ((row, "next"),), ("delay_0",),
                metric="ndcg@10", margin=ONE_PERCENT) for row, name in later.items()),
        Claim("mixed windows beat the latest", (("multi", "latest"),), **ranked),
        Claim("heads on what comes next help", (("heads", "tokens"),), **ranked),
        Claim("genres help ids", (("mixed_entity", "ids"),), **ranked),
        Claim("cold masking helps", (("cold", "mixed_entity"),), **ranked),
        *(Claim(f"fine-tuned from a model for all uses, {use} beats {use} alone",
                ((f"{use}_tuned", f"{use}_alone"),), metric=f"auc/{label}")
          for use, label in foundation.LABELS_OF_USES.items()),
        Claim("fine-tuned from a model for all uses, country beats country alone",
              (("country_tuned", "country_alone"),), **ranked),
    )  # fmt: skip


def get_config(scale: str = "small") -> Study:
    """Return the study for a name in SCALES."""
    if scale not in SCALES:
        raise InputError(
            f"configs/study_foundation.py:{scale}: the argument must be one of {', '.join(SCALES)}"
        )
    tables = (
        ResultTable(DELAY, "Later targets, by hours from the scores to the request"),
        ResultTable(WINDOWS, "Windows of long rows"),
        ResultTable(TOKENS, "Tokens of several kinds"),
        ResultTable(NARROW, "Narrow scores"),
        ResultTable(LAUNCHES, "Ids, metadata and cold masking of a changing catalogue"),
        ResultTable(USES, "One model for several uses"),
        ResultTable(SCALING, "Widths and numbers of users"),
    )
    base = _base(scale)
    return Study(base.name, base, rows, tables, (DELAY,), _claims())
