"""Study of one ranker for three canvases: against a model a canvas, without its parts, and in three stages.

python -m benchmarks.unicorn --config configs/study_unicorn.py:small --seeds 5 --workdir S
python -m benchmarks.unicorn --config configs/study_unicorn.py:reduced --seeds 3 --workdir S
python -m benchmarks.unicorn --config configs/study_unicorn.py:tiny --seeds 1 --workdir S
JAXREC_KUAIRAND=DIR python -m benchmarks.unicorn --config configs/study_unicorn.py:kuairand --workdir S

`unified` is configs/unicorn.py. `single_<canvas>` is the same model, trained on the requests of a canvas
alone for as many epochs: as many steps of that canvas. `third_<canvas>` is a third of its width. `no_impute`
reads no name of the page's title in place of a missing query, `no_canvas` no canvas, `no_dropout` hides no
context in training, and `no_cross` has no cross layers. `nobody` reads nothing of the user, `segments` the
segments, and `unified` the history too. `benchmarks.unicorn` trains the rows and prints their metrics by
canvas over all titles, beside orders by text, by popularity and by the truth.

`kuairand` has the five pages (`tab`) with most plays as canvases, and configs/kuairand.py as the one model.
There is no query, no page of a title and no truth: its rows are one model, one without the page, and a model
for each page.
"""

from dataclasses import replace

from configs import kuairand, smoe, unicorn
from jaxrec.config import Config, Data, Evaluate, Expert, Gate, KuaiRand, Model, Optimizer, Simulator, Train
from jaxrec.config.serialization import dataset_directory
from jaxrec.core.errors import InputError
from jaxrec.studies.plan import ResultTable, Row, Study

UNIFIED, ROWS, ONLY = "unified", "rows", "canvases"  # a row, and tables
SCALES = ("small", "reduced", "tiny", "kuairand")
CANVASES = ("home", "similar", "search")
PAGE, PAGES = "tab", ("1", "0", "4", "6", "2")  # of KuaiRand, most plays first
SEGMENTS = ("segment", "segment2")


def rows(base: Config) -> tuple[Row, ...]:
    """Return the rows of the study."""
    names = tuple(f.name for f in base.features)
    plain = tuple(replace(f, impute="null") for f in base.features)
    without_user = {"model.reads_history": False}
    nobody = tuple(name for name in names if name not in SEGMENTS)
    out = [
        Row(UNIFIED, {}, {ROWS: "one model"}),
        Row("no_impute", {"features": plain}, {ROWS: "no imputation"}),
        Row("no_canvas", {"model.features": _without(names, unicorn.CANVAS)}, {ROWS: "no canvas id"}),
        Row("no_dropout", {"sampling.context_dropout": 0.0}, {ROWS: "no context dropout"}),
        Row("no_cross", {"model.cross": 0}, {ROWS: "no cross layers"}),
        Row("nobody", without_user | {"model.features": nobody}, {ROWS: "no user"}),
        Row("segments", without_user, {ROWS: "segments alone"}),
    ]
    return (*out, *_single_rows(base))


def _page_rows(base: Config) -> tuple[Row, ...]:
    """Return the rows of the pages of KuaiRand."""
    names = tuple(f.name for f in base.features)
    no_page = Row("no_canvas", {"model.features": _without(names, PAGE)}, {ROWS: "no page id"})
    return (Row(UNIFIED, {}, {ROWS: "one model"}), no_page, *_single_rows(base))


def canvases_of(config: Config) -> tuple[str, tuple[str, ...]]:
    """Return the context that is the canvas of a request, and its values."""
    return (PAGE, PAGES) if isinstance(config.source, KuaiRand) else (unicorn.CANVAS, CANVASES)


def _single_rows(base: Config) -> tuple[Row, ...]:
    """Return the rows that are trained on one canvas alone."""
    # A dataset of one canvas continues that of all, so that ids mean the same.
    whole, (context, values) = {"data.continues": dataset_directory(base)}, canvases_of(base)
    out = []
    for canvas in values:
        only = whole | {"data.only": f"{context}={canvas}"}
        out.append(Row(f"single_{canvas}", only, {ONLY: f"{canvas} alone"}))
        out.append(Row(f"third_{canvas}", only | _third(base), {ONLY: f"{canvas} alone, a third the width"}))
    return tuple(out)


def _without(names: tuple[str, ...], left_out: str) -> tuple[str, ...]:
    return tuple(name for name in names if name != left_out)


def _third(base: Config) -> dict[str, object]:
    """Return the edits of a model with a third of the width, and so of the embeddings' parameters."""
    width = max(base.model.width // 3, 4)
    experts = tuple(replace(e, num_heads=2 if width % 2 == 0 else 1) for e in base.model.experts)
    features = tuple(replace(f, width=max(f.width // 3, 2)) for f in base.features)
    return {"features": features, "model.width": width, "model.experts": experts, "data.continues": ""}


def _reduced() -> Config:
    """Return a config that one core trains in about a minute: one expert, 300 titles."""
    experts = (Expert(16, num_layers=1, num_heads=2, mlp_ratio=2.0, dropout=0.1),)
    config = Config(
        source=Simulator(users=5_000, test_only_users=2_500, titles=300),
        features=smoe.features(16),
        data=Data(max_history=16, truth_queries=12_288),
        model=Model(width=16, experts=experts, gate=Gate(hidden=(8,)), dropout=0.1, head_hidden=(32, 16)),
        optimizer=Optimizer(learning_rate=3e-3),
        train=Train(duration="5 epochs", batch_size=256),
        evaluate=Evaluate(batch_size=2048),
    )
    return unicorn.with_canvases(config, 8)


def get_config(scale: str = "small") -> Study:
    """Return the study for a name in SCALES."""
    if scale not in SCALES:
        raise InputError(f"configs/study_unicorn.py:{scale}: the argument must be one of {', '.join(SCALES)}")
    if scale == "kuairand":
        config = kuairand.get_config()
    else:
        config = _reduced() if scale == "reduced" else unicorn.get_config(scale)
    if scale == "small":
        config.source = replace(config.source, users=6_000, test_only_users=6_000, titles=500)
        config.train = Train(duration="4 epochs", batch_size=256)
        config.evaluate = Evaluate(batch_size=1024)
    elif scale == "tiny":
        config.train.duration = "1 epoch"
    config.name = f"unicorn-{scale}"
    config.evaluate.next_k, config.evaluate.report, config.evaluate.report_users = (1,), False, 0
    tables = (ResultTable(ROWS, "One model and its parts"), ResultTable(ONLY, "A model for each canvas"))
    of_scale = _page_rows if scale == "kuairand" else rows
    return Study(config.name, config, of_scale, tables, (ROWS,))
