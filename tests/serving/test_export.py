"""Exports: scores and titles of the checkpoint, limits, damaged folders, imports of the loader."""

import copy
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import run

import jaxrec.serving
from jaxrec.config.schema import Expert
from jaxrec.core.errors import InputError
from jaxrec.data.storage.arrays import as_words
from jaxrec.evaluation.correction import uncorrected
from jaxrec.models.kernels import pallas
from jaxrec.serving import export, exported, safetensors
from jaxrec.serving.filters import Filters
from jaxrec.serving.pages import PageLayout
from jaxrec.serving.recommender import Recommender
from jaxrec.tasks.loading import LoadedCheckpoint, build_task

ROOT = Path(__file__).resolve().parents[2]
USERS, MAX_K = 64, 20


@pytest.fixture(scope="module")
def recommender(loaded, correction):
    return Recommender(loaded, correction)


@pytest.fixture(scope="module")
def histories(loaded):
    """Ten plays of each of 64 users, in no order."""
    rng, plays = np.random.default_rng(1), 10 * USERS
    return {
        "user_id": rng.permutation(np.repeat(np.arange(USERS) + 5, 10)),
        "title_id": rng.choice(loaded.arrays.title_key, plays),
        "time": 1_735_689_600_000 + rng.integers(0, 10**9, plays),
        "seconds_viewed": rng.integers(1, 6000, plays).astype(float),
        "device": rng.choice(["tv", "phone", "web"], plays),
    }


def write_as_on_a_gpu(recommender, folder, *arguments):
    """Write an export as a machine with a GPU does, where kernels are the default."""
    lowered = export.Programs.lowered

    def lowered_on_a_gpu(self, *arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, "default_backend", lambda: "gpu")
            assert pallas.is_available("gpu", "float32")
            return lowered(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.Programs, "lowered", lowered_on_a_gpu)
        return export.write(recommender, folder, *arguments)


@pytest.fixture(scope="module")
def folder(recommender, once):
    return once("export", lambda folder: write_as_on_a_gpu(recommender, folder, ("cpu", "cuda"), MAX_K))


@pytest.fixture(scope="module")
def served(folder):
    return jaxrec.serving.load(folder)


def assert_equal_scores(scores, expected):
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5 * np.ptp(expected))


def assert_same_titles(result, expected):
    """The same titles but for those whose scores are equal within 1e-5 of the spread."""
    assert result["user"].tolist() == expected["user"].tolist()
    assert result["rank"].tolist() == expected["rank"].tolist()
    differ = result["title"] != expected["title"]
    spread = np.nanmax(expected["score"]) - np.nanmin(expected["score"])
    assert (np.abs(result["score"] - expected["score"])[differ] <= 1e-5 * spread).all()
    assert differ.mean() < 0.01
    np.testing.assert_array_equal(result["reason"], expected["reason"])


def test_scores_and_best_titles_are_those_of_the_checkpoint(recommender, served, histories):
    expected, scores = (r.score(histories, recommender.titles) for r in (recommender, served))
    assert scores["user"].tolist() == expected["user"].tolist()
    assert scores["title"].tolist() == expected["title"].tolist()
    assert_equal_scores(scores["score"], expected["score"])
    users = [*range(5, 5 + USERS), 7_000_002]
    for options in ({}, {"filters": Filters(False, False, deny=served.titles[:9].tolist())}):
        lists = [r.recommend(histories, 20, users=users, **options) for r in (recommender, served)]
        assert_same_titles(*lists[::-1])
        np.testing.assert_allclose(lists[1]["completion"], lists[0]["completion"], atol=1e-5)
        assert lists[0].counts == lists[1].counts and lists[1].counts["empty_histories"] == 1


def test_scores_do_not_depend_on_the_batch(recommender, served, histories):
    (made,) = served._builder.read(histories)
    run = served._scorer._run
    words, ids = as_words(made.rows), np.arange(2, 202, dtype=np.int32)
    expected = recommender._scorer.scores(made.rows, ids)
    for size in (1, 3, USERS):
        scores = np.asarray(run("scores", words[:size], np.pad(ids, (0, 56))))
        assert_equal_scores(scores[:, :200], expected[:size])


