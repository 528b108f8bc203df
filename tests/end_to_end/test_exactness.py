"""One device, four, and two processes are one computation."""

import json

import numpy as np
import pytest
from processes import environment, environments, finish, launch


def started(dataset, out, asked, env):
    out.mkdir()
    return launch("run_steps.py", out / "log", env, dataset, out, *asked)


def found(out):
    """What each way gave, by its WHAT/HOW, and what was said."""
    of_way = {path.stem.replace("-", "/"): dict(np.load(path)) for path in out.glob("*.npz")}
    return of_way, json.loads((out / "said.json").read_text())


def run(dataset, out, *asked, devices=1):
    finish(started(dataset, out, asked, environment(devices)))
    return found(out)


# A process is started and traces its programs once for all that is asked of its devices.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("steps")


@pytest.fixture(scope="module")
def one(tiny_directory, folder):
    return run(tiny_directory, folder / "one", "steps/pmap", "gradients/pmap")


@pytest.fixture(scope="module")
def four(tiny_directory, folder):
    gradients = "gradients/pmap", "gradients/shard_map", "gradients/split"
    asked = "steps/pmap", "together/shard_map", "together/split", *gradients
    return run(tiny_directory, folder / "four", *asked, devices=4)


TWO = "together/pmap", "gradients/pmap", "together/split"


@pytest.fixture(scope="module")
def two(tiny_directory, folder):
    """Two processes of two devices."""
    finish(*(
        started(tiny_directory, folder / f"two-{i}", TWO, env)
        for i, env in enumerate(environments(processes=2, devices=2))
    ))  # fmt: skip
    return found(folder / "two-0")


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


def test_ten_steps_agree_across_devices_and_processes_one_by_one_and_in_four_dispatches(one, four, two):
    (steps, alone), (of_four, quartet), (of_two, pair) = one, four, two
    expected = steps["steps/pmap"]
    assert (alone["devices"], quartet["devices"], pair["devices"]) == (1, 4, 4)
    of_split = of_four["together/split"], of_two["together/split"]
    for ten in (of_four["steps/pmap"], of_four["together/shard_map"], of_two["together/pmap"], *of_split):
        assert max(np.abs(expected[k] - ten[k]).max() for k in expected) < 1e-8
    # Each program compiled once: of a single step and, together, of four.
    assert alone["late"] == quartet["late"] == pair["late"] == []


def test_first_gradients_agree_with_unequal_counts_and_either_mapping(one, four, two):
    expected = one[0]["gradients/pmap"]
    of_four = (four[0][f"gradients/{how}"] for how in ("pmap", "shard_map", "split"))
    for of_way in (*of_four, two[0]["gradients/pmap"]):
        close(expected, of_way, 1e-12)


def test_the_same_devices_twice_agree_bit_for_bit(tiny_directory, folder, four):
    first = four[0]["steps/pmap"]
    second = run(tiny_directory, folder / "again", "steps/pmap", devices=4)[0]["steps/pmap"]
    assert first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)
