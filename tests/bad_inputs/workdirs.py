"""Door "workdirs and checkpoints": files of jaxrec's own, damaged, changed or of another kind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from jaxrec.checkpoints.seals import CHECKSUMS, seal
from jaxrec.data.storage.dataset import sealed
from jaxrec.runtime.checksums import checksum
from tests.bad_inputs.case import Case, Stock
from tests.bad_inputs.configs import TINY

Damage = Callable[[Path], Any]

EVALUATE = ("evaluate", "--checkpoint=run")
TRAIN = ("train", f"--config={TINY}", "--workdir=run", "--config.data.directory=dataset")
PREPARE = ("prepare", f"--config={TINY}", "--out=dataset")
DRY_RUN = ("train", f"--config={TINY}", "--workdir=w", "--config.data.directory=dataset", "--dry-run")
START = (
    "train",
    f"--config={TINY}",
    "--workdir=w",
    "--config.data.directory=dataset",
    "--config.start.workdir=run",
)
COMPARE = ("compare", "run", "other")
REPORT = ("report", "run")
RECOMMEND = ("recommend", "--checkpoint=run", "--histories=h.csv")
EXPORT = ("export", "--checkpoint=run", "--out=e")
SERVE = ("serve", "--export=export")

# ---------------------------------------------------------------- damage to a file


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = {
    "flipped": flip,
    "cut": cut,
    "empty": empty,
    "removed": remove,
    "of zeros": zeros,
    "a folder": a_folder,
}


def content(text: str | bytes) -> Damage:
    """Return a damage: another content."""
    return lambda path: path.write_bytes(text.encode() if isinstance(text, str) else text)


def edit(*keys: str, value: Any = None) -> Damage:
    """Return a damage: another value in a JSON file, or no such key where `value` is None."""

    def damage(path: Path) -> None:
        tree = json.loads(path.read_bytes())
        inner = tree
        for key in keys[:-1]:
            inner = inner[key]
        if value is None:
            del inner[keys[-1]]
        else:
            inner[keys[-1]] = value
        if "checksum" in tree and keys[0] != "checksum":
            tree = sealed(tree)  # as another program would write it: not damaged, but wrong
        path.write_text(json.dumps(tree))

    return damage


# ---------------------------------------------------------------- cases


def step_of(folder: Path) -> Path:
    """Return the folder of the only step of the run."""
    return next(p for p in (folder / "run" / "checkpoints").iterdir() if p.name.isdigit())


def one_file(folder: Path, pattern: str) -> Path:
    """Return the largest file that a pattern names in the step."""
    return max(step_of(folder).glob(pattern), key=lambda p: p.stat().st_size)


def in_step(
    name: str,
    pattern: str,
    damage: Damage,
    command: tuple[str, ...],
    text: str,
    seals: str = "kept",
    slow: bool = False,
) -> Case:
    """Return a case of a file of a checkpoint.

    Args:
        name: Name of the case.
        pattern: Of the file.
        damage: What is done to it.
        command: What reads it.
        text: Expected.
        seals: Checksums of the step afterwards: "kept", "none" as in older runs, or "new".
        slow: As in `Case`.
    """

    def make(folder: Path, stock: Stock) -> None:
        stock.copy("run", folder)
        if command[0] == "train":
            stock.copy("dataset", folder)
        damage(one_file(folder, pattern))
        if seals == "none":
            (step_of(folder) / CHECKSUMS).unlink()
        elif seals == "new":
            seal(step_of(folder))

    return Case(name, make, command, text, slow=slow)


def of_folder(
    name: str,
    kind: str,
    damage: Damage,
    command: tuple[str, ...],
    text: str,
    status: int = 2,
    slow: bool = False,
) -> Case:
    """Return a case of a folder of the stock: "run", "dataset", "export", or "run and dataset"."""

    def make(folder: Path, stock: Stock) -> None:
        for one in kind.split(" and "):
            stock.copy(one, folder)
        damage(folder)

    return Case(name, make, command, text, status, slow)


def in_folder(
    name: str,
    file: str,
    damage: Damage,
    command: tuple[str, ...],
    text: str,
    status: int = 2,
    slow: bool = False,
) -> Case:
    """Return a case of one file of the run, the dataset or the export."""
    kind = file.partition("/")[0]
    if (command[0] == "train" and kind == "run") or "--data=dataset" in command:
        kind = "run and dataset"
    return of_folder(name, kind, lambda f: damage(f / file), command, text, status, slow)


META = "meta/metadata"
_FILES = {
    "state": ("state/d/*", "state/manifest.ocdbt", "state/_METADATA"),
    "arrays": ("arrays/d/*", "arrays/_METADATA"),
    "meta": (META,),
}
SEALED = [
    in_step(f"checkpoint, {file} {how}", file, damage, EVALUATE, f"step 56, {item}: ")
    for item, files in _FILES.items()
    for file in files
    for how, damage in DAMAGES.items()
]
UNSEALED = [
    in_step(f"checkpoint without checksums, {file} {how}", file, DAMAGES[how], EVALUATE, "step 56, ", "none")
    for item, files in _FILES.items()
    for file in files
    for how in ("cut", "empty", "removed", "of zeros")
]
RESUMED = [
    in_step(
        f"a run to resume, {file} {how}",
        file,
        DAMAGES[how],
        TRAIN,
        "all 1 steps are damaged and were renamed to damaged-<step>",
    )
    for file, how in (
        ("state/d/*", "flipped"),
        ("arrays/d/*", "cut"),
        (META, "empty"),
        ("metrics/metrics", "removed"),
        (CHECKSUMS, "empty"),
    )
]
OTHER_FILES = [
    in_step("checksums that are no JSON", CHECKSUMS, content("{"), EVALUATE, "checksums.json is damaged"),
    in_step("checksums that are a list", CHECKSUMS, content("[]"), EVALUATE, "checksums.json is damaged"),
    in_step("checksums of numbers", CHECKSUMS, content('{"meta/metadata": 3}'), EVALUATE, "checksums.json is damaged"),
    in_step("checksums without bytes", CHECKSUMS, content('{"meta/metadata": {}}'), EVALUATE, "checksums.json is damaged"),
    in_step("checksums that name a file outside", CHECKSUMS, content('{"meta/../../../../../x": {"bytes": 1, "sha256": ""}}'), EVALUATE, "is no file of this folder; the file that names it was changed"),
    in_step("metrics that are no JSON", "metrics/metrics", content("{"), EVALUATE, "checkpoint", "none"),
    in_step("metrics that are a list", "metrics/metrics", content("[]"), EVALUATE, "checkpoint", "none"),
    in_step("metrics without the one of the best step", "metrics/metrics", content('{"loss": 1}'), EVALUATE, "checkpoint", "none"),
    in_step("a metric of text", "metrics/metrics", content('{"ndcg@1": "good"}'), EVALUATE, "checkpoint", "none"),
]  # fmt: skip


def of_meta(name: str, damage: Damage, text: str, command: tuple[str, ...] = EVALUATE) -> Case:
    return in_step(f"metadata: {name}", META, damage, command, text, "new")


METADATA = [
    of_meta("no JSON", content("{"), "step 56, meta"),
    of_meta("a list", content("[]"), "format=None; allowed: 1"),
    of_meta("null", content("null"), "format=None; allowed: 1"),
    of_meta("another format", edit("format", value=7), "format=7; allowed: 1"),
    of_meta("no format", edit("format"), "format=None; allowed: 1"),
    of_meta("a format of text", edit("format", value="1"), "format=1; allowed: 1"),
    of_meta("no meta", edit("meta"), "step 56: meta"),
    of_meta("meta of a list", edit("meta", value=[]), "step 56: meta"),
    of_meta("no arrays", edit("arrays"), "step 56: arrays"),
    of_meta("arrays of a list", edit("arrays", value=[1]), "step 56: arrays"),
    of_meta("an array without a shape", edit("arrays", "title_key", value=["<i8"]), "step 56: arrays"),
    of_meta("an array of another shape", edit("arrays", "title_key", value=["<i8", [3]]), "step 56, arrays"),
    of_meta("an array of another dtype", edit("arrays", "title_key", value=["no such", [200]]), "step 56, arrays"),
    of_meta("an array of objects", edit("arrays", "title_key", value=["O", [200]]), "step 56, arrays"),
    of_meta("one array less", edit("arrays", "title_key"), "title_key"),
    of_meta("one array more", edit("arrays", "more", value=["<i8", [2]]), "more"),
    of_meta("no config", edit("meta", "config"), "config"),
    of_meta("a config of text", edit("meta", "config", value="tiny"), "meta: config is text; allowed: an object"),
    of_meta("a config of a list", edit("meta", "config", value=[1]), "meta: config is a list; allowed: an object"),
    of_meta("a part of text", edit("meta", "config", "train", value="x"), "train='x' must be an object"),
    of_meta("a field of the future", edit("meta", "config", "train", "magic", value=3), "train.magic does not exist"),
    of_meta("a number of text", edit("meta", "config", "model", "width", value="12"), "model.width='12' must be a whole number"),
    of_meta("another width", edit("meta", "config", "model", "width", value=24), "in the checkpoint, but"),
    of_meta("another number of experts", edit("meta", "config", "model", "experts", value=[]), "model.experts=() must hold at least one"),
    of_meta("a source without a class", edit("meta", "config", "source", "class"), "source"),
    of_meta("a source of another class", edit("meta", "config", "source", "class", value="Csv"), "source.class='Csv' must be one of"),
    of_meta("a task of another name", edit("meta", "config", "task", "name", value="rank"), "task.name='rank' must be one of"),
    of_meta("no layout", edit("meta", "layout"), "layout"),
    of_meta("a layout of text", edit("meta", "layout", value="x"), "layout"),
    of_meta("a layout of a list", edit("meta", "layout", value=[]), "layout"),
    of_meta("a layout without features", edit("meta", "layout", "features"), "layout"),
    of_meta("features of text", edit("meta", "layout", "features", value=["x"]), "layout"),
    of_meta("a feature without a name", edit("meta", "layout", "features", value=[{}]), "layout"),
    of_meta("a layout with a further key", edit("meta", "layout", "more", value=1), "layout"),
    of_meta("a layout of three pools", edit("meta", "layout", "pools", value=[16, 32, 20]), "layout.pools=[16, 32, 20] must hold 4 numbers, or 5 with served titles"),
    of_meta("a layout of other titles", edit("meta", "layout", "num_titles", value=3), "step 56"),
    of_meta("a layout of titles in words", edit("meta", "layout", "num_titles", value="many"), "layout"),
    of_meta("no threshold", edit("meta", "threshold"), "threshold"),
    of_meta("no total_steps", edit("meta", "total_steps"), "total_steps"),
    of_meta("total steps of text", edit("meta", "total_steps", value="x"), "total_steps"),
    of_meta("no dataset", edit("meta", "dataset"), "dataset"),
    of_meta("no folder of the dataset", edit("meta", "dataset_directory"), "dataset_directory"),
    of_meta("no config, to recommend", edit("meta", "config"), "config", RECOMMEND),
    of_meta("no layout, to export", edit("meta", "layout"), "layout", EXPORT),
    of_meta("no categories, to recommend", edit("meta", "categories"), "categories", RECOMMEND),
    of_meta("categories of text, to recommend", edit("meta", "categories", value="x"), "categories", RECOMMEND),
    of_meta("no config, to resume", edit("meta", "config"), "config", TRAIN),
    of_meta("a field of the future, to resume", edit("meta", "config", "train", "magic", value=3), "train.magic does not exist", TRAIN),
    of_meta("another dataset, to resume", edit("meta", "dataset", value="0123"), "dataset", TRAIN),
]  # fmt: skip


# ---------------------------------------------------------------- workdirs


def replace_by_file(name: str) -> Damage:
    def damage(folder: Path) -> None:
        shutil.rmtree(folder / name)
        (folder / name).write_text("x")

    return damage


def no_steps(folder: Path) -> None:
    shutil.rmtree(step_of(folder))


def another_name(name: str) -> Damage:
    return lambda folder: step_of(folder).rename(step_of(folder).with_name(name))


def only_metrics(folder: Path) -> None:
    for item in ("state", "arrays", "meta"):
        shutil.rmtree(step_of(folder) / item)


def without_item(item: str) -> Damage:
    return lambda folder: shutil.rmtree(step_of(folder) / item)


WORKDIRS = [
    of_folder("a file for a workdir", "run", replace_by_file("run"), EVALUATE, "no such directory"),
    of_folder("a file for the checkpoints", "run", replace_by_file("run/checkpoints"), EVALUATE, "no such directory"),
    of_folder("a file for a workdir to train in", "dataset", lambda f: (f / "run").write_text("x"), TRAIN, "workdir run: run cannot be written: File exists"),
    of_folder("no step", "run", no_steps, EVALUATE, "holds no complete checkpoint"),
    of_folder("a step of another name", "run", another_name("last"), EVALUATE, "holds no complete checkpoint"),
    of_folder("a step that was set aside", "run", another_name("damaged-56"), EVALUATE, "holds no complete checkpoint"),
    of_folder("an incomplete step", "run", another_name("56.orbax-checkpoint-tmp"), EVALUATE, "holds no complete checkpoint"),
    of_folder("a step called 0056", "run", another_name("0056"), EVALUATE, "checkpoint"),
    of_folder("a step called -1", "run", another_name("-1"), EVALUATE, "holds no complete checkpoint"),
    of_folder("a delay of a model that ranks lists", "run", lambda f: None, (*EVALUATE, "--delay-hours=0,6"), "delay_hours=0,6; allowed: none, for the rows of a ranking model hold ages"),
    of_folder("sessions of a model that reads none", "run", lambda f: None, (*EVALUATE, "--session=on,off"), "session=on,off; allowed: none, for the model reads no session"),
    of_folder("an empty newer step", "run", lambda f: (f / "run/checkpoints/99").mkdir(), (*EVALUATE, "--which=last"), "step 99"),
    of_folder("a file for a step", "run", lambda f: (f / "run/checkpoints/99").write_text("x"), (*EVALUATE, "--which=last"), "step 56", 0, slow=True),
    of_folder("a step without items", "run", only_metrics, EVALUATE, "step 56"),
    of_folder("a step without its state", "run", without_item("state"), EVALUATE, "step 56, state"),
    of_folder("a step without its arrays", "run", without_item("arrays"), EVALUATE, "step 56, arrays"),
    of_folder("a step without its meta", "run", without_item("meta"), EVALUATE, "step 56, meta"),
    of_folder("a step without its metrics", "run", without_item("metrics"), (*EVALUATE, "--which=best"), "which='best' does not exist"),
    of_folder("a workdir of a step alone", "run", lambda f: step_of(f).rename(f / "56"), ("evaluate", "--checkpoint=56"), "no such directory"),
    of_folder("the folder of the checkpoints for a workdir", "run", lambda f: None, ("evaluate", "--checkpoint=run/checkpoints"), "no such directory"),
    of_folder("a dataset for a workdir", "dataset", lambda f: None, ("evaluate", "--checkpoint=dataset"), "no such directory"),
    of_folder("the truth for a ranking model", "run", lambda f: None, (*EVALUATE, "--lists=truth"), "lists=truth: the scores of a ranking model are no probabilities"),
    of_folder("a workdir for an export", "run", lambda f: None, ("serve", "--export=run"), "no manifest.json"),
    of_folder("a workdir for a dataset", "run", lambda f: None, (*EVALUATE, "--data=run"), "no manifest.json"),
    of_folder("another config", "run and dataset", lambda f: None, (*TRAIN, "--config.model.dropout=.3"), "holds a run with model.dropout=0.1, this config has 0.3"),
    of_folder("a start whose patterns match nothing", "run and dataset", lambda f: None, (*START, "--config.start.take=gaet/*"), "start.take[0]='gaet/*' must match a parameter of start.workdir=run"),
    of_folder("a start of another width", "run and dataset", lambda f: None, (*START, "--config.model.width=24"), "start.workdir=run: expert_0/"),
    of_folder("a start of a step alone", "run and dataset", lambda f: step_of(f).rename(f / "56"), START, "holds no complete checkpoint"),
    of_folder("a dataset of other settings", "run and dataset", lambda f: None, (*TRAIN, "--config.data.seed=3"), "was prepared with other source, features, signals, labels or data settings"),
    of_folder("a shorter training", "run and dataset", lambda f: None, (*TRAIN, "--config.train.duration=1 epochs"), "train.duration"),
    of_folder("a longer training without --extend", "run and dataset", lambda f: None, (*TRAIN, "--config.train.duration=9 epochs"), "--extend"),
    in_folder("config.json that is no JSON, to resume", "run/config.json", content("{"), REPORT, "config.json: is no JSON"),
    in_folder("config.json of a list, to report", "run/config.json", content("[]"), REPORT, "config.json: holds no JSON object"),
    in_folder("test.json that is no JSON", "run/test.json", content("{"), REPORT, "test.json: is no JSON"),
    in_folder("test.json cut", "run/test.json", cut, REPORT, "test.json: is no JSON"),
    in_folder("test.json that is no text", "run/test.json", content(b"\xff\xfe"), REPORT, "test.json: is no JSON"),
    in_folder("test.json of a list", "run/test.json", content("[1]"), REPORT, "test.json: holds no JSON object"),
    in_folder("test.json without a split", "run/test.json", edit("split"), REPORT, "test.json"),
    in_folder("test.json without lists", "run/test.json", edit("lists"), REPORT, "report.html", 0),
    in_folder("test.json with lists of text", "run/test.json", edit("lists", value="x"), REPORT, "test.json"),
    in_folder("test.json of another shape", "run/test.json", content('{"a": 1}'), REPORT, "test.json"),
    in_folder("a served list of a dataset without slates", "run/config.json", lambda path: None, (*EVALUATE, "--lists=served"), "lists=served: data.served is 0; allowed: enabled,disabled,catalogue"),
    in_folder("test.json with metrics of text", "run/test.json", edit("lists", "enabled", "ndcg@1", value="high"), REPORT, "test.json"),
    in_folder("eval.json that is no JSON", "run/eval-test-best.json", content("{"), REPORT, "eval-test-best.json: is no JSON"),
    in_folder("measurements that are no JSON", "run/report-test-best.json", content("{"), REPORT, "report-test-best.json: is no JSON"),
    in_folder("measurements of a list", "run/report-test-best.json", content("[]"), REPORT, "report-test-best.json: holds no JSON object"),
    in_folder("metrics.jsonl that is no text", "run/metrics.jsonl", content(b"\xff\xfe\xfd"), REPORT, "report.html", 0),
    in_folder("metrics.jsonl of other lines", "run/metrics.jsonl", content('1\n[]\n{"a": 1}\n{"step": "x", "split": "train", "loss": 1}\n'), REPORT, "report.html", 0),
    in_folder("metrics.jsonl whose last line is cut", "run/metrics.jsonl", lambda p: p.write_bytes(p.read_bytes()[:-20]), REPORT, "report.html", 0),
    in_folder("no metrics.jsonl", "run/metrics.jsonl", remove, REPORT, "report.html", 0),
    in_folder("no measurements", "run/report-test-best.json", remove, REPORT, "report.html", 0),
    in_folder("no config.json", "run/config.json", remove, REPORT, "report.html", 0),
    in_folder("a report in a folder that is missing", "run/config.json", lambda p: None, (*REPORT, "--out=no/r.html"), "no/r.html", 2),
    of_folder("a report over a folder", "run", lambda f: (f / "r.html").mkdir(), (*REPORT, "--out=r.html"), "r.html", 1, slow=True),
]  # fmt: skip

# ---------------------------------------------------------------- results by user


def compared(
    name: str, damage: Damage, text: str, status: int = 2, command: tuple[str, ...] = COMPARE
) -> Case:
    """Return a case of two runs, of which the second is damaged."""

    def make(folder: Path, stock: Stock) -> None:
        stock.copy("run", folder)
        (folder / "run").rename(folder / "other")
        stock.copy("run", folder)
        damage(folder / "other")

    return Case(f"compare: {name}", make, command, text, status)


USER, QUERY, RESULT = (
    "eval-test-best-per-user.parquet",
    "eval-test-best-per-query.parquet",
    "eval-test-best.json",
)


def on(file: str, damage: Damage) -> Damage:
    return lambda folder: damage(folder / file)


def frame(file: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Damage:
    """Return a damage: a changed table."""

    def damage(folder: Path) -> None:
        change(pl.read_parquet(folder / file)).write_parquet(folder / file)

    return damage


def with_checksums(damage: Damage) -> Damage:
    """Return a damage of tables whose checksums are in the result, as `evaluate` writes it."""

    def seal_and_damage(folder: Path) -> None:
        path = folder / RESULT
        files = {name: checksum(folder / name) for name in (USER, QUERY)}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"files": files}))
        damage(folder)

    return seal_and_damage


COMPARISONS = [
    compared("two runs with checksums", with_checksums(lambda f: None), "over 83 users", 0),
    compared("a table of users flipped", with_checksums(on(USER, flip)), f"{USER} is damaged: sha256"),
    compared("a table of queries cut beside checksums", with_checksums(on(QUERY, DAMAGES["cut"])), f"{QUERY} is damaged: "),
    compared("two equal runs", lambda f: None, "over 83 users", 0),
    compared("no table of users", on(USER, remove), "other: holds nothing where one eval-test-*"),
    compared("no table of queries", on(QUERY, remove), f"{QUERY}: does not exist"),
    compared("no result", on(RESULT, remove), f"{RESULT}: does not exist"),
    *(compared(f"a table of users {how}", on(USER, DAMAGES[how]), f"{USER}: ") for how in ("cut", "empty", "of zeros", "a folder")),
    *(compared(f"a table of queries {how}", on(QUERY, DAMAGES[how]), f"{QUERY}: ") for how in ("cut", "empty", "of zeros")),
    compared("a table of users that is CSV", on(USER, content("user,a\n1,2\n")), f"{USER}: "),
    compared("a table of users without users", frame(USER, lambda f: f.drop("user")), f"{USER}: "),
    compared("a table of queries without users", frame(QUERY, lambda f: f.drop("user")), f"{QUERY}: "),
    compared("a table of queries without a list", frame(QUERY, lambda f: f.drop("enabled")), f"{QUERY}: "),
    compared("a table of users without rows", frame(USER, lambda f: f[:0]), "users are in this run or"),
    compared("both tables without rows", lambda f: (frame(USER, lambda t: t[:0])(f), frame(QUERY, lambda t: t[:0])(f)), "users are in this run or"),
    compared("one user less", frame(USER, lambda f: f[1:]), "1 users are in this run or"),
    compared("a user twice", frame(USER, lambda f: pl.concat([f, f[:1]])), "other"),
    compared("users of another type", frame(USER, lambda f: f.with_columns(pl.col("user").cast(pl.String))), "other"),
    compared("metrics of text", frame(USER, lambda f: f.with_columns(pl.col("enabled/ndcg@1").cast(pl.String))), f"{USER}: "),
    compared("metrics that are NaN", frame(USER, lambda f: f.with_columns(pl.lit(float("nan")).alias("enabled/ndcg@1"))), f"{USER}: "),
    compared("metrics without a value", frame(USER, lambda f: f.with_columns(pl.lit(None, pl.Float64).alias("enabled/ndcg@1"))), f"{USER}: "),
    compared("ranks of text", frame(QUERY, lambda f: f.with_columns(pl.lit("x").alias("enabled"))), f"{QUERY}: "),
    compared("ranks without a value", frame(QUERY, lambda f: f.with_columns(pl.lit(None, pl.UInt16).alias("enabled"))), f"{QUERY}: "),
    compared("queries in another order", frame(QUERY, lambda f: f[::-1]), "its queries differ from the queries of run"),
    compared("one query less", frame(QUERY, lambda f: f[1:]), "its queries differ from the queries of run"),
    compared("no list in common", frame(USER, lambda f: f.select("user")), "has no list in common"),
    compared("a result that is no JSON", on(RESULT, content("{")), f"{RESULT}: is no JSON"),
    compared("a result that is a list", on(RESULT, content("[]")), f"{RESULT} is a list; allowed: an object"),
    compared("a result without a dataset", on(RESULT, edit("dataset")), f"{RESULT}: "),
    compared("a result of another dataset", on(RESULT, edit("dataset", value="x")), "other: was evaluated on dataset x"),
    compared("a result whose catalogue is text", on(RESULT, edit("catalogue", value="x")), f"{RESULT}: "),
    compared("a copy of the tables under another split", lambda f: None, "holds nothing where one eval-validation-", 2, (*COMPARE, "--split=validation")),
    compared("the last checkpoint", lambda f: None, "holds nothing where one eval-test-last-per-user.parquet", 2, (*COMPARE, "--which=last")),
]  # fmt: skip

# ---------------------------------------------------------------- datasets

MANIFEST = "dataset/manifest.json"
DATA = (*EVALUATE, "--data=dataset")


def array(change: Callable[[np.ndarray], np.ndarray], seal_again: bool) -> Damage:
    """Return a damage: a changed array, whose checksum may be made again."""

    def damage(path: Path) -> None:
        np.save(path, change(np.load(path)))
        if seal_again:
            edit("files", path.name, value=checksum(path))(path.with_name("manifest.json"))

    return damage


def reordered(folder: Path) -> None:
    array(lambda a: a[::-1], True)(folder / "dataset/title_key.npy")
    edit("fingerprint", value="x")(folder / "dataset/manifest.json")


def pickled(path: Path) -> None:
    np.save(path, np.array([{}, "x"], object), allow_pickle=True)


def unsealed(damage: Damage) -> Damage:
    """Return a damage of a dataset prepared before its files had checksums."""

    def both(path: Path) -> None:
        damage(path)
        manifest = path.with_name("manifest.json")
        tree = json.loads(manifest.read_bytes())
        for key in ("files", "checksum"):
            del tree[key]
        manifest.write_text(json.dumps(tree))

    return both


DATASETS = [
    *(in_folder(f"a manifest {how}", MANIFEST, DAMAGES[how], PREPARE, "manifest.json is damaged") for how in ("cut", "empty", "of zeros", "flipped", "a folder")),
    in_folder("a manifest that is a list", MANIFEST, content("[]"), PREPARE, "is not the manifest of a dataset"),
    in_folder("a manifest that is null", MANIFEST, content("null"), PREPARE, "is not the manifest of a dataset"),
    in_folder("a manifest of another program", MANIFEST, content('{"name": "x", "version": 1}'), PREPARE, "is not the manifest of a dataset"),
    in_folder("a manifest of a deep tree", MANIFEST, content("[" * 100_000), PREPARE, "manifest.json is damaged"),
    in_folder("a manifest with a number changed", MANIFEST, lambda p: p.write_text(p.read_text().replace('"titles": 200', '"titles": 201')), PREPARE, "manifest.json was changed after the preparation"),
    in_folder("a manifest with an edited checksum", MANIFEST, edit("checksum", value="x"), PREPARE, "manifest.json was changed after the preparation"),
    in_folder("a manifest with a checksum that is a number", MANIFEST, edit("checksum", value=1), PREPARE, "manifest.json was changed after the preparation"),
    in_folder("a format of the future", MANIFEST, edit("format", value=9), DATA, "format=9; allowed: 2 or 3"),
    in_folder("a format of the future, to prepare", MANIFEST, edit("format", value=9), PREPARE, "format=9; allowed: 2 or 3"),
    in_folder("a format of text", MANIFEST, edit("format", value="3"), DATA, "format="),
    in_folder("a format that is a list", MANIFEST, edit("format", value=[3]), DATA, "format="),
    in_folder("no digest", MANIFEST, edit("digest"), PREPARE, "manifest.json"),
    in_folder("no splits, to prepare", MANIFEST, edit("splits"), PREPARE, "manifest.json"),
    in_folder("no rows, to prepare", MANIFEST, edit("rows"), PREPARE, "manifest.json"),
    *(in_folder(f"no {key}", MANIFEST, edit(key), DATA, "manifest.json") for key in ("layout", "splits", "fingerprint", "categories")),
    in_folder("a layout of text", MANIFEST, edit("layout", value="x"), DATA, "manifest.json"),
    in_folder("a layout without a key", MANIFEST, edit("layout", "features"), DATA, "manifest.json"),
    in_folder("a layout of numbers in words", MANIFEST, edit("layout", "num_titles", value="many"), DATA, "manifest.json"),
    in_folder("splits of text", MANIFEST, edit("splits", value="x"), DATA, "manifest.json"),
    in_folder("a split without examples", MANIFEST, edit("splits", "test", "examples"), DATA, "manifest.json"),
    in_folder("a split of -1 examples", MANIFEST, edit("splits", "test", "examples", value=-1), DATA, "manifest.json"),
    in_folder("a split of too many examples", MANIFEST, edit("splits", "test", "examples", value=10**9), DATA, "missing"),
    in_folder("files of a list", MANIFEST, edit("files", value=[]), DATA, "manifest.json"),
    in_folder("files of numbers", MANIFEST, edit("files", "title_key.npy", value=3), DATA, "manifest.json"),
    *(in_folder(f"title_key.npy {how}", "dataset/title_key.npy", damage, DATA, "title_key.npy") for how, damage in DAMAGES.items()),
    *(in_folder(f"title_key.npy without checksums, {how}", "dataset/title_key.npy", unsealed(DAMAGES[how]), DATA, "title_key.npy") for how in ("cut", "empty", "removed", "of zeros")),
    in_folder("a pickle for an array", "dataset/title_key.npy", unsealed(pickled), DATA, "title_key.npy is damaged"),
    in_folder("an array of another shape", "dataset/title_key.npy", array(lambda a: a[:-1], True), DATA, "title_key"),
    of_folder("keys of titles in another order", "run and dataset", reordered, DATA, "title ids stand for other titles than in"),
    *(in_folder(f"test rows {how}", "dataset/test-00000.rows", DAMAGES[how], DATA, "test-00000.rows") for how in ("cut", "empty", "removed", "of zeros", "a folder")),
    in_folder("test rows flipped", "dataset/test-00000.rows", flip, DATA, "test-00000.rows is damaged"),
    in_folder("test rows of the training", "dataset/test-00000.rows", lambda p: shutil.copy(p.with_name("train-00000.rows"), p), DATA, "test-00000.rows is damaged"),
    in_folder("train rows removed", "dataset/train-00000.rows", remove, DRY_RUN, "train-00000.rows is missing"),
    in_folder("train rows empty", "dataset/train-00000.rows", empty, DRY_RUN, "train-00000.rows is damaged", slow=True),
    in_folder("train rows flipped", "dataset/train-00000.rows", flip, DRY_RUN, "train-00000.rows is damaged", slow=True),
    of_folder("no manifest", "dataset and run", lambda f: (f / MANIFEST).unlink(), DATA, "no manifest.json; prepare it with"),
    of_folder("a file for a dataset", "run", lambda f: (f / "dataset").write_text("x"), DATA, "dataset"),
    of_folder("a file for a dataset, to prepare", "run", lambda f: (f / "dataset").write_text("x"), PREPARE, "dataset dataset: exists; remove it, or name another directory"),
    of_folder("an export for a dataset", "run and export", lambda f: (f / "export").rename(f / "dataset"), DATA, "format=1; allowed: 2 or 3"),
]  # fmt: skip

# ---------------------------------------------------------------- exports

EXPORTED = "export/manifest.json"
EXPORTS = [
    *(in_folder(f"export: a manifest {how}", EXPORTED, DAMAGES[how], SERVE, "manifest.json") for how in ("cut", "empty", "of zeros", "a folder")),
    in_folder("export: a manifest that is a list", EXPORTED, content("[]"), SERVE, "manifest.json"),
    in_folder("export: a manifest that is null", EXPORTED, content("null"), SERVE, "manifest.json"),
    in_folder("export: another format", EXPORTED, edit("format", value=9), SERVE, "format=9; allowed: 1"),
    *(in_folder(f"export: no {key}", EXPORTED, edit(key), SERVE, "manifest.json") for key in ("readable_until", "files", "programs", "platforms", "config", "layout", "columns", "step", "block")),
    in_folder("export: a date that is none", EXPORTED, edit("readable_until", value="soon"), SERVE, "manifest.json"),
    in_folder("export: a platform of another machine", EXPORTED, edit("platforms", value=["tpu"]), SERVE, "platforms=tpu; this process runs on cpu"),
    in_folder("export: platforms of text", EXPORTED, edit("platforms", value=3), SERVE, "manifest.json"),
    in_folder("export: a config of the future", EXPORTED, edit("config", "magic", value=3), SERVE, "magic does not exist"),
    in_folder("export: a layout of text", EXPORTED, edit("layout", value="x"), SERVE, "manifest.json"),
    in_folder("export: files of text", EXPORTED, edit("files", value="x"), SERVE, "manifest.json"),
    in_folder("export: a file outside of the folder", EXPORTED, edit("files", "../secret", value={"sha256": "", "bytes": 1}), SERVE, "../secret"),
    *(in_folder(f"export: parameters {how}", "export/parameters.safetensors", damage, SERVE, "parameters.safetensors") for how, damage in DAMAGES.items()),
    *(in_folder(f"export: keys {how}", "export/arrays/title_key.npy", DAMAGES[how], SERVE, "arrays/title_key.npy") for how in ("flipped", "removed")),
    in_folder("export: vocabulary that is no JSON", "export/vocabulary.json", content("{"), SERVE, "vocabulary.json is damaged"),
]  # fmt: skip

# ---------------------------------------------------------------- models computed from trained ones


def as_it_is() -> Damage:
    """Return a damage that does nothing: what is wrong is in the arguments."""
    return lambda folder: None


def second_run(folder: Path) -> None:
    """Copy the run, as a second member of a mixture."""
    shutil.copytree(folder / "run", folder / "other")


def another_catalogue(folder: Path) -> None:
    """Copy the run with the metadata of another dataset and another catalogue."""
    second_run(folder)
    path = max((folder / "other" / "checkpoints").glob(f"*/{META}"), key=lambda p: p.stat().st_size)
    tree = json.loads(path.read_bytes())
    tree["meta"]["dataset"] = "0123"
    tree["meta"]["categories"]["segment"] = ["x" for _ in tree["meta"]["categories"]["segment"]]
    path.write_text(json.dumps(tree))
    seal(path.parents[1])


MIXTURE = ("mixture", "--members=run,other", "--workdir=e", "--by=segment")
STABILISE = ("stabilise", "run", "--like=run")
COMPUTED = [
    of_folder("stabilise: no dot product", "run", as_it_is(), (*STABILISE, "--out=o"), "run: the score of 'tiny' is no dot product"),
    of_folder("stabilise: a folder that is full", "run", as_it_is(), (*STABILISE, "--out=run"), "--out=run; allowed: a new or an empty folder"),
    of_folder("mixture: one member", "run", as_it_is(), ("mixture", "--members=run", "--workdir=e"), "members=run; allowed: two workdirs or more, each once"),
    of_folder("mixture: other titles", "run", another_catalogue, MIXTURE, "members: other: "),
    of_folder("mixture: a folder that is full", "run", as_it_is(), ("mixture", "--members=run,run", "--workdir=run"), "--workdir=run; allowed: a new or an empty folder"),
    of_folder("mixture: an unknown input", "run", second_run, ("mixture", "--members=run,other", "--workdir=e", "--by=country"), "by=country: is no input of a gate; allowed: history, segment"),
    of_folder("slices: an unknown feature", "run", as_it_is(), (*EVALUATE, "--slices=country"), "slices=country: 'country' is no slice; allowed: segment, "),
    of_folder("slices: a rival without slices", "run", as_it_is(), (*EVALUATE, "--against=run"), "--against=run; allowed only with --slices"),
    of_folder("low rank: a pattern that matches no kernel", "run and dataset", as_it_is(), (*START, "--config.start.low_rank=2", "--config.start.adapt=('*embedding',)"), "start.adapt[0]='*embedding' must match a parameter that is a dense kernel"),
    of_folder("stabilise: no earlier run", "run", as_it_is(), ("stabilise", "run", "--out=o"), "--like"),
]  # fmt: skip

CASES = [
    *SEALED,
    *UNSEALED,
    *RESUMED,
    *OTHER_FILES,
    *METADATA,
    *WORKDIRS,
    *COMPARISONS,
    *DATASETS,
    *EXPORTS,
    *COMPUTED,
]