def test_pages_similar_titles_and_vectors(recommender, served, histories):
    page = PageLayout(rows=5, width=1)
    assert_same_titles(*(r.recommend(histories, page=page) for r in (served, recommender)))
    assert_same_titles(*(r.recommend(histories, 4, diversity=0.5) for r in (served, recommender)))
    similar = [r.similar(served.titles[:3].tolist(), 4) for r in (recommender, served)]
    assert similar[0]["similar"].tolist() == similar[1]["similar"].tolist()
    vectors = [r.embed(users=histories) for r in (recommender, served)]
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-5)


def test_limits(recommender, served, histories):
    long = {
        "user_id": np.full(10_000, 7),
        "title_id": np.resize(served.titles, 10_000),
        "time": 1_735_689_600_000 + 60_000 * np.arange(10_000),
        "seconds_viewed": np.resize([40.0, 5000.0], 10_000),
    }
    everything = Filters(False, False)
    assert_same_titles(*(r.recommend(long, 5, everything) for r in (served, recommender)))
    empty = {name: column[:0] for name, column in long.items()}
    result = served.recommend(empty, 3, users=[1, 2])
    assert result["empty_history"].all() and len(result["title"]) == 6 and np.isfinite(result["score"]).all()
    unknown = {**histories, "title_id": np.full(10 * USERS, 5)}
    result = served.recommend(unknown, 3)
    assert result.counts["plays_of_unknown_titles"] == 10 * USERS
    assert result.counts["empty_histories"] == USERS
    cases = [
        (lambda: served.recommend(histories, 21), "k=21; allowed: 1 to 20, the most titles of this export"),
        (lambda: served.recommend(histories, 201), "k=201; allowed: 1 to 200, the number of titles"),
        (lambda: served.score(histories, [5]), "title 5 is unknown; allowed: the titles of the training"),
        (lambda: served.recommend(empty), "histories: no user; allowed: at least one row"),
    ]
    for call, message in cases:
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value).startswith(message)


def test_programs_are_for_cpu_and_cuda_by_default():
    for function in (export.write, export.export):
        assert inspect.signature(function).parameters["platforms"].default == ("cpu", "cuda")


def test_the_folder_holds_no_kernel_and_no_pickle(folder, recommender):
    manifest = json.loads((folder / "manifest.json").read_text())
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert files == set(manifest["files"]) | {"manifest.json"}
    assert set(manifest["programs"]) == {"scores", "top_20", "users"}
    for program in manifest["programs"].values():
        read = jax.export.deserialize(bytearray((folder / program["file"]).read_bytes()))
        assert read.platforms == ("cpu", "cuda")
        calls = set(re.findall(r"custom_call @([\w.$]+)", read.mlir_module()))
        assert calls <= {"shape_assertion"}
        assert not re.search(r"triton|pallas|mosaic", read.mlir_module(), re.I)
    for path in folder.glob("arrays/*.npy"):
        np.load(path, allow_pickle=False)
    parameters = safetensors.read(folder / exported.PARAMETERS)
    leaves = jax.tree_util.tree_leaves_with_path(recommender.loaded.params)
    assert len(parameters) == len(leaves)
    for path, leaf in leaves:
        np.testing.assert_array_equal(parameters["/".join(key.key for key in path)], leaf)
    created, until = (datetime.fromisoformat(manifest[name]) for name in ("created", "readable_until"))
    assert until - created == timedelta(days=180) and manifest["jax"] == jax.__version__
    assert manifest["step"] == recommender.step and manifest["counts"]["titles"] == 200


def test_a_wrong_folder_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"no manifest.json; allowed: a folder that python -m jaxrec.export"):
        jaxrec.serving.load(tmp_path)
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    manifest = json.loads((copied / "manifest.json").read_text())

    def changed(**fields):
        (copied / "manifest.json").write_text(json.dumps(manifest | fields))

    changed(format=99)
    with pytest.raises(InputError, match="format=99; allowed: 1; "):
        jaxrec.serving.load(copied)
    changed(platforms=["tpu"])
    with pytest.raises(InputError, match=r"platforms=tpu; this process runs on cpu; .* --platforms cpu"):
        jaxrec.serving.load(copied)
    changed(readable_until=(datetime.now(UTC) - timedelta(days=1)).isoformat())
    with pytest.warns(UserWarning, match="promised to be readable until .*; export it again: python -m"):
        jaxrec.serving.load(copied)
    changed()
    vectors = copied / "arrays/title_vectors.npy"
    vectors.write_bytes(vectors.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match=r"arrays/title_vectors.npy is damaged: sha256="):
        jaxrec.serving.load(copied)
    vectors.unlink()
    with pytest.raises(InputError, match=r"arrays/title_vectors.npy is missing"):
        jaxrec.serving.load(copied)


