"""Metrics writer: metrics.jsonl, TensorBoard events and the display."""

import json
import math
import subprocess
import sys

import pytest
from bucket import Bucket
from tensorboardX.proto.event_pb2 import Event

from jaxrec.core.paths import as_path
from jaxrec.reporting import metric_writer
from jaxrec.reporting.metric_writer import Writer, read_metrics

LISTS = {"enabled": {"ndcg@1": 0.25, "examples": 7}, "disabled": {"ndcg@1": 0.5, "examples": 7}}


@pytest.fixture
def clock(monkeypatch):
    """A clock that advances only when a test sets `now`."""

    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    fake = Clock()
    monkeypatch.setattr(metric_writer, "time", fake)
    return fake


def lines(workdir) -> list[dict]:
    def reject(text):
        raise AssertionError(f"{text} is not JSON")

    return [
        json.loads(x, parse_constant=reject) for x in (workdir / "metrics.jsonl").read_text().splitlines()
    ]


def test_lines_hold_values_and_the_rate_of_training_steps_only(tmp_path, clock):
    with Writer(tmp_path / "w", 0, 40, 5.0) as writer:
        writer.start(1234, batch_size=8)
        clock.now += 50.0
        assert not writer.due(1)  # the first step compiles
        clock.now += 4.0
        assert not writer.due(5)
        clock.now += 1.0
        assert writer.due(11)
        writer.train(11, 0.5, {"loss": 0.75, "gradient_norm": math.inf})  # 10 steps of 8 in 5 s
        assert not writer.due(11)
        clock.now += 2.0
        writer.train(21, 1.0, {"loss": math.nan, "gradient_norm": 1.0})
        clock.now += 60.0  # time of the validation
        writer.validation(21, 1.0, {"loss": 0.5}, LISTS, "ndcg@1")
        clock.now += 1.0
        writer.train(26, 1.25, {"loss": 0.25, "gradient_norm": 1.0})
        assert len(lines(tmp_path / "w")) == 4  # flushed before the file is closed
    train = {"split": "train", "gradient_norm": 1.0}
    assert lines(tmp_path / "w") == [
        train | {"step": 11, "epoch": 0.5, "loss": 0.75, "gradient_norm": None, "examples_per_second": 16.0},
        train | {"step": 21, "epoch": 1.0, "loss": None, "examples_per_second": 40.0},
        {
            "step": 21, "epoch": 1.0, "split": "validation", "loss": 0.5,
            "enabled/ndcg@1": 0.25, "enabled/examples": 7, "disabled/ndcg@1": 0.5, "disabled/examples": 7,
        },
        train | {"step": 26, "epoch": 1.25, "loss": 0.25, "examples_per_second": 40.0},
    ]  # fmt: skip


def write(writer, steps):
    writer.start(1, 1)
    for step in steps:
        writer.train(step, float(step), {"loss": 1.0})


