"""Checkpoints: retention, exact restore, buckets, recovery after a kill."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import gcs_server
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bucket import S3, Bucket
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.checkpoints.documents import checked_metric
from jaxrec.checkpoints.state_tree import with_shardings
from jaxrec.core.errors import InputError
from jaxrec.core.paths import as_path
from jaxrec.runtime.private_apis import gcs_utils

ROOT = Path(__file__).resolve().parents[2]


class Moments(NamedTuple):
    mu: Any
    nothing: Any


def replicated() -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec())


def make_state(x: float) -> dict:
    weights = {"w": jnp.full((3, 4), x), "half": jnp.full(2, x, jnp.bfloat16)}
    state = {
        "params": weights,
        "optimizer": (Moments(jnp.full(5, -x), ()),),
        "step": jnp.int32(x),
        "rng": jax.random.key(7),
    }
    return jax.device_put(state, replicated())


def same(a: Any, b: Any) -> bool:
    def raw(x):
        return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)

    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        raw(x).dtype == raw(y).dtype and np.array_equal(raw(x), raw(y))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


ARRAYS = {
    "key": np.array(["a", "bcd", "é\u4e2d"]),
    "bytes": np.array([b"a", b"bc", b""]),
    "whole": np.array([2**63 + 1, 5], np.uint64),
    "none": np.empty((5, 0), np.float32),
    "half": np.ones((2, 3), np.float16),
    "flags": np.array([True, False]),
}
META = {"config": {"train": {"length": "2 epochs"}}, "position": 12, "share": 0.1 + 0.2, "nothing": None}


@pytest.fixture(params=["folder", "bucket"])
def directory(request, tmp_path):
    """An empty directory for checkpoints, on this machine or in a bucket."""
    return as_path(request.getfixturevalue("bucket")) / "c" if request.param == "bucket" else tmp_path / "c"


def names(directory) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


def save(checkpoints: Checkpointer, step: int, score: float | None) -> None:
    metrics = None if score is None else {"ndcg@1": score, "loss": 2.0}
    checkpoints.save(step, make_state(step), META | {"position": step}, ARRAYS, metrics)


def test_restored_items_equal_saved_items(directory):
    with Checkpointer(directory, writing=True) as checkpoints:
        assert checkpoints.latest_step() is None
        save(checkpoints, 3, 0.5)
    with Checkpointer(str(directory)) as checkpoints:
        assert checkpoints.restore_meta("last") == META | {"position": 3}
        arrays = checkpoints.restore_arrays("best")
        state = checkpoints.restore("last", with_shardings(make_state(0), replicated()))
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    assert same(state, make_state(3))


def test_newest_and_best_steps_are_kept(directory):
    saves = [
        (1, None),
        (2, 0.3),
        (3, None),
        (4, 0.6),
        (5, 0.5),
        (6, None),
        (7, float("nan")),
        (8, 0.1),
        (9, None),
    ]
    best = [None, 2, 2, 4, 4, 4, 4, 4, 4]
    with Checkpointer(directory, writing=True) as checkpoints:
        for (step, score), expected in zip(saves, best, strict=True):
            save(checkpoints, step, score)
            assert (checkpoints.latest_step(), checkpoints.best_step()) == (step, expected)
    assert names(directory) == ["4", "9"]
    with Checkpointer(directory) as checkpoints:
        assert (checkpoints.step("last"), checkpoints.step("best")) == (9, 4)
        assert checkpoints.restore_meta("best")["position"] == 4
        assert same(checkpoints.restore("best", with_shardings(make_state(0), replicated())), make_state(4))


def test_resumed_run_keeps_the_best_step(directory):
    with Checkpointer(directory, writing=True) as checkpoints:
        save(checkpoints, 1, 0.9)
        save(checkpoints, 2, None)
    with Checkpointer(directory, writing=True) as checkpoints:
        save(checkpoints, 2, 0.4)  # stopped before its validation, then validated
        assert checkpoints.best_step() == 1
        save(checkpoints, 2, None)  # stopped again before another step
        save(checkpoints, 3, None)
    assert names(directory) == ["1", "3"]
    with Checkpointer(directory) as checkpoints:
        assert same(checkpoints.restore("best", with_shardings(make_state(0), replicated())), make_state(1))


def test_step_saved_again_with_metrics_may_become_the_best(directory):
    with Checkpointer(directory, writing=True) as checkpoints:
        save(checkpoints, 1, None)
        save(checkpoints, 1, 0.4)
        assert checkpoints.best_step() == 1
        save(checkpoints, 2, 0.2)
    with Checkpointer(directory) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (2, 1)


def test_a_reader_takes_the_best_step_of_the_metric_that_the_run_chose_by(tmp_path):
    with Checkpointer(tmp_path, metric="auc", writing=True) as checkpoints:
        for step, auc in ((1, 0.8), (2, 0.7)):
            metrics = {"auc": auc, "ndcg@1": 1 - auc, "ndcg@10": 1 - auc}
            checkpoints.save(step, make_state(step), META, ARRAYS, metrics)
    with Checkpointer(tmp_path) as checkpoints:
        assert checkpoints.best_step() == 1


@pytest.mark.parametrize(("metrics", "value"), [
    ({"best": 0.1, "ndcg@1": 0.9, "ndcg@10": 0.8}, 0.1), ({"ndcg@1": 0.9, "ndcg@10": 0.8}, 0.8),
    ({"ndcg@1": 0.9, "loss": 2.0}, 0.9),
])  # fmt: skip
def test_steps_of_before_have_the_value_of_their_task(metrics, value):
    assert checked_metric(metrics, "checkpoint") == value


def test_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    state = jax.device_put({"w": jnp.arange(1e6)}, replicated())
    with Checkpointer(tmp_path, writing=True) as checkpoints:
        checkpoints.save(1, state, {}, {}, None)
        for _ in range(3):
            state = overwrite(state)
        jax.block_until_ready(state)
        checkpoints.wait()
        like = {"w": jax.ShapeDtypeStruct((10**6,), jnp.float32, sharding=replicated())}
        assert np.array_equal(checkpoints.restore("last", like)["w"], np.arange(1e6, dtype=np.float32))


KILLED = """
import os, signal, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxrec.checkpoints.checkpointer import Checkpointer

