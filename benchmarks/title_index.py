"""Approximate index of titles beside the exact ranking by blocks.

    python -m benchmarks.title_index [--checkpoint W] [--folder DIR] [--json F]

The score is the product of a user's and a title's vector. Both rivals answer the same requests: the exact
ranking in blocks (`serving.catalogue.CatalogueScorer`), and the index with rescored candidates
(`serving.index.indexed_scorer.IndexedScorer`). Recall is the mean fraction of the exact best titles that the
index has. The candidates of a search are calibrated on other requests. There are two sets of vectors:

- "table": rows of a trained table, drawn with replacement and changed by noise of a tenth of the standard
  deviation. Users are vectors of the same kind. Without a checkpoint the table is a random one of low rank,
  whose vectors have lengths of a log-normal distribution.
- "normals": independent standard normals, a hard case, because all titles are about equally far.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from absl import flags

from benchmarks.command import Report, run, spread
from benchmarks.measure import interleaved, ratio
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.paths import as_path
from jaxrec.data.storage.arrays import Arrays

_RANK, _TABLE_ROWS, _NOISE = 16, 20_000, 0.1
_CALIBRATED = 64  # requests that calibrate the index
_ENOUGH = 0.99  # recall above which no more candidates are measured


def _flags() -> None:
    flags.DEFINE_string("checkpoint", "", "workdir of a run whose title vectors are resampled")
    flags.DEFINE_integer("titles", 1_000_000, "titles", lower_bound=1_000)
    flags.DEFINE_integer("width", 64, "width of the vectors, at most that of the checkpoint")
    flags.DEFINE_integer("requests", 128, "requests of a round", lower_bound=1)
    flags.DEFINE_integer("k", 100, "titles of a request", lower_bound=1)
    flags.DEFINE_list(
        "expansions", ["128", "256", "512", "1024", "2048", "4096", "8192", "16384"], "candidates of a search"
    )
    flags.DEFINE_integer("connectivity", 0, "links of a title in the graph; 0: the default of the index")
    flags.DEFINE_integer("expansion_add", 0, "candidates for links; 0: the default of the index")
    flags.DEFINE_string("dtype", "", "type of the vectors of the index; empty: the default of the index")
    flags.DEFINE_enum("metric", "l2sq", ["l2sq", "ip"], "metric of the graph")
    flags.DEFINE_string("folder", "", "folder to keep the indexes in; empty: they are built and not kept")
    flags.DEFINE_list("vectors", ["table", "normals"], "sets of vectors")
    flags.DEFINE_integer("rounds", 5, "rounds; each times all rivals once", lower_bound=1)
    flags.DEFINE_bool("quick", False, "5,000 titles and few rounds, to test the benchmark")


class VectorTask:
    """Task whose score is a product of vectors; a row holds the index of its user.

    Parameters are a pair of user vectors [U, D] and title vectors [V, D] by id.
    """

    shards_titles = False
    config = SimpleNamespace(model=SimpleNamespace(target_in_sequence=False))
    dot_heads = ("dot",)

    def title_table(self, arrays: Any) -> Any:
        """Return the features of titles."""
        return arrays.title_table()

    def encode_queries(self, params: Any, host: Any, table: Any) -> Any:
        """Return the vectors of users."""
        return params[0][host.words[:, 0]]

    def score_titles(self, params: Any, encoded: Any, table: Any, head: str, id_N: Any) -> Any:
        """Return the products [B, N]."""
        return encoded @ params[1][id_N].T

    def predict_completion(self, params: Any, encoded: Any, table: Any, id_BxC: Any) -> None:
        """Return None: there is no head of completion."""

    def dot_users(self, params: Any, encoded: Any, head: str) -> Any:
        """Return the vectors of users."""
        return encoded

    def dot_titles(self, params: Any, table: Any, head: str) -> Any:
        """Return the vectors of titles."""
        return params[1]


def user_rows(users: int) -> np.ndarray:
    """Return rows [U] of `VectorTask`."""
    rows = np.zeros(users, [("row", "<u4")])
    rows["row"] = np.arange(users)
    return rows


def catalogue(titles: int) -> Arrays:
    """Return the arrays of a catalogue whose ids are in the order of popularity."""
    rank_of_id = np.append(np.full(FIRST_TITLE, titles + FIRST_TITLE), np.arange(titles)).astype(np.int32)
    return Arrays(
        np.arange(titles),
        np.ones(titles),
        np.zeros(titles + FIRST_TITLE, np.int64),
        rank_of_id,
        np.arange(FIRST_TITLE, titles + FIRST_TITLE, dtype=np.int32),
        np.zeros((titles + FIRST_TITLE, 0), np.int32),
        np.zeros((titles + FIRST_TITLE, 0), np.float32),
    )


def table_of(checkpoint: str, width: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Return a table of title vectors and its description.

    The vectors of a checkpoint are those of the head that scores by a product or, without one, those that the
    heads read.
    """
    if not checkpoint:
        factors = rng.standard_normal((_TABLE_ROWS, _RANK)) @ rng.standard_normal((_RANK, width))
        lengths = rng.lognormal(0.0, 0.3, (_TABLE_ROWS, 1)) / np.sqrt(_RANK)
        return factors * lengths, f"random table of rank {_RANK}, no trained one"
    import jax

    from jaxrec.tasks.loading import load_checkpoint

    loaded = load_checkpoint(as_path(checkpoint), "last")
    task, table = loaded.task, loaded.arrays.title_table()

    def embed(params: Any) -> Any:
        if task.dot_heads:
            return task.dot_titles(params, table, task.dot_heads[-1])
        return task.embed_titles(params, table)

    vectors = jax.jit(embed)(loaded.params)
    read = vectors.shape[1]
    name = f"table of {loaded.config.name}, {len(vectors) - FIRST_TITLE:,} titles"
    name += f", {width} of {read} columns" if width < read else ""
    return np.asarray(vectors, np.float64)[FIRST_TITLE:, :width], name


