"""README and docs: every command is parsed and run, every name exists, and the pages build.

A comment directly above a fenced block states how its commands are tested:

    <!-- needs: a Slurm cluster -->    not run, and shown as skipped with this reason
    <!-- slow: five minutes -->        run by `pytest -m slow`

Without a comment they are run in the default suite. Flags and config of all three kinds are checked there.
"""

import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import commands
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
GENERATED = ("config-reference.md",)
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "launch/README.md",
    *sorted(p for p in DOCS.glob("*.md") if p.name not in GENERATED),
]
SHELLS = ("", "bash", "sh", "console")
LAUNCHER = "launch/local.sh"
# Launchers of clusters, of which the arguments behind these words are those of train.
CLUSTERS = (r"sbatch \S+ launch/slurm\.sbatch ", r"launch/tpu_vm\.sh train \S+ \S+ ")
MOST_WORDS = 700  # of README.md
FAST, SLOW, NOT_RUN = "fast", "slow", "needs"


def load(path: Path):
    """Return a script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


config_reference = load(DOCS / "config_reference.py")


# ---------------------------------------------------------------- commands of the pages


@dataclass(frozen=True)
class Command:
    page: Path
    line: int
    words: tuple[str, ...]  # of the whole command: python -m jaxrec.train ..., launch/local.sh ..., cp A B
    speed: str
    reason: str = ""

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def module(self) -> tuple[str, ...] | None:
        """The module that reads flags, and its arguments; None where the command is not one of ours."""
        if self.words[0] == LAUNCHER:
            return ("jaxrec.train", *self.words[self.words.index("--") + 1 :])
        if self.words[0] == "jaxrec" and len(self.words) > 1:
            return (f"jaxrec.{self.words[1]}", *self.words[2:])
        if self.words[1:2] == ("-m",) and re.fullmatch(r"jaxrec\.\w+", self.words[2]):
            return self.words[2:]
        return None


def commands_of(line: str) -> list[tuple[str, ...]]:
    """Return the commands of a line of shell that are tested: ours, and cp."""
    commands = []
    for piece in line.removeprefix("$ ").split(" && "):
        for launcher in CLUSTERS:
            piece = re.sub(f"^{launcher}", "python -m jaxrec.train ", piece)
        if not re.match(r"(\S*python3? -m jaxrec\.|jaxrec |launch/local\.sh |cp )", piece):
            continue
        words = shlex.split(piece, comments=True)
        words[0] = "python" if re.search(r"python3?$", words[0]) else words[0]
        commands.append(tuple(words))
    return commands


def fenced(page: Path, text: str) -> list[Command]:
    """Return the commands of a page's fenced blocks, in its order."""
    commands: list[Command] = []
    fence = speed = reason = above = start = ""
    for number, line in enumerate(text.splitlines(), 1):
        mark = re.fullmatch(r"(```+)(.*)", line)
        if mark and not fence:
            fence, language = mark[1], mark[2].strip()
            comment = re.fullmatch(r"<!-- (needs|slow): (.+) -->", above)
            speed, reason = (comment[1], comment[2]) if comment else (FAST, "")
        elif mark and mark[1] == fence:
            fence = ""
        elif fence and language in SHELLS:
            whole = start + line
            start = whole[:-1] if whole.endswith("\\") else ""
            if not start:
                commands += [Command(page, number, words, speed, reason) for words in commands_of(whole)]
        above = line
    return commands


def inline(page: Path, text: str) -> list[Command]:
    """Return the commands in backticks outside blocks, such as those of the tables of commands.

    Brackets around optional flags are removed; the placeholders C and N stand for a config and a number.
    """
    commands = []
    without_blocks = re.sub(r"^```.*?^```$", lambda m: "\n" * m[0].count("\n"), text, flags=re.M | re.S)
    for match in re.finditer(r"`(python -m jaxrec\.\w+ [^`]+)`", without_blocks):
        words = [
            {"C": "configs/tiny.py", "N": "50"}.get(w, w)
            for w in shlex.split(match[1].replace("[", "").replace("]", ""))
        ]
        commands.append(Command(page, without_blocks[: match.start()].count("\n") + 1, tuple(words), NOT_RUN))
    return commands


