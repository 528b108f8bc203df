"""Configs without signals, labels and declared heads have the bytes and the losses of before there were any.

unchanged.json was recorded at the commit before the first declaration, by this file:

    python tests/test_unchanged.py FILE

The oracle's densities in the evaluation rows of the simulated service are float32 results of exponentials and
matrix products, whose last bits depend on the processor: NumPy has other kernels for AVX2 and AVX-512. So
`content` is recorded beside the fingerprint. `content` is the same hash with these columns set to zero.
"""

import copy
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
RECORDED = json.loads((Path(__file__).parent / "unchanged.json").read_text())
SAMPLE = Path(os.environ.get("JAXREC_KUAIRAND", ROOT.parent / "shared/data/kuairand_pure_sample"))
CONFIGS = (
    "configs/tiny.py",
    "configs/smoe.py:small",
    "configs/sequences.py:simulated",
    "configs/kuairand.py",
)
STEPS = 50


def digest_of(spec: str) -> str:
    """Return the digest of a config's dataset."""
    from jaxrec.config.loading import load_config
    from jaxrec.config.serialization import digest

    return digest(load_config(str(ROOT / spec)))


def oracle_columns(rows: np.ndarray) -> list[str]:
    """Return the fields of densities that the simulated service computes."""
    return [field for field in rows.dtype.names if field.startswith(("oracle_", "truth_"))]


def content_of(dataset) -> str:
    """Return a hash of a dataset's manifest and rows without the oracle's columns."""
    from jaxrec.core.ids import SPLITS
    from jaxrec.data.storage.writer import Fingerprint

    hashed = dict(dataset.manifest)
    for name in ("checksum", "files", "fingerprint", "format", "layout", "notes", "source_files"):
        hashed.pop(name, None)
    for split in SPLITS:
        rows, sums = dataset.rows(split).all(), Fingerprint()
        for field in oracle_columns(rows):
            rows[field] = 0
        sums.add(rows)
        hashed[f"rows of {split}"] = f"{sums.value():032x}"
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:32]


def prepared(spec: str, folder: Path):
    """Prepare the dataset of a config and return it."""
    from jaxrec.config.loading import load_config
    from jaxrec.data.runners.run import ensure_dataset
    from jaxrec.data.storage.dataset import Dataset

    config = load_config(str(ROOT / spec))
    if spec == "configs/kuairand.py":
        config.source.directory = str(SAMPLE)
    config.data.directory = str(folder)
    ensure_dataset(config, folder)
    return Dataset(folder)


def losses_of(dataset: Path, folder: Path) -> list[float]:
    """Return the training losses of the first steps of configs/tiny.py."""
    from jaxrec.config.loading import load_config
    from jaxrec.data.storage.dataset import Dataset
    from jaxrec.training import trainer

    config = copy.deepcopy(load_config(str(ROOT / "configs/tiny.py")))
    config.data.directory, config.train.duration = str(dataset), f"{STEPS} steps"
    config.train.log_seconds = 1e-9
    trainer.train(config, Dataset(dataset), folder, SimpleNamespace(requested=None))
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["split"] == "train"]


@pytest.mark.parametrize("spec", CONFIGS)
def test_digests_are_those_recorded(spec, monkeypatch):
    monkeypatch.setenv("JAXREC_KUAIRAND", "")
    assert digest_of(spec) == RECORDED[spec]["digest"]


def test_the_tiny_dataset_is_that_recorded(tiny):
    assert content_of(tiny) == RECORDED["configs/tiny.py"]["content"]


@pytest.mark.slow  # prepares 40,000 users
@pytest.mark.parametrize("spec", CONFIGS[1:])
def test_datasets_are_those_recorded(spec, tmp_path):
    if spec == "configs/kuairand.py" and not SAMPLE.is_dir():
        pytest.skip(f"no sample of KuaiRand at {SAMPLE}")
    dataset = prepared(spec, tmp_path / "d")
    assert content_of(dataset) == RECORDED[spec]["content"]
    if not oracle_columns(dataset.rows("test").all()):
        assert dataset.fingerprint == RECORDED[spec]["fingerprint"]


@pytest.mark.slow  # in a process of its own, without the suite's compiler flags
def test_the_first_losses_are_those_recorded(tiny_directory, tmp_path):
    """Equal bit for bit on the machine and the jax of the record; other processors round differently."""
    import subprocess

    env = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")}
    command = [sys.executable, __file__, str(tmp_path / "losses.json"), str(tiny_directory)]
    subprocess.run(command, env=env | {"PYTHONPATH": str(ROOT)}, check=True, timeout=400)
    losses = json.loads((tmp_path / "losses.json").read_text())["losses"]
    np.testing.assert_allclose(losses, RECORDED["losses"], rtol=1e-5)


def record(file: str, dataset: str = "") -> None:
    """Write what is compared to a JSON file; with a dataset of configs/tiny.py the losses alone."""
    with tempfile.TemporaryDirectory() as folder:
        out: dict = {}
        for i, spec in enumerate(() if dataset else CONFIGS):
            dataset = prepared(spec, Path(folder, str(i)))
            out[spec] = {
                "digest": digest_of(spec),
                "fingerprint": dataset.fingerprint,
                "content": content_of(dataset),
            }
        out["losses"] = losses_of(Path(dataset or Path(folder, "0")), Path(folder, "run"))
    Path(file).write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    record(*sys.argv[1:])
