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


def compiled(programs):
    """Return the account of each program, compiled in a process with 8 devices."""
    devices = f"--xla_force_host_platform_device_count={DEVICES}"
    env = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {devices}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(ROOT / "tests/benchmarks/run_split.py"), *programs.values()]
    completed = subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    return dict(zip(programs, json.loads(completed.stdout), strict=True))


@pytest.fixture(scope="module")
def sharded():
    """Account of the program with a sharded table."""
    return compiled({"split": f"split,{TITLES},{WIDTH},{BATCH}"})["split"]


@pytest.fixture(scope="module")
def others():
    """Accounts of three more programs: fewer titles, a larger batch, a replicated table."""
    programs = {
        "titles": f"split,{TITLES // 4},{WIDTH},{BATCH}",
        "batch": f"split,{TITLES},{WIDTH},{2 * BATCH}",
        "replicated": f"replicated,{TITLES},{WIDTH},{BATCH}",
    }
    return compiled(programs)


@pytest.mark.slow
def test_a_device_holds_its_shard_of_the_table_and_of_the_moments(sharded, others):
    accounts = others | {"split": sharded}
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


def test_temporaries_and_collectives_are_smaller_than_a_shard_or_a_few(sharded):
    """The slow form shows that a program of a replicated table is not."""
    assert sharded["temporaries"] < 4 * TABLE / DEVICES
    assert 0 < sharded["largest"] < TABLE / DEVICES / 10


@pytest.mark.slow
def test_a_replicated_table_has_temporaries_and_a_collective_of_its_size(others):
    assert others["replicated"]["temporaries"] > TABLE  # the gradient
    assert others["replicated"]["largest"] >= TABLE


@pytest.mark.slow
def test_communication_grows_with_the_batch_and_not_with_the_titles(sharded, others):
    assert others["titles"]["sent"] == sharded["sent"]
    more, less = (account["sent"]["all-to-all"]["bytes"] for account in (others["batch"], sharded))
    assert 1.8 < more / less < 2
