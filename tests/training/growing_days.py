"""Train three days of a log with new titles each day; print the programs that each day compiles.

    python tests/training/growing_days.py FOLDER TASK

The cache of compiled programs is that of JAX_COMPILATION_CACHE_DIR. A day's line is JSON: the programs that
were compiled and not read from the cache, the titles, and the ids.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from daily_logs import daily_config, day, make_log, write_tables  # noqa: E402

from jaxrec.config.schema import Config, Expert, Gate, Model, Start  # noqa: E402
from jaxrec.config.validation import check  # noqa: E402
from jaxrec.data.runners.local import prepare  # noqa: E402
from jaxrec.data.storage.dataset import Dataset  # noqa: E402
from jaxrec.sources import open_source  # noqa: E402
from jaxrec.training import trainer  # noqa: E402

CAPACITY = 256


def config_of(folder: Path, task: str, number: int) -> Config:
    """Return the config of a day that goes on from the day before."""
    last = 5 + number
    earlier = folder / str(number - 1)
    config = daily_config(
        folder, task, since=day(last - 2), until=day(last), capacity=CAPACITY, replay=0.2,
        continues=str(earlier / "data") if number else "", max_invalid_fraction=0.9,
    )  # fmt: skip
    config.model = Model(
        width=8, dropout=0.1, gate=Gate(hidden=(4,)), head_hidden=(8,),
        experts=(Expert(4, 1, 2, 1.0, 0.1), Expert(8, 1, 2, 1.0, 0.1)),
    )  # fmt: skip
    if task == "next_item":
        config.model.head, config.model.experts = "dot", (Expert(8, 1, 2, 1.0, 0.0, "sasrec"),)
    config.train.duration, config.train.batch_size, config.train.log_seconds = "3 steps", 16, 1e9
    config.evaluate.report, config.evaluate.report_users, config.evaluate.batch_size = False, 0, 32
    config.evaluate.next_k = (1,)
    if number:
        config.start = Start(str(earlier / "run"), "last", optimizer="kept", rows="mean", noise=0.0)
    config.sampling.negatives = 10  # the pools hold as many
    check(config)
    return config


def prepared(folder: Path, task: str, number: int) -> tuple[Config, Dataset]:
    """Prepare a day, whose titles table has 40 titles more than that of the day before."""
    config, path = config_of(folder, task, number), folder / str(number)
    path.mkdir(parents=True)
    write_tables(folder, make_log(5 + number), titles=50 + 40 * number)
    source = open_source(config.source, config.features, "", config.signals)
    prepare(source, config, str(path / "data"))
    return config, Dataset(path / "data")


def trained(config: Config, dataset: Dataset, workdir: Path) -> None:
    trainer.train(config, dataset, workdir, SimpleNamespace(requested=None))


def main(folder: str, task: str) -> None:
    compiled: list[str] = []
    jax.monitoring.register_event_listener(
        lambda name, **_: compiled.append(name) if name.endswith("/cache_misses") else None
    )
    for number in range(3):
        config, dataset = prepared(Path(folder), task, number)
        compiled.clear()
        jax.clear_caches()
        trained(config, dataset, Path(folder, str(number), "run"))
        arrays = dataset.arrays
        counts = {"compiled": len(compiled), "titles": len(arrays.title_key), "ids": len(arrays.rank_of_id)}
        print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
