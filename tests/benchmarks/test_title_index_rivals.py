"""The benchmark of the index of titles, in its quick form."""

import numpy as np
import pytest

from benchmarks import title_index
from jaxrec.serving.index.title_index import is_installed


class Flags:
    checkpoint, dtype, metric, folder, vectors, expansions = (
        "",
        "",
        "l2sq",
        "",
        ["table", "normals"],
        ["64", "1024"],
    )
    titles = requests = k = rounds = connectivity = expansion_add = 0
    width, quick = 16, True


def test_resampled_vectors_are_near_those_of_the_table():
    rng = np.random.default_rng(0)
    table, description = title_index.table_of("", 64, rng)
    assert table.shape[1] == 64 and "no trained one" in description
    assert np.linalg.matrix_rank(table) == 16
    few = table[:5]
    drawn = title_index.resample(few, 30, rng)
    distance = np.linalg.norm(drawn[:, None] - few[None], axis=2).min(axis=1)
    assert drawn.dtype == np.float32 and (distance < 0.3 * np.linalg.norm(few, axis=1).max()).all()


@pytest.mark.skipif(not is_installed(), reason="usearch is not installed")
def test_the_quick_benchmark_reports_recall_beside_the_exact_ranking():
    report = title_index.main(Flags())
    assert set(report.figures) == {"titles", "requests", "k", "table", "normals"}
    for name in ("table", "normals"):
        result = report.figures[name]
        chosen = str(result["calibration"]["expansion_search"])
        assert result["calibration"]["reached"] and result["exact"]["median"] > 0
        assert {"64", chosen} <= set(result["expansions"]) and result["expansions"][chosen]["recall"] > 0.9
        assert sum("chosen by calibration" in row[0] for row in report.rows) == 2
