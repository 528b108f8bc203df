"""The command line, mostly through subprocesses: output and exit status."""

import dataclasses
import errno
import importlib
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from jaxrec.cli import app
from jaxrec.config import loading
from jaxrec.config.schema import TRAIN_MIXES, Config
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.runtime.preemption import PreemptionHandler

ROOT = Path(__file__).resolve().parents[2]
TINY = str(ROOT / "configs" / "tiny.py")

SCRIPT = '''"""A command for tests.

    python test_command.py --config C
"""
import logging as stdlib_logging
import os, signal, sys, time
from absl import flags, logging
from jaxrec.cli.app import print_result, run
from jaxrec.cli.flags import config_flag, json_flag
from jaxrec.core.errors import InputError
from jaxrec.runtime.preemption import PreemptionHandler

def _flags():
    flags.DEFINE_string("do", "", "action to test")

def main(f):
    assert "jax" not in sys.modules and "polars" not in sys.modules
    if f.do == "input":
        raise InputError("file x.csv, row 3: seconds=-1\\n must be at least 0")
    if f.do == "crash":
        raise RuntimeError("a defect")
    if f.do.endswith("lines"):
        for _ in range(int(f.do[:-5])):
            print("a line of a hundred characters".ljust(99))
        return 0
    if f.do == "pipe":
        reader, writer = os.pipe()
        os.close(reader)
        os.write(writer, b"x")
    if f.do == "wait":
        print("ready", file=sys.stderr, flush=True)
        time.sleep(30)
    if f.do.startswith("loop"):
        with PreemptionHandler() as interrupt:
            os.kill(os.getpid(), getattr(signal, f.do[4:]))
            while not interrupt.requested:
                time.sleep(0.01)
            return interrupt.exit_status(75)
    c = f.config
    print("noise")
    logging.info("a library's line")
    stdlib_logging.getLogger("other").info("a line of another library")
    logging.warning("beware")
    print_result({"window": c.model.experts[0].max_len, "entropy": c.model.gate.target_entropy,
                  "keeps": c.sampling.history_keeps_abandoned, "matcher": c.model.head_hidden,
                  "rate": float("nan")}, "a table")

if __name__ == "__main__":
    run(main, config_flag, json_flag, _flags)
'''


