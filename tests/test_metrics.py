"""RunLog against the files' own readers, also after a crash and a resume; Progress against hand numbers."""

import csv
import io
import json
import math
import os

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from hybrid_jax.metrics import Progress, RunLog, read_csv, write_atomically


def records(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def table(directory):
    with (directory / "metrics.csv").open(newline="") as file:
        return list(csv.reader(file))


def tensorboard_events(directory):
    """Every event, read from the TFRecord framing: length 8, checksum 4, data, checksum 4 bytes."""
    found = []
    for path in sorted((directory / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def tensorboard_scalars(directory):
    events = tensorboard_events(directory)
    return [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]


def test_every_record_reaches_all_three_files(tmp_path):
    with RunLog(tmp_path) as log:
        log.write(10, {"loss": 0.5, "real_return": jnp.float32(2.0)})
        log.write(20, {"loss": np.float32(0.25), "real_return": 3})
    assert records(tmp_path) == [
        {"step": 10, "loss": 0.5, "real_return": 2.0},
        {"step": 20, "loss": 0.25, "real_return": 3.0},
    ]
    assert table(tmp_path) == [["step", "loss", "real_return"], ["10", "0.5", "2.0"], ["20", "0.25", "3.0"]]
    assert tensorboard_scalars(tmp_path) == [
        (10, "loss", 0.5),
        (10, "real_return", 2.0),
        (20, "loss", 0.25),
        (20, "real_return", 3.0),
    ]


def test_a_record_can_be_read_before_the_log_is_closed(tmp_path):
    with RunLog(tmp_path, tensorboard=False) as log:
        log.write(1, {"loss": 0.5})
        log.write(2, {"loss": 0.25})
        assert records(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
        assert table(tmp_path) == [["step", "loss"], ["1", "0.5"], ["2", "0.25"]]


def test_new_columns_stand_behind_the_old_ones_with_empty_cells_before(tmp_path):
    with RunLog(tmp_path, tensorboard=False) as log:
        log.write(1, {"loss": 0.5})
        log.write(2, {"real_return": 7.0, "loss": 0.25})
        log.write(3, {"real_return": 8.0})
    assert table(tmp_path) == [
        ["step", "loss", "real_return"],
        ["1", "0.5", ""],
        ["2", "0.25", "7.0"],
        ["3", "", "8.0"],
    ]
    columns = read_csv(tmp_path / "metrics.csv")
    np.testing.assert_array_equal(columns["step"], [1, 2, 3])
    np.testing.assert_array_equal(columns["loss"], [0.5, 0.25, np.nan])
    np.testing.assert_array_equal(columns["real_return"], [np.nan, 7, 8])


def test_values_that_are_not_finite_are_null_and_named(tmp_path):
    with RunLog(tmp_path) as log:
        log.write(1, {"a": math.nan, "b": 1.0, "c": -math.inf})
    assert records(tmp_path) == [{"step": 1, "a": None, "b": 1.0, "c": None, "nonfinite": ["a", "c"]}]
    assert table(tmp_path) == [["step", "a", "b", "c"], ["1", "nan", "1.0", "nan"]]
    assert tensorboard_scalars(tmp_path) == [(1, "b", 1.0)]


def test_a_resumed_log_drops_the_records_after_the_step_and_goes_on(tmp_path):
    with RunLog(tmp_path, tensorboard=False) as log:
        for step in (10, 20, 30, 40):
            log.write(step, {"loss": step / 10} | ({"late": 1.0} if step > 20 else {}))
    with RunLog(tmp_path, tensorboard=False, resume_step=20) as log:
        assert [record["step"] for record in records(tmp_path)] == [10, 20]
        log.write(30, {"loss": -3.0, "other": 5.0})
    assert records(tmp_path)[1:] == [{"step": 20, "loss": 2.0}, {"step": 30, "loss": -3.0, "other": 5.0}]
    assert table(tmp_path)[0] == ["step", "loss", "other"]
    assert table(tmp_path)[-1] == ["30", "-3.0", "5.0"]


def test_tensorboard_is_told_where_a_resumed_run_begins(tmp_path):
    with RunLog(tmp_path) as log:
        log.write(10, {"loss": 1.0})
    with RunLog(tmp_path, resume_step=5) as log:
        log.write(10, {"loss": 2.0})
    start = event_pb2.SessionLog.START
    starts = [event.step for event in tensorboard_events(tmp_path) if event.session_log.status == start]
    assert starts == [6]


@pytest.mark.parametrize("torn", ['{"step": 20, "lo', '{"step": 20, "loss": 2.0}'])
def test_a_torn_last_line_is_cut(tmp_path, torn):
    with RunLog(tmp_path, tensorboard=False) as log:
        log.write(10, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    with RunLog(tmp_path, tensorboard=False) as log:
        log.write(30, {"loss": 3.0})
    assert records(tmp_path) == [{"step": 10, "loss": 1.0}, {"step": 30, "loss": 3.0}]
    assert table(tmp_path)[1:] == [["10", "1.0"], ["30", "3.0"]]


def test_a_damaged_line_before_the_last_is_refused_with_its_number(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\noops\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl line 2 is not JSON"):
        RunLog(tmp_path, tensorboard=False)


def test_names_of_the_logs_own_are_refused(tmp_path):
    with RunLog(tmp_path, tensorboard=False) as log, pytest.raises(ValueError, match="'step' is taken"):
        log.write(1, {"step": 2.0})


def test_an_interrupted_atomic_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomically(path, "old")

    def crash(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_an_atomic_write_puts_a_new_file_in_place_of_the_old(tmp_path):
    path, opened_before = tmp_path / "a.json", tmp_path / "link"
    write_atomically(path, "old")
    os.link(path, opened_before)
    write_atomically(path, b"new")
    assert path.read_text() == "new" and opened_before.read_text() == "old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.json", "link"]


class Clock:
    """Answers the times it was given, one per call."""

    def __init__(self, *times):
        self.times = iter(times)

    def __call__(self):
        return next(self.times)


def test_plain_progress_prints_rates_returns_and_time_left():
    stream = io.StringIO()
    with Progress("h2o", 2000, interval=5.0, stream=stream, clock=Clock(0.0, 2.0, 6.0)) as progress:
        progress.update(100, sim_steps=1000)
        progress.update(300, sim_steps=1400, real_return=123.4)
        progress.update(700, sim_steps=10_000, real_steps=3, sim_return=2500.0)
    # From t = 0 to 6 s: 600 updates, 9,000 sim and 3 real steps; 1,300 updates at 100/s are 13 s.
    assert stream.getvalue().splitlines() == [
        "h2o: 100/2,000 updates",
        "h2o: 700/2,000 updates, 0:13 left | 100 updates/s | 1,500 sim steps/s | 0.5 real steps/s"
        " | real return 123 | sim return 2,500",
    ]


def test_plain_progress_ends_with_the_last_state_without_colour_codes():
    stream = io.StringIO()
    with Progress("sim_only", 90, interval=60.0, stream=stream, clock=Clock(0.0, 1.0)) as progress:
        progress.update(10)
        progress.say("checkpoint in [runs/x]")
        progress.update(90)
    assert stream.getvalue().splitlines() == [
        "sim_only: 10/90 updates",
        "checkpoint in [runs/x]",
        "sim_only: 90/90 updates, 0:00 left | 80 updates/s",
    ]


def test_rates_are_means_over_the_last_ten_seconds():
    stream = io.StringIO()
    with Progress("h2o", 1000, stream=stream, interval=0.0, clock=Clock(0, 5, 10, 15, 20)) as progress:
        for updates in (0, 500, 500, 510, 520):
            progress.update(updates)
    # The slow last ten seconds count, the fast start no more: 20 updates in 10 s.
    assert stream.getvalue().splitlines()[-1] == "h2o: 520/1,000 updates, 4:00 left | 2 updates/s"


def test_progress_on_a_terminal_draws_a_bar_that_fits_80_columns(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    with Progress("h2o", 20_000, stream=stream, clock=Clock(0.0, 1.0)) as progress:
        progress.update(100, sim_steps=0)
        progress.update(12_900, sim_steps=9000, real_return=24_310.0, sim_return=26_110.0)
    last = stream.getvalue()
    assert "━" in last and "12,900/20,000 updates, 0:01 left" in last
    assert "12,800 updates/s | 9,000 sim steps/s | real return 24,310 | sim return 26,110\n" in last
