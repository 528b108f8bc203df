"""Raw files to a trained run: `prepare --check --write-config`, then `train` with the written config."""

import gzip
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import commands
import numpy as np
import polars as pl
import pytest

from jaxrec import __main__ as script
from jaxrec import prepare
from jaxrec.cli.flags import config_arguments
from jaxrec.config.loading import load_config
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.sources.proposals.propose import propose
from jaxrec.training.api import Trainer

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = Path(os.environ.get("JAXREC_KUAIRAND", ROOT.parent / "shared/data/kuairand_pure_sample"))


def run(folder, *words, status=0):
    """Run a command of the console script and return the process."""
    done = commands.run("-m", "jaxrec", *words, cwd=folder)
    assert done.returncode == status, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A folder with raw files: a log with `::`, in milliseconds, and titles in a compressed TSV."""
    folder = tmp_path_factory.mktemp("raw")
    users, titles, plays = 150, 60, 2_000
    rng = np.random.default_rng(0)
    title, runtime = rng.integers(0, titles, plays), rng.integers(20, 150, titles)
    log = pl.DataFrame({
        "userId": rng.integers(0, users, plays),
        "movieId": title,
        "ts": 1_700_000_000 + rng.integers(0, 60 * 86_400, plays),
        "watch_time": (60_000 * runtime[title] * rng.beta(0.4, 0.6, plays)).astype(int),
        "device": rng.choice(["tv", "web"], plays),
    })  # fmt: skip
    rows = "\n".join("::".join(map(str, row)) for row in log.rows())
    (folder / "plays.dat").write_text("::".join(log.columns) + "\n" + rows + "\n")
    table = pl.DataFrame(
        {"movieId": range(titles), "runtime": runtime, "kind": ["film", "show"] * (titles // 2)}
    )
    (folder / "titles.tsv.gz").write_bytes(gzip.compress(table.write_csv(separator="\t").encode()))
    return folder


@pytest.fixture(scope="module")
def report(raw):
    words = ("--check", "--interactions", "plays.dat", "--titles", "titles.tsv.gz", "--write-config", "my.py")
    return json.loads(run(raw, "prepare", *words, "--json").stdout)


def test_the_check_of_raw_files(raw, report):
    c = report["config"]["source"]["columns"]
    assert (c["user"], c["title"], c["time"], c["time_unit"]) == ("userId", "movieId", "ts", "s")
    assert (c["seconds"], c["seconds_unit"], c["runtime"], c["runtime_unit"]) == (
        "watch_time",
        "ms",
        "runtime",
        "min",
    )
    assert report["tables"]["interactions"]["format"]["separator"]["value"] == "::"
    assert report["statistics"]["rows"] == 2_000 and report["next"] == "python -m jaxrec.train --config my.py"
    config = load_config(str(raw / "my.py"))
    check(config)
    assert (
        config.name == "my"
        and config.data.abandon_threshold == report["proposed"]["data.abandon_threshold"]["value"]
    )
    assert sorted(p.name for p in raw.iterdir() if p.suffix != ".pyc" and p.name != "__pycache__") == [
        "my.py", "plays.dat", "titles.tsv.gz",
    ]  # fmt: skip  # nothing is prepared


def test_the_written_config_trains_a_small_model(raw, report, small_config, monkeypatch):
    """The dataset is that of the written config; a small model compiles in seconds."""
    monkeypatch.chdir(raw)
    config = load_config("my.py")
    model = replace(small_config.model, features=("title_id", "device", "completion"))
    config.model, config.objective = model, small_config.objective
    config.train.duration = "2 steps"
    check(config)
    run_folder = Trainer(config).run(raw / "small")
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 2


@pytest.mark.slow
def test_the_written_config_trains(raw, report):
    done = run(
        raw, "train", "--config", "my.py", "--config.train.duration=4 steps", "--workdir", "w", "--json"
    )
    assert json.loads(done.stdout)["step"] == 4
    assert (raw / "w/test.json").exists()


class Flags(dict):
    """Flags of `prepare` by name, as absl gives them."""

    def __getattr__(self, name):
        return self.get(name, "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"interactions": "plays.dat"},
         "--interactions is allowed with --check only; without it give --config"),
        ({"write_config": "a.py", "config": None},
         "--write_config=a.py: allowed with --check only; a config names its tables"),
        ({"check": True, "titles": "t.csv", "config": None},
         "--titles=t.csv: allowed with --interactions only"),
        ({"check": True, "interactions": "plays.dat", "config": None},
         "--interactions=plays.dat: must be empty with --config, which names the log"),
        ({"check": True, "interactions": "plays.dat", "write_config": "plays.dat"},
         "--write_config=plays.dat: allowed: a file name that ends with .py"),
        ({"check": True, "interactions": "plays.dat", "write_config": "no/a.py"},
         "--write_config=no/a.py: the folder no does not exist"),
        ({"check": True, "interactions": "plays.dat", "out": "d"},
         "--out=d: must be empty with --check, which prepares nothing"),
    ],
)  # fmt: skip
def test_wrong_flags_of_the_check(flags, message):
    with pytest.raises(InputError) as e:
        prepare.main(Flags(flags))
    assert str(e.value) == message


def test_a_written_config_is_never_overwritten(raw, report):
    words = ("--check", "--interactions", "plays.dat", "--write-config", "my.py")
    done = run(raw, "prepare", *words, status=2)
    assert done.stderr == "error: --write_config=my.py: the file exists; allowed: a new file\n"


def test_the_next_command_repeats_the_config(monkeypatch):
    words = ["prepare", "--config", "a b.py", "--json", "--config.source.directory=d", "--noconfig.x.y"]
    monkeypatch.setattr(sys, "argv", words)
    assert config_arguments() == "--config 'a b.py' --config.source.directory=d --noconfig.x.y"
    monkeypatch.setattr(sys, "argv", ["prepare", "--config=a.py", "--out", "d"])
    assert config_arguments() == "--config=a.py"


LOG = SAMPLE / "log_standard_4_22_to_5_08_pure.csv"
needs_sample = pytest.mark.skipif(not LOG.exists(), reason=f"no KuaiRand sample at {SAMPLE}")


@needs_sample
def test_the_roles_of_the_raw_log_of_kuairand():
    """Roles and units agree with `sources/kuairand.py`; the log alone is enough."""
    config = propose(str(LOG)).config
    check(config)
    c = config.source.columns
    assert (c.user, c.title, c.time, c.time_unit) == ("user_id", "video_id", "time_ms", "ms")
    assert (c.seconds, c.seconds_unit) == ("play_time_ms", "ms")
    assert (c.log_runtime, c.runtime_unit, c.runtime) == ("duration_ms", "ms", "")
    names = {f.name for f in config.features}
    assert names == {"title_id", "tab", "completion", "sessions", "age"}  # no outcome of the play


@needs_sample
@pytest.mark.slow
def test_the_check_of_the_raw_log_of_kuairand(tmp_path):
    report = json.loads(run(tmp_path, "prepare", "--check", "--interactions", str(LOG), "--json").stdout)
    assert report["statistics"]["rows"] == 228_329 and report["statistics"]["examples"] == 116_042
    dropped = {reason: entry["rows"] for reason, entry in report["statistics"]["dropped"].items()}
    assert dropped == {"title without a runtime": 3_568, "copy of another row": 5_885}


# ---------------------------------------------------------------- console script


def test_the_console_script_lists_its_commands(capsys, monkeypatch):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"jaxrec": "jaxrec.__main__:main"}
    commands = {p.stem for p in (ROOT / "jaxrec").glob("*.py")} - {"__init__", "__main__"}
    assert set(script.COMMANDS) == commands
    assert sorted(name for names in script.GROUPS.values() for name in names) == sorted(commands)
    monkeypatch.setattr(sys, "argv", ["jaxrec"])
    script.main()
    assert capsys.readouterr().out == script.usage() + "\n"


def test_an_unknown_command_is_an_error(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["jaxrec", "trian"])
    with pytest.raises(SystemExit) as e:
        script.main()
    assert e.value.code == 2
    assert capsys.readouterr().err == f"error: 'trian' is no command; allowed: {', '.join(script.COMMANDS)}\n"


def test_the_console_script_loads_no_jax():
    code = "import sys, jaxrec.__main__; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr
