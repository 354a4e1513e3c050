"""RunLog against the files' own readers, also after a crash and a resume; Progress against hand numbers."""

import csv
import json
import math
import os

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from hybrid_jax.metrics import RunLog, read_csv, write_atomically


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