EVERY = [command for page in PAGES for command in fenced(page, page.read_text())]
OURS = [command for command in EVERY if command.module]
PARSED = OURS + [command for page in PAGES for command in inline(page, page.read_text())]


def test_the_reader_of_commands():
    text = """
<!-- slow: a minute -->
```bash
$ python -m jaxrec.train --config a \\
  --workdir 'b c'   # a note
ls
```

<!-- needs: a cluster -->
```
python3 -m venv .venv && .venv/bin/python -m jaxrec.train --config a
launch/local.sh --processes 2 -- --config d
```

```python
python -m jaxrec.train
```
`python -m jaxrec.prepare --config C [--out DIR]`
"""
    first, second, third = fenced(README, text)
    assert (first.line, first.speed, first.reason) == (5, SLOW, "a minute")
    assert first.module == ("jaxrec.train", "--config", "a", "--workdir", "b c")
    assert (second.line, second.speed, second.reason) == (11, NOT_RUN, "a cluster")
    assert second.words == ("python", "-m", "jaxrec.train", "--config", "a")
    assert third.module == ("jaxrec.train", "--config", "d")
    (last,) = inline(README, text)
    assert (last.line, last.module[1:]) == (18, ("--config", "configs/tiny.py", "--out", "DIR"))


def test_there_are_commands_of_every_speed():
    assert {c.speed for c in OURS} == {FAST, SLOW, NOT_RUN} and len(OURS) > 20


# ---------------------------------------------------------------- flags and configs of all commands


def write_own_data(folder: Path) -> None:
    """Write what `configs/own_data.py` names, with random plays: 3,000 users, 400 titles."""
    import polars as pl

    users, titles, plays = 3_000, 400, 40_000
    rng = np.random.default_rng(0)
    (folder / "interactions").mkdir(parents=True)
    title = np.minimum(rng.zipf(1.3, plays), titles) - 1
    runtime = rng.integers(20, 150, titles)
    pl.DataFrame(
        {
            "user_id": rng.integers(0, users, plays),
            "title_id": [f"t{i}" for i in title],
            "started_at": 1_700_000_000_000 + rng.integers(0, 60 * 86_400_000, plays),
            "seconds_viewed": np.round(60 * runtime[title] * rng.beta(0.5, 0.5, plays), 3),
            "device": rng.choice(["tv", "phone", "tablet"], plays),
        }
    ).write_parquet(folder / "interactions/part-0.parquet")
    pl.DataFrame(
        {
            "title_id": [f"t{i}" for i in range(titles)],
            "runtime_minutes": runtime,
            "genres": rng.choice(["Drama", "Drama|Comedy", "Crime|Thriller", "Documentary"], titles),
            "release_year": rng.integers(1960, 2026, titles),
        }
    ).write_csv(folder / "titles.csv")
    country = rng.choice(["DE", "FR", "IN", "US"], users)
    pl.DataFrame({"user_id": np.arange(users), "country": country}).write_csv(folder / "users.csv")


