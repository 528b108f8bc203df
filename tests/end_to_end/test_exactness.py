"""One device, four, and two processes are one computation.

`pytest -m slow tests/end_to_end/test_exactness.py` maps the steps in more ways, and in a process more.
"""

import json
from typing import NamedTuple

import numpy as np
import pytest
from processes import environment, environments, finish, launch


def started(dataset, out, names, env):
    out.mkdir()
    return launch("run_steps.py", out / "log", env, dataset, out, *names)


def outputs(out):
    """Return the arrays of each WHAT/HOW, and the report of the process."""
    of_way = {path.stem.replace("-", "/"): dict(np.load(path)) for path in out.glob("*.npz")}
    return of_way, json.loads((out / "report.json").read_text())


def run(dataset, out, *names, devices=1):
    finish(started(dataset, out, names, environment(devices)))
    return outputs(out)


# A process is started and traces its programs once for all WHAT/HOW of its devices. WHAT/HOW of one
# device, of four, and of two processes of two devices. The long form has every WHAT with every HOW. In the
# short form four devices are mapped by pmap, two processes with a sharded table: each compiles one program.
# Steps in one call are in test_dispatch.py, and two processes mapped by pmap in test_pods.py.
SHORT = (
    ("steps/pmap", "gradients/pmap"),
    ("steps/pmap", "again/pmap", "gradients/pmap"),
    ("steps/split", "gradients/split"),
)
LONG = (
    ("steps/pmap", "gradients/pmap"),
    ("steps/pmap", "again/pmap", "gradients/pmap", "together/shard_map", "gradients/shard_map",
    "together/split",
     "gradients/split"),
    ("together/pmap", "gradients/pmap", "together/split"),
)  # fmt: skip


class Ways(NamedTuple):
    """Arrays and output of one device, of four, and of two processes of two devices."""

    one: tuple
    four: tuple
    two: tuple


@pytest.fixture(scope="module", params=["short", pytest.param("long", marks=pytest.mark.slow)])
def ways(request, tiny_directory, tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    of_one, of_four, of_two = SHORT if request.param == "short" else LONG
    one = run(tiny_directory, folder / "one", *of_one)
    four = run(tiny_directory, folder / "four", *of_four, devices=4)
    finish(*(
        started(tiny_directory, folder / f"two-{i}", of_two, env)
        for i, env in enumerate(environments(processes=2, devices=2))
    ))  # fmt: skip
    return Ways(one, four, outputs(folder / "two-0"))


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


def chosen(of_way, *what):
    """Return the arrays of `of_way` whose way begins with a name in `what`."""
    return {way: arrays for way, arrays in of_way.items() if way.split("/")[0] in what}


def test_ten_steps_agree_across_devices_and_processes_one_by_one_and_in_four_dispatches(ways):
    (steps, alone), (of_four, quartet), (of_two, pair) = ways
    expected = steps["steps/pmap"]
    assert (alone["devices"], quartet["devices"], pair["devices"]) == (1, 4, 4)
    assert {way.split("/")[1] for way in (*of_four, *of_two)} >= {"pmap", "split"}
    tens = [chosen(of_way, "steps", "together") for of_way in (of_four, of_two)]
    for of_way in tens:
        assert of_way
        for way, ten in of_way.items():
            assert max(np.abs(expected[k] - ten[k]).max() for k in expected) < 1e-8, way
    # Each program compiled once: of a single step and, together, of four.
    assert alone["late"] == quartet["late"] == pair["late"] == []


def test_first_gradients_agree_with_unequal_counts_and_either_mapping(ways):
    expected = ways.one[0]["gradients/pmap"]
    of_four = chosen(ways.four[0], "gradients")
    of_two = chosen(ways.two[0], "gradients")
    assert of_four.keys() | of_two.keys() >= {"gradients/pmap", "gradients/split"}
    for gradients in (*of_four.values(), *of_two.values()):
        close(expected, gradients, 1e-12)


def same(first, second):
    assert first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


def test_the_same_devices_twice_agree_bit_for_bit(ways):
    same(ways.four[0]["steps/pmap"], ways.four[0]["again/pmap"])


@pytest.mark.slow
def test_the_same_devices_twice_agree_bit_for_bit_in_two_processes(ways, tiny_directory, tmp_path):
    second = run(tiny_directory, tmp_path / "again", "steps/pmap", devices=4)[0]["steps/pmap"]
    same(ways.four[0]["steps/pmap"], second)
