"""Study of codes as a feature of titles: a next-item model with and without, few plays a title.

python -m jaxrec.study --config configs/study_codes.py --seeds 3 --workdir S
python -m benchmarks.cold_titles --study S

The base is the title policy of configs/onerec.py on the plays of 2,000 users, so that half of the titles
have few plays. The other rows read the genres too, as a feature of their own, or the prefixes of the titles'
codes: of the base's vectors, of the genres, and of random codes, the control. The second command prints
NDCG@10 on titles of at most 20 plays.
"""

from functools import partial

from configs import onerec
from jaxrec.config import Config, Feature
from jaxrec.core.errors import InputError
from jaxrec.studies.plan import Claim, ResultTable, Row, Study

TITLE = "title"
SCALES = ("small", "tiny")


def rows(base: Config, scale: str = "small") -> tuple[Row, ...]:
    """Return the rows: the title policy, and models that read codes."""
    reads: dict[str, object] = {
        "features": (*base.features, Feature("codes", "codes", "title", width=base.model.width)),
        "model.features": (*base.model.features, "codes"),
    }
    # 34 titles of the same genres, and titles that nobody has played, share a path: the last token needs as
    # many values. With three levels of 64 the table of prefixes has 266,304 rows, and a run took 154 s, in
    # place of 45.
    reads |= {"codes.levels": 2, "codes.size": 16 if scale == "tiny" else 64}
    genres = {"model.features": (*base.model.features, "genres")}
    return (
        Row(TITLE, {}, {"codes": "ids alone"}),
        Row("genres", genres, {"codes": "ids and genres"}),
        Row("vectors", reads, {"codes": "ids and codes of vectors"}, codes=TITLE),
        Row("metadata", reads | {"codes.vectors": "metadata"}, {"codes": "ids and codes of genres"}),
        Row("random", reads | {"codes.vectors": "random"}, {"codes": "ids and random codes"}),
    )


_OF_ALL = {"lists": ("catalogue",), "metric": "ndcg@10"}
CLAIMS = (
    Claim("codes of vectors raise NDCG@10", (("vectors", TITLE),), **_OF_ALL),
    Claim("codes of genres raise NDCG@10", (("metadata", TITLE),), **_OF_ALL),
)  # fmt: skip


def get_config(scale: str = "small") -> Study:
    """Return the study for a name in SCALES."""
    if scale not in SCALES:
        raise InputError(f"configs/study_codes.py:{scale}: the argument must be one of {', '.join(SCALES)}")
    base = onerec.get_config("title_tiny" if scale == "tiny" else "title")
    base.name = f"codes-{scale}"
    if scale == "small":
        base.source.users, base.source.test_only_users = 2_000, 8_000
        base.train.duration = "14 epochs"
    table = ResultTable("codes", "Codes as a feature")
    return Study(base.name, base, partial(rows, scale=scale), (table,), ("codes",), CLAIMS)