@pytest.fixture(autouse=True)
def _interruptible():
    """Start commands that Ctrl-C reaches, also where the suite runs in the background and ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("command") / "test_command.py"
    path.write_text(SCRIPT)
    return path


def start(script: Path, *args: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    line = [sys.executable, str(script), *args]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=script.parent
    )


def run(script: Path, *args: str) -> tuple[int, str, str]:
    process = start(script, *args)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


WRONG = [
    ([], "--config is missing; give a config file"),
    (["--config.train.batch_size=3"], "--config is missing"),
    (["--config=no.py"], "no file no.py"),
    ([f"--config={TINY}:x"], "takes no argument"),
    (
        [f"--config={TINY}", "--config.train.batchsize=3"],
        "train.batchsize does not exist; there are seed, duration, ",
    ),
    ([f"--config={TINY}", "--config.modle.width=3"], "modle does not exist; there are name, source, "),
    ([f"--config={TINY}", "--config.source.users.x=3"], "source.users.x does not exist; source.users is 300"),
    ([f"--config={TINY}", "--config.model.experts[2].max_len=3"], "model.experts[2] does not exist"),
    ([f"--config={TINY}", "--config.model.experts=3"], "model.experts cannot be set as a whole"),
    ([f"--config={TINY}", "--config.source=3"], "source cannot be set as a whole"),
    ([f"--config={TINY}", "--config.evaluate.next_k[0]=3"], "evaluate.next_k[0] cannot be set alone"),
    (
        [f"--config={TINY}", "--config.train.batch_size=1e3"],
        "--config.train.batch_size=1e3: must be a whole number",
    ),
    ([f"--config={TINY}", "--config.train.batch_size=None"], "train.batch_size=None must be a whole number"),
    (
        [f"--config={TINY}", "--config.optimizer.learning_rate=nan"],
        "optimizer.learning_rate=nan must be a finite",
    ),
    (
        [f"--config={TINY}", "--config.model.head_hidden=16,x"],
        "model.head_hidden[0]='16,x' must be a whole number",
    ),
    ([f"--config={TINY}", "--config.objective.personalised=maybe"], "must be true or false"),
    ([f"--config={TINY}", "--config.model.width=13"], "model.width=13 must divide by num_heads=2"),
    ([f"--config={TINY}", "stray"], "'stray' is no flag"),
    ([f"--confg={TINY}"], "Unknown command line flag 'confg'"),
    ([f"--config={TINY}", "--do=input"], "file x.csv, row 3: seconds=-1 must be at least 0"),
]


@pytest.mark.parametrize("args, message", WRONG, ids=[" ".join(a[-1:]).split("/")[-1] for a, _ in WRONG])
def test_wrong_input_is_one_line_and_exit_2(script, args, message):
    status, out, err = run(script, *args)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and message in err
    assert err.count("\n") == 1 and err.endswith("\n")


def test_overrides_reach_the_config_and_json_is_the_only_output(script):
    overrides = ["--config.model.experts[0].max_len=5", "--config.model.gate.target_entropy=None"]
    overrides += ["--config.sampling.history_keeps_abandoned", "--config.model.head_hidden=16,8", "--json"]
    status, out, err = run(script, f"--config={TINY}", *overrides)
    assert status == 0
    assert out == '{"window": 5, "entropy": null, "keeps": true, "matcher": [16, 8], "rate": null}\n'
    # Output of main moves to standard error; of the log lines of libraries only the warning remains.
    printed, logged = err.splitlines()
    assert printed == "noise" and logged.endswith("] beware")
    assert run(script, "--config", TINY)[1] == "noise\na table\n"


def test_an_old_name_and_an_old_value_are_taken_with_one_line_each(script):
    status, _, err = run(script, f"--config={TINY}", "--config.next_title.shared=place", "--json")
    notes = [line for line in err.splitlines() if line.startswith("config: ")]
    assert (status, notes) == (
        0,
        [
            "config: next_title.shared is now next_item.negatives_shared_by",
            "config: next_item.negatives_shared_by='place' is now 'position'",
        ],
    )


def test_help_exits_0_and_lists_the_flags_of_the_command(script):
    status, out, err = run(script, "--config=no.py", "--help")
    assert (status, err) == (0, "")
    for line in ("A command for tests.", "--config:", "--[no]json:", "--do: action to test"):
        assert line in out


def test_unexpected_error_prints_a_traceback_and_exits_1(script):
    status, out, err = run(script, f"--config={TINY}", "--do=crash")
    assert (status, out) == (1, "")
    assert "Traceback" in err and "RuntimeError: a defect" in err


@pytest.mark.parametrize("lines", [1, 10_000], ids=["written as Python ends", "written at once"])
def test_a_reader_that_leaves_ends_a_command_silently(script, lines):
    """The reader is that of `command | head`."""
    process = start(script, f"--config={TINY}", f"--do={lines}lines")
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=60)) == ("", 141)
    process.stderr.close()


def test_another_pipe_that_breaks_is_reported(script):
    status, out, err = run(script, f"--config={TINY}", "--do=pipe")
    assert (status, out) == (1, "") and "Broken pipe" in err


@pytest.mark.parametrize("name, status", [("SIGINT", 130), ("SIGTERM", 143)])
def test_signals_outside_a_loop(script, name, status):
    process = start(script, f"--config={TINY}", "--do=wait")
    assert process.stderr.readline() == "ready\n"
    process.send_signal(getattr(signal, name))
    process.communicate(timeout=60)
    assert process.returncode == status


@pytest.mark.parametrize("name, status", [("SIGINT", 130), ("SIGTERM", 75)])
def test_loop_polls_signals_and_ends_itself(script, name, status):
    assert run(script, f"--config={TINY}", f"--do=loop{name}") == (
        status,
        "",
        f"\n{name}: saving after this step\n",
    )


def test_preemption_handler_restores_handlers_and_a_second_ctrl_c_raises_at_once(capfd):
    before = signal.getsignal(signal.SIGINT)
    with PreemptionHandler() as interrupt:
        assert interrupt.requested is None and interrupt.exit_status(75) == 0
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.requested == "SIGTERM"
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


BROKEN = {
    "x = (": "SyntaxError",
    "import jaxrec\n\nx = 1 / 0\ndef get_config(): ...": "line 3: ZeroDivisionError",
    "def get_config():\n    return missing": "line 2: NameError",
    "x = 1": "must define get_config()",
    "def get_config():\n    return {}": "gave a dict, not a jaxrec.config.Config",
}


@pytest.mark.parametrize("text, message", BROKEN.items(), ids=[m.split()[-1] for m in BROKEN.values()])
def test_error_in_a_config_file_names_the_file(tmp_path, text, message):
    path = tmp_path / "c.py"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        loading.load_config(str(path))
    assert str(path) in str(caught.value)


FILES = [f"{p.name}{a}" for p in sorted((ROOT / "configs").glob("*.py")) for a in ("", ":small", ":paper")]
# They accept neither argument.
PLAIN = (
    "tiny.py", "kuairand.py", "kuairand_signals.py", "kuairand_labels.py",
    "kuairand_impressions.py", "own_data.py", "study", "sequences.py", "delayed.py", "policy.py", "daily.py",
    "onerec.py", "session.py", "foundation.py", "live.py", "unicorn.py",
)  # fmt: skip


@pytest.mark.parametrize("name", [f for f in FILES if ":" not in f or not f.startswith(PLAIN)])
def test_every_config_loads_and_passes_validation(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # a config loads from any working directory
    monkeypatch.setenv("JAXREC_KUAIRAND", str(tmp_path))  # the folder is not opened
    if name.startswith(("study", "sequences.py", "live.py")):
        pytest.skip("a study, a scenario, and a config that names no log; other tests cover them")
    config = loading.load_config(str(ROOT / "configs" / name))
    check(config)


def scramble(tree):
    """Change every number, text and tuple of a config in place, as far as its objects can be changed."""
    for field in dataclasses.fields(tree):
        value = getattr(tree, field.name)
        items = value if isinstance(value, tuple) else (value,)
        for item in filter(dataclasses.is_dataclass, items):
            scramble(item)
        if not dataclasses.is_dataclass(value):
            setattr(tree, field.name, "scrambled")


WHOLE = [f for f in FILES if not f.startswith(PLAIN) or f in PLAIN[:5]]


@pytest.mark.parametrize("name", WHOLE)
def test_each_load_is_a_config_of_its_own(name):
    """Neither another load nor a config from the defaults shares an object with a config that was changed."""
    path = f"{ROOT}/configs/{name}"
    first, fresh = loading.load_config(path), repr(Config())
    text = repr(first)
    scramble(first)
    assert repr(first) != text and repr(first).count("scrambled") > 50
    assert repr(loading.load_config(path)) == text
    assert repr(Config()) == fresh


def test_a_load_shares_no_object_with_its_file(tmp_path):
    """The mixes of the schema, and what a file keeps, are copied: an override must not reach them."""
    (tmp_path / "shared.py").write_text(
        "from jaxrec.config import TRAIN_MIXES, Config\n\n\ndef get_config():\n    config = Config()\n"
        "    config.sampling.mix = TRAIN_MIXES['hard']\n    return config\n"
    )
    text = repr(TRAIN_MIXES)
    scramble(loading.load_config(str(tmp_path / "shared.py")))
    assert repr(TRAIN_MIXES) == text


def test_three_mixtures_differ_as_in_the_paper():
    experts = {
        n: loading.load_config(f"{ROOT}/configs/{n}.py:paper").model.experts for n in ("smoe", "bst", "vmoe")
    }
    shapes = {
        n: [(e.max_len, e.mlp_ratio, e.num_heads, e.num_layers) for e in es] for n, es in experts.items()
    }
    long = (20, 2.0, 12, 2)
    assert shapes == {"smoe": [(7, 1.0, 12, 2), long], "bst": [long], "vmoe": [long, long]}


def test_hidden_library_cannot_be_imported_unless_already_loaded():
    with app.hide_libraries("this"), pytest.raises(ImportError):
        importlib.import_module("this")
    assert "this" not in sys.modules
    with app.hide_libraries("re", "this"):  # only "re" is already loaded
        assert importlib.import_module("re") is re
        with pytest.raises(ImportError):
            importlib.import_module("this")


def test_a_shipped_config_is_found_by_its_name_from_any_folder(tmp_path, monkeypatch):
    by_path = loading.load_config(f"{ROOT}/configs/smoe.py:small")
    monkeypatch.chdir(tmp_path)
    assert loading.load_config("smoe:small") == by_path
    with pytest.raises(
        InputError, match=r"^--config=no_such: no file .*no_such\.py; it must be a Python file"
    ):
        loading.load_config("no_such")


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda folder: (folder / "file" / "x").write_text(""), "{folder}/file/x: Not a directory"),
        (lambda folder: (folder / "file").mkdir(), "{folder}/file: File exists"),
        (lambda folder: folder.write_text(""), "{folder}: Is a directory"),
    ],
)  # fmt: skip
def test_a_place_that_cannot_be_used_is_one_line(make, line, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as error:
        make(tmp_path)
    assert app.report_failure(error.value) == app.DEFECT
    assert capsys.readouterr().err.startswith("error: " + line.format(folder=tmp_path))


def test_a_bucket_that_cannot_be_reached_is_one_line(capsys, monkeypatch):
    """An error of a library of buckets, or of TensorStore, also behind that of a save."""
    monkeypatch.setattr(app.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(app.app, "run", lambda guarded, flags_parser: sys.exit(guarded([""])))
    of_library = type("EndpointConnectionError", (Exception,), {"__module__": "botocore.exceptions"})
    of_tensorstore = ValueError("UNAVAILABLE: CURL error Couldn't connect to server\nat file 3")
    missing = FileNotFoundError("The specified bucket does not exist")
    gcsfs = {"__name__": "gcsfs.retry", "error": missing}
    exec("def call():\n    raise error", gcsfs)
    for error in (of_library("Could not connect"), of_tensorstore, missing):

        def main(_, error=error):
            try:
                gcsfs["call"]()
            except FileNotFoundError:
                missing.__traceback__ = missing.__traceback__ if error is missing else None
                raise RuntimeError("a save failed") from error

        with pytest.raises(SystemExit) as left:
            app.run(main)
        line = capsys.readouterr().err
        assert left.value.code == app.DEFECT and line.count("\n") == 1
        assert line.startswith(
            f"error: a bucket cannot be accessed: {type(error).__name__}: {str(error)[:9]}"
        )
        assert "resumes from its last checkpoint" in line
    with pytest.raises(ZeroDivisionError):
        app.run(lambda _: 1 // 0)


def test_an_error_that_a_library_of_buckets_logs_and_raises_is_raised_alone():
    record = logging.LogRecord("gcsfs", logging.ERROR, "retry.py", 185, "out of retries", (), None)
    assert app._is_shown(record)
    record.exc_info = (OSError, OSError("refused"), None)
    assert not app._is_shown(record)
    record.name = "jaxrec"
    assert app._is_shown(record)


def test_a_full_disk_is_one_line_whatever_reports_it(capsys):
    full = OSError(28, "No space left on device")
    wrapped = ValueError("UNKNOWN: Error writing; No space left on device\nat line 3")
    for error, line in (
        (full, "the disk is full: No space left"),
        (wrapped, "the disk is full: UNKNOWN: Error"),
        (
            OSError("1068 requested and 0 written"),
            "the disk is full: 1068 requested and 0 written",
        ),  # NumPy's
    ):
        outer = RuntimeError("a save failed")
        outer.__cause__ = error
        assert app.report_failure(outer) == app.DEFECT
        assert capsys.readouterr().err.startswith(f"error: {line}")
    app.report_failure(OSError(errno.EIO, "Input/output error", "train-00000.rows"))
    assert capsys.readouterr().err == "error: train-00000.rows: Input/output error\n"
    app.report_failure(RuntimeError("a defect"))
    assert "RuntimeError: a defect" in capsys.readouterr().err


def test_a_late_report_to_a_failed_save_is_not_printed(monkeypatch):
    printed = []
    monkeypatch.setattr(sys, "__unraisablehook__", printed.append)
    late, other = (
        SimpleNamespace(exc_value=RuntimeError(text)) for text in ("Event loop is closed", "another defect")
    )
    app.report_unraisable(late)
    app.report_unraisable(other)
    assert printed == [other]


@pytest.mark.parametrize("is_ignored", [False, True])
def test_ctrl_c_while_a_command_imports_its_modules_ends_it_silently(tmp_path, is_ignored):
    """A process that ignores Ctrl-C goes on, here to the missing flags of absl."""
    (tmp_path / "absl.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    ignore = "trap '' INT; " if is_ignored else ""
    done = subprocess.run(
        ["sh", "-c", f"{ignore}exec {sys.executable} -m jaxrec.prepare"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if is_ignored:
        assert done.returncode == 1 and "ImportError" in done.stderr
    else:
        assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