def resample(table: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Draw rows [number, D] of a table with replacement, with noise."""
    noise = _NOISE * table.std() * rng.standard_normal((number, table.shape[1]), np.float32)
    return (table[rng.integers(0, len(table), number)] + noise).astype(np.float32)


def make_vectors(kind: str, args: Any) -> tuple[np.ndarray, np.ndarray, str]:
    """Return the vectors of users and of titles, [N, D] float32, and their description."""
    rng = np.random.default_rng(0)
    users = args.requests + _CALIBRATED
    if kind == "normals":
        titles = rng.standard_normal((args.titles, args.width), np.float32)
        return rng.standard_normal((users, args.width), np.float32), titles, "standard normals"
    table, description = table_of(args.checkpoint, args.width, rng)
    return resample(table, users, rng), resample(table, args.titles, rng), description


def open_indexed(kind: str, inputs: tuple[Any, Any, Arrays, Any], args: Any) -> Any:
    """Return the scorer with an index, which is kept in `--folder`."""
    from jaxrec.serving.index.indexed_scorer import IndexedScorer
    from jaxrec.serving.index.title_index import IndexSettings, open_or_build

    default = IndexSettings()
    settings = IndexSettings(
        args.connectivity or default.connectivity,
        args.expansion_add or default.expansion_add,
        args.dtype or default.dtype,
        args.metric,
    )
    folder = as_path(args.folder) / kind if args.folder else None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)

    def make(vectors: np.ndarray) -> Any:
        return open_or_build(vectors, folder, None, settings)

    return IndexedScorer(*inputs, make_index=make), settings


def measure_vectors(kind: str, users: np.ndarray, titles: np.ndarray, args: Any) -> dict[str, Any]:
    """Return build time, recall and requests per second of the index and of the exact ranking.

    The first users calibrate the index; the others measure it.
    """
    from jaxrec.models.outputs import Correction
    from jaxrec.runtime.mesh import replicate
    from jaxrec.serving.catalogue import CatalogueScorer
    from jaxrec.serving.exclusions import Exclusions
    from jaxrec.serving.index.indexed_scorer import recall

    params = replicate((users, np.pad(titles, ((FIRST_TITLE, 0), (0, 0)))))
    inputs: Any = VectorTask(), params, catalogue(len(titles)), Correction("dot")
    indexed, settings = open_indexed(kind, inputs, args)
    build, is_new = indexed.index.build_seconds, indexed.index.is_new
    print(f"index {'built' if is_new else 'opened, built before'} in {build:,.0f} s", flush=True)
    everyone, none = user_rows(len(users)), np.empty(0, np.int64)
    calibration = indexed.calibrate(everyone[:_CALIBRATED])
    print(f"calibrated: {calibration}", flush=True)
    exact, rows = CatalogueScorer(*inputs), everyone[_CALIBRATED:]
    nothing = Exclusions(none, none, np.zeros(len(rows), np.int32), np.ones((1, len(titles)), bool))

    def by_index(expansion: int) -> np.ndarray:
        return indexed.indexed_top(rows, args.k, nothing, expansion=expansion).id

    best, recalls = exact.top(rows, args.k, nothing).id, dict[int, float]()
    for expansion in sorted({*map(int, args.expansions), calibration.expansion_search}):
        recalls[expansion] = recall(best, by_index(expansion))
        print(f"expansion_search {expansion}: recall {recalls[expansion]:.4f}", flush=True)
        if recalls[expansion] >= _ENOUGH and expansion >= calibration.expansion_search:
            break
    rivals: dict[str, Any] = {"exact": lambda: exact.top(rows, args.k, nothing)}
    rivals |= {str(e): partial(by_index, e) for e in recalls}
    seconds = interleaved(rivals, args.rounds, warmup=0)
    return {
        "settings": settings._asdict(),
        "build_seconds": build,
        "calibration": calibration._asdict(),
        "exact": seconds["exact"].rate(len(rows)),
        "expansions": {
            str(e): {
                "recall": recalls[e],
                "rate": seconds[str(e)].rate(len(rows)),
                "ratio": ratio(seconds["exact"], seconds[str(e)]),
            }
            for e in recalls
        },
    }


def main(args: Any) -> Report:
    from jaxrec.serving.index.title_index import is_installed

    if not is_installed():
        raise InputError("usearch is not installed: pip install 'jaxrec[ann]'")
    if args.quick:
        args.titles, args.requests, args.rounds, args.k = 5_000, 16, 1, 10
    figures: dict[str, Any] = {"titles": args.titles, "requests": args.requests, "k": args.k}
    rows = []
    for kind in args.vectors:
        users, titles, description = make_vectors(kind, args)
        print(f"{description}: {len(titles):,} titles of width {titles.shape[1]}", flush=True)
        result = figures[kind] = measure_vectors(kind, users, titles, args) | {"vectors": description}
        rows.append((f"{description}: build of the index", f"{result['build_seconds']:,.0f} s", "no build"))
        exact, chosen = spread(result["exact"], "requests/s", 1), result["calibration"]["expansion_search"]
        for expansion, one in result["expansions"].items():
            mark = ", chosen by calibration" if int(expansion) == chosen else ""
            name = f"{description}, expansion_search {expansion}{mark}"
            rows.append(
                (
                    f"{name}: recall@{args.k} {one['recall']:.4f}",
                    spread(one["rate"], "requests/s", 1),
                    f"exact {exact}: {spread(one['ratio'], 'times as fast', 2)}",
                )
            )
    return Report("title_index", figures, rows)


if __name__ == "__main__":
    run(main, _flags)