assert jax.device_count() == 4
sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec())
checkpoints = Checkpointer(sys.argv[1], writing=True)
for step in (1, 2):
    state = jax.device_put({"w": jnp.full((8, 1 << 20), float(step)), "rng": jax.random.key(step)}, sharding)
    checkpoints.save(step, state, {"position": step}, {"ids": np.arange(step)}, {"ndcg@1": 0.1 * step})
    if step == 1:
        checkpoints.wait()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_newest_complete_step_after_kill_is_restored_on_another_device_count(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    line = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with Checkpointer(tmp_path) as checkpoints:
        step = checkpoints.step("last")  # 1, or 2 if the disk was faster than the kill
        assert step in (1, 2) and checkpoints.step("best") == step
        assert checkpoints.restore_meta("last") == {"position": step}
        like = {"w": jnp.zeros((8, 1 << 20)), "rng": jax.random.key(0)}
        restored = checkpoints.restore("last", with_shardings(like, replicated()))
    assert np.all(restored["w"] == step)
    assert restored["w"].sharding.device_set == set(jax.devices())


def test_incomplete_step_is_ignored_and_deleted_by_the_next_run(tmp_path):
    with Checkpointer(tmp_path, writing=True) as checkpoints:
        save(checkpoints, 1, 0.5)
    incomplete = tmp_path / "5.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "1", incomplete)
    shutil.rmtree(incomplete / "state")
    with Checkpointer(tmp_path) as checkpoints:
        assert checkpoints.step("last") == 1
    assert incomplete.exists()  # reading changes no file
    with Checkpointer(tmp_path, writing=True) as checkpoints:
        save(checkpoints, 2, None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]


def in_bucket() -> dict[str, set[str]]:
    """Return the names of the files of each step of s3://bucket/c."""
    files: dict[str, set[str]] = {}
    for key in S3.objects():
        step, _, name = key.removeprefix("bucket/c/").partition("/")
        files.setdefault(step, set()).add(name)
    return files


def test_step_in_a_bucket_is_complete_once_its_last_file_has_arrived(bucket, monkeypatch):
    with Checkpointer(f"{bucket}/c", writing=True) as checkpoints:
        save(checkpoints, 1, 0.5)
        checkpoints.wait()
        complete = in_bucket()["1"]

        def full(operation, key):
            if operation == "put" and key.startswith("bucket/c/2/arrays/"):
                raise OSError("the bucket is full")

        with monkeypatch.context() as patched:
            patched.setattr(Bucket, "before", staticmethod(full))
            save(checkpoints, 2, 0.6)
            with pytest.raises(OSError, match="the bucket is full"):
                checkpoints.wait()
    # The failed upload of step 2 leaves step 1 complete.
    assert "commit_success.txt" in complete and in_bucket()["1"] == complete
    assert in_bucket()["2"] and "commit_success.txt" not in in_bucket()["2"]
    objects = set(S3.objects())
    with Checkpointer(f"{bucket}/c") as checkpoints:
        assert checkpoints.step("last") == 1
    assert set(S3.objects()) == objects  # reading changes no object
    Bucket.log.clear()
    with Checkpointer(f"{bucket}/c", writing=True) as checkpoints:
        assert list(in_bucket()) == ["1"]
        save(checkpoints, 3, 0.7)
    assert list(in_bucket()) == ["3"]
    puts = [key for operation, key in Bucket.log if operation == "put"]
    assert puts[-1] == "bucket/c/3/commit_success.txt"
    removed = [key for operation, key in Bucket.log if operation == "rm" and key.startswith("bucket/c/1/")]
    assert removed[0] == "bucket/c/1/commit_success.txt"
    assert Bucket.log.index(("rm", removed[0])) > Bucket.log.index(("put", puts[-1]))


def test_large_items_of_a_step_in_a_bucket_are_downloaded_on_request(bucket):
    with Checkpointer(f"{bucket}/c", writing=True) as checkpoints:
        save(checkpoints, 1, 0.5)
        save(checkpoints, 2, 0.4)
    Bucket.log.clear()
    with Checkpointer(f"{bucket}/c") as checkpoints:
        assert checkpoints.restore_meta("best")["position"] == 1
        assert not [key for _, key in Bucket.log if "/state/" in key or "/arrays/" in key]
        checkpoints.restore_arrays("best")
        checkpoints.restore_arrays("best")
    read = [key for _, key in Bucket.log]
    assert [key for key in read if "/1/arrays/" in key] and len(read) == len(set(read))
    assert not [key for key in read if "/2/arrays/" in key or "/state/" in key]


TWO_PROCESSES = """
import sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

sys.path.insert(0, sys.argv[1])
from bucket import register
register()
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
from jaxrec.checkpoints.checkpointer import Checkpointer

mesh = Mesh(np.array(jax.devices()), ("data",))
values = {"split": np.arange(12.0).reshape(4, 3), "whole": np.arange(5), "step": np.int32(3)}
def make_array(name, factor):
    spec = PartitionSpec("data") if name == "split" else PartitionSpec()
    value = np.asarray(values[name] * factor, values[name].dtype)
    return jax.make_array_from_callback(value.shape, NamedSharding(mesh, spec), lambda i: value[i])
def state(factor):
    return {name: make_array(name, factor) for name in values}

with Checkpointer("s3://bucket/c", writing=True) as checkpoints:
    for step in (1, 2):
        arrays, metrics = {"ids": np.arange(step)}, {"ndcg@1": 1 / step}
        checkpoints.save(step, state(step), {"position": step}, arrays, metrics)
    checkpoints.wait()
like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0))
with Checkpointer("s3://bucket/c", writing=True) as checkpoints:
    for step, which in ((1, "best"), (2, "last")):
        assert checkpoints.restore_meta(which) == {"position": step}
        restored = checkpoints.restore(which, like)
        for name, expected in state(step).items():
            assert restored[name].sharding == expected.sharding
            for a, b in zip(restored[name].addressable_shards, expected.addressable_shards, strict=True):
                np.testing.assert_array_equal(a.data, b.data)
print("restored")
"""


@pytest.mark.usefixtures("bucket")
def test_first_of_two_processes_writes_a_bucket_and_both_read_it(tmp_path):
    """Two processes with separate local files, and an array sharded between them."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        address = f"localhost:{s.getsockname()[1]}"
    processes = []
    for i in range(2):
        (tmp_path / f"machine-{i}").mkdir()
        env = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / f"machine-{i}")}
        line = [sys.executable, "-c", TWO_PROCESSES, str(ROOT / "tests"), address, str(i)]
        processes.append(
            subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert [p.returncode for p in processes] == [0, 0] and all("restored" in text for text in outputs), (
        outputs
    )
    assert list(in_bucket()) == ["1", "2"]
    assert not list(tmp_path.glob("machine-*/*"))  # the local mirror has been deleted


@pytest.mark.usefixtures("bucket")
def test_orbax_writes_gs_buckets_itself(monkeypatch, request):
    """Orbax writes files through epath and arrays through TensorStore."""
    server = gcs_server.serve()
    request.addfinalizer(server.server_close)
    request.addfinalizer(server.shutdown)
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://localhost:{server.server_port}")
    monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
    monkeypatch.setattr(gcs_utils(), "is_hierarchical_namespace_enabled", lambda path: False)  # calls Google
    directory = "gs://bucket-one/run/c"
    with Checkpointer(directory, writing=True) as checkpoints:
        for step, score in ((1, 0.5), (2, 0.9), (3, 0.4), (4, None)):
            save(checkpoints, step, score)
    assert names(as_path(directory)) == ["2", "4"]
    with Checkpointer(directory) as checkpoints:
        assert (checkpoints.step("last"), checkpoints.step("best")) == (4, 2)
        assert checkpoints.restore_meta("best") == META | {"position": 2}
        assert list(checkpoints.restore_arrays("last")) == list(ARRAYS)
        assert same(checkpoints.restore("best", with_shardings(make_state(0), replicated())), make_state(2))
    assert {method for method, name in server.requests if "/2/state/" in name} == {"GET", "POST"}


def test_missing_checkpoint_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"checkpoint .*none: no such directory"):
        Checkpointer(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(InputError, match=r"holds no complete checkpoint"):
        Checkpointer(tmp_path)
    with Checkpointer(tmp_path, writing=True) as checkpoints:
        with pytest.raises(InputError, match=r"which='last' does not exist: no checkpoint is complete"):
            checkpoints.restore_meta("last")
        save(checkpoints, 1, None)
        with pytest.raises(
            InputError, match=r"which='best' does not exist: no checkpoint has been validated yet"
        ):
            checkpoints.restore_meta("best")
        with pytest.raises(InputError, match=r"which='first' must be one of best, last"):
            checkpoints.step("first")


def test_different_shape_or_name_is_an_input_error(tmp_path):
    with Checkpointer(tmp_path, writing=True) as checkpoints:
        save(checkpoints, 1, None)
        like = make_state(0)
        like["params"]["w"] = jnp.zeros((3, 5))
        with pytest.raises(
            InputError, match=r"step 1: params.w is \(3, 4\) in the checkpoint, but \(3, 5\) in the model"
        ):
            checkpoints.restore("last", with_shardings(like, replicated()))
        del like["params"]["w"]
        with pytest.raises(InputError, match=r"params.w is \(3, 4\) in the checkpoint, but missing in "):
            checkpoints.restore("last", with_shardings(like, replicated()))


class Grown(NamedTuple):
    """`Moments` of a later version, with an optional field that may be empty."""

    mu: Any
    nothing: Any
    usage: Any


@pytest.mark.parametrize(("before", "after"), [(Moments, Grown), (Grown, Moments)])
def test_empty_field_may_be_added_or_removed(tmp_path, before, after):
    def state(kind):
        empty = [()] * (len(kind._fields) - 1)
        return jax.device_put({"optimizer": kind(jnp.full(5, -2.0), *empty)}, replicated())

    with Checkpointer(tmp_path, writing=True) as checkpoints:
        checkpoints.save(3, state(before), {}, {})
        checkpoints.wait()
        restored = checkpoints.restore("last", with_shardings(state(after), replicated()))
    assert same(restored, state(after))
