"""What a device holds of a split table and what crosses the links, by the compiled programs' own accounts."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import split

ROOT = Path(__file__).resolve().parents[2]
TITLES, WIDTH, BATCH, DEVICES = 4_000_000, 96, 512, 8
TABLE = 4 * TITLES * WIDTH


@pytest.fixture(scope="module")
def of():
    """The account of each program: the large one, with more titles, and with a larger batch; replicated."""
    asked = {
        "split": f"split,{TITLES},{WIDTH},{BATCH}",
        "titles": f"split,{TITLES // 4},{WIDTH},{BATCH}",
        "batch": f"split,{TITLES},{WIDTH},{2 * BATCH}",
        "replicated": f"replicated,{TITLES},{WIDTH},{BATCH}",
    }
    devices = f"--xla_force_host_platform_device_count={DEVICES}"
    env = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {devices}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(ROOT / "tests/benchmarks/run_split.py"), *asked.values()]
    said = subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    return dict(zip(asked, json.loads(said.stdout), strict=True))


def test_a_device_holds_its_share_of_the_table_and_of_the_moments(of):
    paper = split.arithmetic(TITLES, WIDTH, DEVICES)
    assert paper["replicated"] == 3 * TABLE and paper["split"] == 3 * TABLE / DEVICES
    rest = 200e6  # the titles' features, 20 bytes of each; the batch, the rest of the model
    for kind in split.KINDS:
        assert paper[kind] <= of[kind]["held"] < paper[kind] + rest, kind


def test_the_readme_has_this_arithmetic():
    """Its figures for 4 million titles of width 96 on 8 devices."""
    text = (ROOT / "README.md").read_text()
    found = re.search(r"([\d.]+) GB on each device, ([\d.]+) GB in all; split, ([\d.]+) GB", text)
    assert found, "README.md says what a split table saves"
    paper = split.arithmetic(TITLES, WIDTH, DEVICES)
    expected = paper["replicated"], DEVICES * paper["replicated"], paper["split"]
    assert [float(x) for x in found.groups()] == [
        round(x / 1e9, digits) for x, digits in zip(expected, (1, 0, 2), strict=True)
    ]


def test_temporaries_are_a_few_shares_not_a_table(of):
    assert of["split"]["temporaries"] < 4 * TABLE / DEVICES
    assert of["replicated"]["temporaries"] > TABLE  # the gradient


def test_no_collective_is_as_large_as_the_table_or_as_a_share_of_it(of):
    assert of["replicated"]["largest"] >= TABLE  # so would one be that is
    assert 0 < of["split"]["largest"] < TABLE / DEVICES / 10


def test_what_crosses_the_links_grows_with_the_batch_and_not_with_the_titles(of):
    assert of["titles"]["sent"] == of["split"]["sent"]
    more, less = (of[name]["sent"]["all-to-all"]["bytes"] for name in ("batch", "split"))
    assert 1.8 < more / less < 2