def test_resuming_removes_lines_after_the_checkpoint_and_a_truncated_line(tmp_path):

    with Writer(tmp_path, 0, 9, 5.0) as writer:
        write(writer, (1, 2, 3, 4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "spl')
    with Writer(tmp_path, 2, 9, 5.0) as writer:
        assert [x["step"] for x in lines(tmp_path)] == [1, 2]
        write(writer, (3,))
    assert [x["step"] for x in lines(tmp_path)] == [1, 2, 3]
    with Writer(tmp_path, 0, 9, 5.0):  # without a checkpoint the run starts from the beginning
        assert lines(tmp_path) == []


def steps_in(workdir) -> list[int]:
    return [line["step"] for line in read_metrics(workdir / "metrics.jsonl")]


def test_resuming_removes_lines_in_a_bucket(bucket):
    workdir = as_path(bucket) / "w"
    with Writer(workdir, 0, 9, 5.0) as writer:
        write(writer, (1, 2, 3, 4))
    (workdir / "metrics.jsonl").write_bytes((workdir / "metrics.jsonl").read_bytes() + b'{"step": 2, "spl')
    with Writer(workdir, 2, 9, 5.0) as writer:
        assert steps_in(workdir) == [1, 2]  # the bucket is updated before the next step
        write(writer, (3,))
    assert steps_in(workdir) == [1, 2, 3]
    assert not (workdir / "metrics.jsonl").read_bytes().endswith(b"spl")
    with Writer(workdir, 0, 9, 5.0):
        assert steps_in(workdir) == []


def test_lines_are_uploaded_once_a_minute_before_a_checkpoint_and_at_the_end(bucket, clock):
    workdir = as_path(bucket) / "w"
    with Writer(workdir, 0, 90, 5.0) as writer:
        write(writer, (1, 2))
        assert steps_in(workdir) == []
        writer.flush()
        assert steps_in(workdir) == [1, 2]
        Bucket.log.clear()
        writer.flush()
        assert Bucket.log == []  # nothing has changed
        clock.now += 59.0
        write(writer, (3,))
        assert steps_in(workdir) == [1, 2]
        clock.now += 1.0
        write(writer, (4,))
        writer._bucket._upload.result()
        assert steps_in(workdir) == [1, 2, 3, 4]
        write(writer, (5,))
    assert steps_in(workdir) == [1, 2, 3, 4, 5]
    (name,) = {key for operation, key in Bucket.log if operation == "put" and "/tensorboard/" in key}
    written = parse_events(as_path(f"s3://{name}").read_bytes())
    assert [e.step for e in written if e.summary.value] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_failed_upload_is_raised(bucket, monkeypatch):
    def full(operation, key):
        raise OSError("the bucket is full")

    with (
        pytest.raises(OSError, match="the bucket is full"),
        Writer(as_path(bucket) / "w", 0, 9, 5.0) as writer,
        monkeypatch.context() as patched,
    ):
        patched.setattr(Bucket, "before", staticmethod(full))
        write(writer, (1,))
        writer.flush()


def test_truncated_line_is_skipped_when_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]


def read_events(folder) -> list[Event]:
    """Return the events of all files of a folder."""
    events = []
    for path in sorted(folder.iterdir()):
        events += parse_events(path.read_bytes())
    return events


def parse_events(data: bytes) -> list[Event]:
    """Parse records: length (8 bytes), its checksum (4), event, its checksum (4)."""
    events = []
    while data:
        size = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return events


def test_events_hold_the_same_scalars(tmp_path):
    with Writer(tmp_path, 4, 9, 5.0) as writer:
        writer.start(1, 1)
        writer.train(5, 0.5, {"loss": 0.75})
        writer.validation(5, 0.5, {"loss": 0.5}, LISTS, "ndcg@1")
    events = read_events(tmp_path / "tensorboard")
    scalars = {(v.tag, e.step): v.simple_value for e in events for v in e.summary.value}
    assert scalars[("train/loss", 5)] == 0.75
    assert scalars[("validation/enabled/ndcg_1", 5)] == 0.25
    # TensorBoard discards earlier events from this step on.
    assert [e.step for e in events if e.session_log.status] == [5]


def test_progress_without_a_terminal_is_an_occasional_line(tmp_path, clock, capsys):
    with Writer(tmp_path, 0, 1000, 5.0) as writer:
        writer.start(1234, batch_size=8)
        for step in range(10, 100, 10):
            clock.now += 5.0
            writer.train(step, step / 100, {"loss": 0.5})
        writer.validation(90, 0.9, {"loss": 0.5}, LISTS, "ndcg@1")
        clock.now += 1.0
        writer.train(1000, 10.0, {"loss": 0.125})
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"1,234 parameters, to step 1,000 in {tmp_path}",
        "step 10/1,000  loss 0.5000  16 examples/s  8:15 left",
        "step 70/1,000  loss 0.5000  16 examples/s  7:45 left",
        "epoch 0.9: validation loss 0.5000, NDCG@1 enabled 0.2500, disabled 0.5000",
        "step 1,000/1,000  loss 0.1250  7,280 examples/s  0:00 left",
    ]


def test_display_on_a_terminal_is_live(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Writer(tmp_path, 0, 10, 5.0) as writer:
        writer.start(1234, batch_size=8)
        writer.train(5, 0.5, {"loss": 0.75})
        writer._display._progress.refresh()
        writer.validation(5, 0.5, {"loss": 0.5}, LISTS, "ndcg@1")
    out, err = capsys.readouterr()
    assert out == ""
    assert "step 5/10  loss 0.7500" in err and "left" in err
    assert "NDCG@1 enabled 0.2500" in err


def test_other_processes_write_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(metric_writer, "is_first_process", lambda: False)
    with Writer(tmp_path / "w", 0, 10, 5.0) as writer:
        writer.start(1, 1)
        writer.train(5, 0.5, {"loss": 0.75})
        writer.validation(5, 0.5, {"loss": 0.5}, LISTS, "ndcg@1")
    assert not (tmp_path / "w").exists()
    assert capsys.readouterr() == ("", "")


def test_durations_are_formatted_as_minutes_or_hours():
    assert [metric_writer._format_duration(s) for s in (0, 59.6, 90, 4000)] == [
        "0:00",
        "1:00",
        "1:30",
        "1:06:40",
    ]


_ON_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from jaxrec.reporting.metric_writer import Writer

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file of more than 2 kB cannot be written
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    with Writer(Path(sys.argv[1]), 0, 90, 5.0) as writer:
        for step in range(1, 90):
            writer.train(step, step / 90, {"loss": 0.75})
except OSError as error:
    print(f"refused: {error.strerror}")
"""


def test_a_file_that_cannot_grow_is_one_error(tmp_path):
    """No traceback of a writing thread, and none at the end of Python."""
    done = subprocess.run(
        [sys.executable, "-c", _ON_A_FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "refused: File too large\n" and done.returncode == 0
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr
