"""Memory and communication of a row-sharded table, read from compiled programs."""

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
def accounts():
    """Accounts of four programs: large, fewer titles, larger batch, replicated."""
    programs = {
        "split": f"split,{TITLES},{WIDTH},{BATCH}",
        "titles": f"split,{TITLES // 4},{WIDTH},{BATCH}",
        "batch": f"split,{TITLES},{WIDTH},{2 * BATCH}",
        "replicated": f"replicated,{TITLES},{WIDTH},{BATCH}",
    }
    devices = f"--xla_force_host_platform_device_count={DEVICES}"
    env = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {devices}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(ROOT / "tests/benchmarks/run_split.py"), *programs.values()]
    completed = subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    return dict(zip(programs, json.loads(completed.stdout), strict=True))


@pytest.mark.slow
def test_a_device_holds_its_shard_of_the_table_and_of_the_moments(accounts):
    expected_bytes = split.arithmetic(TITLES, WIDTH, DEVICES)
    assert expected_bytes["replicated"] == 3 * TABLE and expected_bytes["split"] == 3 * TABLE / DEVICES
    rest = 200e6  # the titles' features of 20 bytes each, the batch, the rest of the model
    for kind in split.KINDS:
        assert expected_bytes[kind] <= accounts[kind]["held"] < expected_bytes[kind] + rest, kind


def test_the_pods_page_has_this_arithmetic():
    """The figures of docs/pods.md for 4 million titles of width 96 on 8 devices."""
    text = (ROOT / "docs/pods.md").read_text()
    match = re.search(r"([\d.]+) GB on each device, ([\d.]+) GB in all; sharded, ([\d.]+) GB", text)
    assert match, "docs/pods.md must state the saving of a sharded table"
    expected_bytes = split.arithmetic(TITLES, WIDTH, DEVICES)
    expected = expected_bytes["replicated"], DEVICES * expected_bytes["replicated"], expected_bytes["split"]
    assert [float(x) for x in match.groups()] == [
        round(x / 1e9, digits) for x, digits in zip(expected, (1, 0, 2), strict=True)
    ]


def test_temporaries_are_a_few_shards_and_not_a_table(accounts):
    assert accounts["split"]["temporaries"] < 4 * TABLE / DEVICES
    assert accounts["replicated"]["temporaries"] > TABLE  # the gradient


def test_no_collective_is_as_large_as_the_table_or_a_shard(accounts):
    assert accounts["replicated"]["largest"] >= TABLE  # a collective of that size would be detected
    assert 0 < accounts["split"]["largest"] < TABLE / DEVICES / 10


def test_communication_grows_with_the_batch_and_not_with_the_titles(accounts):
    assert accounts["titles"]["sent"] == accounts["split"]["sent"]
    more, less = (accounts[name]["sent"]["all-to-all"]["bytes"] for name in ("batch", "split"))
    assert 1.8 < more / less < 2
