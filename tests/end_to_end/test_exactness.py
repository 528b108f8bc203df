"""One device, four, and two processes are one computation."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def environment(devices=1, **more):
    # Unoptimised code compiles in half the time, and what is asked here is not how fast it runs.
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | more


def launch(dataset, out, what, how, dtype, env):
    script = [sys.executable, str(HERE / "run_steps.py"), str(dataset), str(out), what, how, dtype]
    with Path(f"{out}.log").open("w") as log:
        return subprocess.Popen(script, env=env, stderr=log), Path(f"{out}.log")


def finish(*launched):
    for process, log in launched:
        assert process.wait(300) == 0, log.read_text()[-3000:]


def run(dataset, out, what="steps", how="pmap", dtype="float64", devices=1):
    finish(launch(dataset, out, what, how, dtype, environment(devices)))
    return dict(np.load(out)), json.loads(out.with_suffix(".json").read_text())


def run_two_processes(dataset, out, what="steps", dtype="float64"):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    finish(*(
        launch(dataset, out if i == 0 else Path(f"{out}.second"), what, "pmap", dtype, environment(
            2, JAXREC_COORDINATOR=f"localhost:{port}", JAXREC_PROCESSES="2", JAXREC_PROCESS=str(i)))
        for i in range(2)
    ))  # fmt: skip
    return dict(np.load(out)), json.loads(out.with_suffix(".json").read_text())


def close(a, b, tolerance):
    """Largest difference of any parameter, relative to the largest of its array.

    Sums that cancel to a thousandth of the largest of all carry the rounding of their terms, not their own.
    """
    assert a.keys() == b.keys()
    size = {k: np.abs(x).max() for k, x in a.items()}
    least = 1e-3 * max(size.values())
    worst = {k: np.abs(a[k] - b[k]).max() / max(size[k], least) for k in a}
    name = max(worst, key=worst.__getitem__)
    assert worst[name] <= tolerance, (name, worst[name])


def test_ten_steps_agree_across_devices_and_processes(tiny_directory, tmp_path):
    one, alone = run(tiny_directory, tmp_path / "one.npz")
    four, quartet = run(tiny_directory, tmp_path / "four.npz", devices=4)
    two, pair = run_two_processes(tiny_directory, tmp_path / "two.npz")
    assert (alone["devices"], quartet["devices"], pair["devices"]) == (1, 4, 4)
    for found in (four, two):
        assert max(np.abs(one[k] - found[k]).max() for k in one) < 1e-8
    assert alone["late"] == quartet["late"] == pair["late"] == []  # compiled once


def test_ten_steps_in_four_dispatches_are_ten_steps(tiny_directory, tmp_path):
    one, _ = run(tiny_directory, tmp_path / "one.npz")
    four, quartet = run(tiny_directory, tmp_path / "four.npz", "together", "shard_map", devices=4)
    two, pair = run_two_processes(tiny_directory, tmp_path / "two.npz", "together")
    for found in (four, two):
        assert max(np.abs(one[k] - found[k]).max() for k in one) < 1e-8
    assert (quartet["devices"], pair["devices"]) == (4, 4)
    assert quartet["late"] == pair["late"] == []  # two programs, each compiled once


def test_first_gradients_agree_with_unequal_counts_and_either_mapping(tiny_directory, tmp_path):
    one, _ = run(tiny_directory, tmp_path / "one.npz", "gradients", "pmap", "float32")
    for how, devices in (("pmap", 4), ("shard_map", 4)):
        found, _ = run(tiny_directory, tmp_path / f"{how}.npz", "gradients", how, "float32", devices)
        close(one, found, 1e-6)
    close(one, run_two_processes(tiny_directory, tmp_path / "two.npz", "gradients", "float32")[0], 1e-6)


def test_the_same_devices_twice_agree_bit_for_bit(tiny_directory, tmp_path):
    first, _ = run(tiny_directory, tmp_path / "a.npz", dtype="float32", devices=4)
    second, _ = run(tiny_directory, tmp_path / "b.npz", dtype="float32", devices=4)
    assert all(np.array_equal(first[k], second[k]) for k in first)