@pytest.fixture
def sandbox(tmp_path):
    """A folder to run commands in: configs/ and launch/ of the repository, and own data."""
    for name in ("configs", "launch"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    write_own_data(tmp_path / "my_data")
    return tmp_path


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """Return the error of every command about its command line, "" for none."""
    folder = tmp_path_factory.mktemp("parsed")
    shutil.copytree(ROOT / "configs", folder / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    for command in EVERY:
        if command.words[0] == "cp":
            shutil.copy(folder / command.words[1], folder / command.words[2])
        for path in written_by(command):
            shutil.copy(folder / "configs/own_data.py", folder / path)
    done = subprocess.run(
        [sys.executable, ROOT / "tests/parse_commands.py"],
        input=json.dumps([c.module for c in PARSED]),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(PARSED, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("command", PARSED, ids=lambda c: c.name)
def test_a_commands_flags_and_config_are_right(command, messages):
    assert messages[command] == ""


# ---------------------------------------------------------------- running them


def run(command: Command, folder: Path, env: dict[str, str], forked: bool = True) -> None:
    if command.words[0] == "cp":
        shutil.copy(folder / command.words[1], folder / command.words[2])
        return
    env = env | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PYTHON": sys.executable}
    words = [str(folder / LAUNCHER), *command.words[1:]]
    if command.words[0] == LAUNCHER:
        done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=3000)
    elif forked:
        done = commands.run("-m", *command.module, cwd=folder, env=env)
    else:
        words = [sys.executable, "-m", *command.module]
        done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, f"{command.name}: {shlex.join(command.words)}\n{done.stderr[-3000:]}"


def runnable(speed: str) -> list[tuple[Path, list[Command]]]:
    """Return each page with its commands of a speed.

    A command that an earlier page has is left out, unless another command of its page reads its workdir.
    """
    earlier: set[tuple[str, ...]] = set()
    pages = []
    for page in PAGES:
        ours = [c for c in OURS if c.page == page and c.speed == speed]
        new = [c for c in ours if c.words not in earlier]
        earlier |= {c.words for c in new}
        read = {word for c in new for word in c.words}
        chosen = [c for c in ours if c in new or read & set(workdir_of(c))]
        makers = [c for c in EVERY if c.page == page and (c.words[0] == "cp" or written_by(c))]
        copies = [c for c in makers if c not in chosen and c.speed != NOT_RUN]
        if new:
            pages.append((page, copies + chosen))
    return pages


def written_by(command: Command) -> tuple[str, ...]:
    """Return the config that a command writes, or nothing."""
    return tuple(value for flag, value in itertools.pairwise(command.words) if flag == "--write-config")


def workdir_of(command: Command) -> tuple[str, ...]:
    """Return the workdir that a command writes, or nothing."""
    return tuple(
        value for flag, value in zip(command.words, command.words[1:], strict=False) if flag == "--workdir"
    )


def page_id(value) -> str:
    return value[0].name if isinstance(value, tuple) else ""


@pytest.mark.parametrize("page", runnable(FAST), ids=page_id)
def test_the_commands_of_a_page_run(page, sandbox):
    for command in page[1]:
        run(command, sandbox, dict(os.environ))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", runnable(SLOW), ids=page_id)
def test_the_slow_commands_of_a_page_run(page, sandbox, as_compiled_for_users):
    for command in page[1]:
        run(command, sandbox, as_compiled_for_users, forked=False)


@pytest.mark.parametrize("command", [c for c in OURS if c.speed == NOT_RUN], ids=lambda c: c.name)
def test_commands_that_are_not_run(command):
    pytest.skip(f"needs {command.reason}")


# ---------------------------------------------------------------- names


def backticked(page: Path) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_config_fields_that_a_page_names_exist(page):
    every = config_reference.sections(config_reference.read(*config_reference.MODULES))
    keys = config_reference.prefixes(every)
    fields = {f"{keys[s.name]}{f.name}".replace("[i]", "") for s in every if s.name in keys for f in s.fields}
    sections = "|".join(sorted(f for f in fields if "." not in f))
    named = {
        token.split("=")[0]
        for token in backticked(page)
        if re.fullmatch(rf"({sections})\.[a-z][a-z0-9_.]*(=.*)?", token)
    }
    assert {
        n for n in named if not n.endswith((".py", ".json", ".html", ".jsonl", ".md", ".csv"))
    } - fields == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_a_page_names_exist(page):
    top = "jaxrec|configs|tests|benchmarks|docs|launch"
    named = {t.split(":")[0] for t in backticked(page) if re.fullmatch(rf"({top})/[\w./-]*(:\w+)?", t)}
    made = ("docs/_build", "configs/my_service.py")
    assert {n for n in named if n not in made and not (ROOT / n).exists()} == set()


def test_the_readme_is_short():
    assert len(README.read_text().split()) <= MOST_WORDS


# ---------------------------------------------------------------- the picture and the pages


def test_the_picture_is_what_its_script_draws():
    draw = load(DOCS / "diagrams/draw.py")
    assert draw.OUTPUT.read_text() == draw.draw(), "run: python docs/diagrams/draw.py"


SCHEMA = '''
from dataclasses import dataclass, field

MIXES = {"a": 1}

@dataclass
class Inner:
    """An inner class."""

    rate: float = 0.5  # a rate, at most 1
    kind: str = "x"  # or "y",
    # or "z|w"

    names: tuple[str, ...] = ()
    """Names, none
    by default."""
    # ---------------------------------------------------------------- not a comment of the field

@dataclass
class Config:
    given: int
    inner: tuple[Inner, ...] = field(default_factory=lambda: (Inner(),))  # inner ones
'''


def test_a_config_page_of_a_small_schema(tmp_path):
    path = tmp_path / "schema.py"
    path.write_text(SCHEMA)
    page = config_reference.page(path)
    assert [line for line in page.splitlines() if line.startswith(("#", "| `", "- `"))] == [
        "# Config reference",
        "- `MIXES`: `{'a': 1}`",
        "## Config",
        "| `given` | `int` |  |  |",
        "| `inner` | `tuple[Inner, ...]` | `(Inner(),)` | inner ones |",
        "## Inner",
        "| `inner[i].rate` | `float` | `0.5` | a rate, at most 1 |",
        '| `inner[i].kind` | `str` | `\'x\'` | or "y", or "z\\|w" |',
        "| `inner[i].names` | `tuple[str, ...]` | `()` | Names, none by default. |",
    ]
    assert "An inner class." in page


def test_the_config_page_has_every_field():
    page = config_reference.page(*config_reference.MODULES)
    every = config_reference.sections(config_reference.read(*config_reference.MODULES))
    fields = [f for s in every for f in s.fields]
    assert len(fields) > 100 and page.count("\n| `") == len(fields)


def test_the_pages_build_without_warnings(tmp_path):
    for library in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(library, reason="the extra docs is not installed")
    words = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        tmp_path / "trees",
        DOCS,
        tmp_path / "html",
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-5000:]
    assert (tmp_path / "html/config-reference.html").exists()


# ---------------------------------------------------------------- figures


def test_tables_of_the_first_command_are_those_of_its_stored_result():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import result_tables
    finally:
        sys.path.pop(0)
    stored = result_tables.stored()
    assert stored["command"] in README.read_text() and stored["date"] and stored["environment"]["jax"]
    best = stored["result"]["lists"]["enabled"]["ndcg@1"]
    for path, text in result_tables.pages().items():
        assert f"{best:.4f}".lstrip("0") in text and path.read_text() == text, "run docs/result_tables.py"


STUDIES = {"three seeds | enabled | paper": "study-small.md", "three seeds, KuaiRand": "study-kuairand.md"}


@pytest.mark.parametrize("title", STUDIES)
def test_figures_of_the_paper_page_are_those_of_the_stored_study(title):
    """Rows of Table 4 on docs/paper.md: NDCG@1 on both lists, by label, in benchmarks/results."""
    stored = (ROOT / "benchmarks/results" / STUDIES[title]).read_text()
    table_4 = stored[stored.index("## Table 4") :]
    blocks = [re.split(r"\n##+ ", table_4)[1:3][i] for i in (0, 1)]
    assert [block.splitlines()[0] for block in blocks] == ["PHNS-enabled, K=1", "PHNS-disabled, K=1"]
    by_list = [
        {cells[0]: cells[1:3] for line in block.splitlines() if (cells := cells_of(line))} for block in blocks
    ]
    page = (ROOT / "docs/paper.md").read_text()
    start = page.index(title)
    lines = page[page.index("|---|", start) :].split("\n\n")[0].splitlines()[1:]
    compared = 0
    for label, *figures in map(cells_of, lines):
        expected = [of_list[label.replace("our MLP head", "our matcher")] for of_list in by_list]
        if len(figures) == 4:  # beside the paper's
            assert figures == [*expected[0], *expected[1]], label
        else:
            assert figures == [figure for figure, _ in expected], label
        compared += 1
    assert compared >= 11


def cells_of(line):
    """Return the cells of a line of a Markdown table; [] of another line."""
    return [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