SERVED = """
import sys
for name in ("flax", "orbax", "optax", "grain", "polars", "absl", "etils", "fsspec", "array_record", "chex",
             "ml_collections", "jaxrec.models.ranker", "jaxrec.tasks", "jaxrec.evaluation", "jaxrec.runtime",
             "jaxrec.checkpoints", "jaxrec.sources", "jaxrec.core.paths"):
    sys.modules[name] = None
import numpy as np
import jaxrec.serving
served = jaxrec.serving.load(sys.argv[1])
histories = {"user_id": [1, 1], "title_id": served.titles[:2], "time": ["2025-01-01", "2025-01-02"],
             "seconds_viewed": [5000.0, 40.0]}
print(served.score(histories, served.titles)["score"].tolist())
"""


def test_the_loader_needs_jax_and_numpy_alone(folder, recommender):
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SERVED, folder], cwd=ROOT, env=env, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    plays = {
        "user_id": [1, 1], "title_id": recommender.titles[:2], "time": ["2025-01-01", "2025-01-02"],
        "seconds_viewed": [5000.0, 40.0],
    }  # fmt: skip
    expected = recommender.score(plays, recommender.titles)["score"]
    assert_equal_scores(np.array(json.loads(done.stdout)), expected)


def test_an_export_replaces_an_export_and_nothing_else(recommender, tmp_path, monkeypatch):
    monkeypatch.setattr(export.Programs, "lowered", lambda *_: {})
    out = tmp_path / "out"
    export.write(recommender, out)
    (out / "manifest.json").write_text("{}")
    export.write(recommender, out)
    assert json.loads((out / "manifest.json").read_text())["step"] == recommender.step
    assert not (out / "replaced").exists()
    monkeypatch.setattr(export, "_manifest", lambda *_: 1 / 0)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ZeroDivisionError):
        export.write(recommender, out)
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    for arguments, message in (
        ((tmp_path / "other",), "allowed: a new folder, or one that holds an export"),
        ((out, ("mars",)), "platforms=mars; allowed: cpu, cuda, rocm, tpu"),
    ):
        with pytest.raises(InputError, match=message):
            export.write(recommender, *arguments)


def test_a_wrong_flag_is_one_line(tmp_path):
    done = run("-m", "jaxrec.export", "--checkpoint=W", "--out=o", "--platforms=cpu,mars", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "platforms=cpu,mars; allowed: cpu, cuda, rocm, tpu" in done.stderr


# ---------------------------------------------------------------- other tasks, with random parameters


def next_item(config):
    config.task.name = "next_item"
    config.model.experts = (Expert(8, 1, 2, 1.0, 0.1, "sasrec"),)
    config.model.features, config.model.entity = ("title_id", "genres"), "mixed"


def joined(config):
    config.model.target_in_sequence = True
    config.model.experts = (Expert(4, 1, 2, 1.0, 0.1, "sasrec"),)


@pytest.mark.parametrize("change", [next_item, pytest.param(joined, marks=pytest.mark.slow)])
def test_other_models(change, loaded, histories, tmp_path):
    """One program of best titles for the next-item model of mixed vectors; two for the other."""
    config = copy.deepcopy(loaded.config)
    change(config)
    layout = replace(loaded.task.layout, rows=config.task.name)
    task = build_task(config, layout, 0.5, 1, 1)
    params = jax.jit(task.init_params)(jax.random.key(0), task.title_table(loaded.arrays))
    checkpoint = LoadedCheckpoint(config, task, loaded.arrays, params, 0, loaded.meta)
    recommender = Recommender(checkpoint, uncorrected(task))
    most = 120 if change is joined else 10
    write_as_on_a_gpu(recommender, tmp_path / "out", ("cpu", "cuda"), most)
    served = jaxrec.serving.load(tmp_path / "out")
    few = {name: column[:30] for name, column in histories.items()}
    scores, expected = (r.score(few, recommender.titles[:60])["score"] for r in (served, recommender))
    assert_equal_scores(scores, expected)
    assert_same_titles(*(r.recommend(few, 5, users=[1, 2]) for r in (served, recommender)))
    assert_same_titles(*(r.recommend(few, most, users=[1, 2]) for r in (served, recommender)))
    if change is joined:
        assert set(served.manifest["programs"]) == {"scores", "top_100", "top_120"}
        with pytest.raises(InputError, match="a user has no vector without a candidate"):
            served.embed(users=few)
