"""The journal of real steps: nothing acknowledged is lost, nothing damaged is read, one writer, one robot."""

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hybrid_jax.real import record as records
from hybrid_jax.real import segments
from hybrid_jax.real.journal import Journal
from hybrid_jax.real.record import Fault, Flag, Transition
from hybrid_jax.real.schema import Schema, from_json
from hybrid_jax.real.segments import JournalError

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = Schema("robots:arm", obs_size=3, action_size=2, action_low=(-1.0, -1.0), action_high=(1.0, 1.0), rate=50.0)


def step(number: int) -> Transition:
    """A step whose every number follows from its sequence number."""
    base = np.float32(10 * number)
    return Transition(
        number, number // 5, number % 5, base + np.arange(3, dtype=np.float32), np.full(2, base + 3, np.float32),
        np.full(2, base + 4, np.float32), float(base + 5), base + np.arange(6, 9, dtype=np.float32),
        Flag.LATE if number % 2 else Flag(0), policy=7 * number, monotonic=number / 50, wall=1e9 + number,
    )  # fmt: skip


def same(a: records.Record, b: records.Record) -> bool:
    return type(a) is type(b) and all(np.array_equal(value, vars(b)[name]) for name, value in vars(a).items())


def written(folder: Path, count: int, **options) -> Path:
    with Journal(folder, SCHEMA, **options) as journal:
        for n in range(journal.next_sequence, count):
            journal.append(step(n))
    return folder


def is_prefix(found: list, length: int) -> bool:
    return len(found) == length and all(same(record, step(n)) for n, record in enumerate(found))


def test_what_is_appended_is_read_back_over_several_segments(tmp_path):
    written(tmp_path, 40, segment_bytes=1500)
    assert len(segments.segments(tmp_path)) > 3
    assert is_prefix(list(segments.read(tmp_path)), 40)
    assert [r.sequence for r in segments.read(tmp_path, 33)] == list(range(33, 40))
    written(tmp_path, 60, segment_bytes=1500)  # goes on where it stopped
    assert is_prefix(list(segments.read(tmp_path)), 60)


def test_faults_stand_between_the_steps(tmp_path):
    fault = Fault(1, 0, 1, "step raised OSError: größer", Flag.TRUNCATED, 0.5, 1e9)
    with Journal(tmp_path, SCHEMA) as journal:
        journal.append(step(0))
        journal.append(fault)
        journal.append(step(2))
        assert journal.next_sequence == 3
    first, second, third = segments.read(tmp_path)
    assert same(first, step(0)) and same(second, fault) and same(third, step(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sequence": 4}, "is number 0, not 4"),
        ({"obs": np.zeros(2, np.float32)}, r"obs of a real step has shape \(2,\)"),
        ({"sent": np.zeros((1, 2), np.float32)}, "sent of a real step"),
        ({"asked": np.zeros(2, np.int64)}, "type int64, not 2 floats"),
    ],
)
def test_a_step_of_another_form_is_refused_and_nothing_written(tmp_path, change, message):
    with Journal(tmp_path, SCHEMA) as journal:
        with pytest.raises(ValueError, match=message):
            journal.append(replace(step(0), **change))
        assert journal.next_sequence == 0
    assert not list(segments.read(tmp_path))


def test_a_cut_at_every_byte_of_three_records_leaves_the_longest_prefix(tmp_path):
    whole = written(tmp_path / "whole", 6)
    (path,) = segments.segments(whole)
    data = path.read_bytes()
    size = len(records.encode(step(0), SCHEMA))
    for cut in range(len(data) - 3 * size, len(data)):
        home = tmp_path / f"cut{cut}"
        home.mkdir()
        (home / path.name).write_bytes(data[:cut])
        complete = 6 - -(-(len(data) - cut) // size)
        assert is_prefix(list(segments.read(home)), complete)
        with Journal(home, SCHEMA) as journal:
            assert journal.next_sequence == journal.recovery.kept == complete
            torn = cut - (len(data) - (6 - complete) * size)
            assert journal.recovery.torn_bytes == torn and journal.recovery.stranded == 0
            if torn:
                assert journal.recovery.torn_file.read_bytes() == data[cut - torn : cut]
            journal.append(step(complete))
        assert is_prefix(list(segments.read(home)), complete + 1)


def test_ten_thousand_flipped_bits_never_give_a_wrong_record(tmp_path):
    (path,) = segments.segments(written(tmp_path, 5))
    data = path.read_bytes()
    size = len(records.encode(step(0), SCHEMA))
    head = len(data) - 5 * size
    rng = np.random.default_rng(0)
    for _ in range(10_000):
        byte, bit = int(rng.integers(len(data))), int(rng.integers(8))
        flipped = bytearray(data)
        flipped[byte] ^= 1 << bit
        path.write_bytes(flipped)
        assert is_prefix(list(segments.read(tmp_path)), 0 if byte < head else (byte - head) // size)


def test_damage_in_the_middle_keeps_the_later_records_beside(tmp_path):
    (path,) = segments.segments(written(tmp_path, 8))
    data = bytearray(path.read_bytes())
    size = len(records.encode(step(0), SCHEMA))
    data[len(data) - 5 * size + 30] ^= 1  # of record 3
    path.write_bytes(data)
    with Journal(tmp_path, SCHEMA) as journal:
        assert journal.recovery.kept == 3 and journal.recovery.stranded == 4
        assert journal.recovery.torn_file.read_bytes() == data[-5 * size :]


def test_damage_before_the_newest_segment_is_refused(tmp_path):
    first, *_ = segments.segments(written(tmp_path, 40, segment_bytes=1500))
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(JournalError, match=r"damaged at byte \d+ of \d+, and later segments follow"):
        Journal(tmp_path, SCHEMA)
    assert len(list(segments.read(tmp_path))) < 40


def test_a_missing_segment_is_refused(tmp_path):
    segments.segments(written(tmp_path, 40, segment_bytes=1500))[1].unlink()
    with pytest.raises(JournalError, match="a segment is missing"):
        Journal(tmp_path, SCHEMA)


@pytest.mark.parametrize("size", [0, 5, 40])
def test_a_crash_while_a_segment_begins_loses_nothing(tmp_path, size):
    written(tmp_path, 12, segment_bytes=10_000)
    head = segments.segment_head(SCHEMA, 12)
    (tmp_path / segments.segment_name(12)).write_bytes(head[:size])
    with Journal(tmp_path, SCHEMA) as journal:
        assert journal.next_sequence == 12
        journal.append(step(12))
    assert is_prefix(list(segments.read(tmp_path)), 13)


def test_another_robot_is_refused_with_the_difference(tmp_path):
    written(tmp_path, 3)
    with pytest.raises(JournalError, match=r"another robot's journal \(rate: 20\.0, not 50\.0\)"):
        Journal(tmp_path, replace(SCHEMA, rate=20.0))
    with pytest.raises(JournalError, match="action_high"):
        Journal(tmp_path, replace(SCHEMA, action_high=(1.0, 2.0)))
    assert from_json(SCHEMA.to_json()) == SCHEMA


def test_one_writer_at_a_time(tmp_path):
    with Journal(tmp_path, SCHEMA) as journal:
        with pytest.raises(JournalError, match=f"written by process {os.getpid()}"):
            Journal(tmp_path, SCHEMA)
        journal.append(step(0))
        assert is_prefix(list(segments.read(tmp_path)), 1)  # readers are welcome
    Journal(tmp_path, SCHEMA).close()


class FailingCall:
    """Stands for a call of `os` whose n-th use fails for want of space, a write after some bytes."""

    def __init__(self, name: str, n: int):
        self.name, self.n, self.real, self.count = name, n, getattr(os, name), 0

    @property
    def failed(self) -> bool:
        return self.count >= self.n

    def __call__(self, *arguments, **options):
        self.count += 1
        if self.count == self.n:
            if self.name == "write":
                self.real(arguments[0], bytes(arguments[1])[:7])
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.real(*arguments, **options)


@pytest.mark.parametrize("call", ["write", "fdatasync", "open", "fsync"])
def test_every_disk_fault_costs_only_what_was_not_acknowledged(tmp_path, monkeypatch, call):
    """The n-th call fails, for n = 1, 2, ... until none does."""
    for n in range(1, 100):
        home, acknowledged = tmp_path / str(n), 0
        with monkeypatch.context() as patch:
            faulty = FailingCall(call, n)
            patch.setattr(os, call, faulty)
            try:
                with Journal(home, SCHEMA, segment_bytes=600) as journal:
                    for number in range(6):
                        acknowledged = journal.append(step(number)) + 1
            except (JournalError, OSError) as error:
                assert "No space left" in str(error)
        with Journal(home, SCHEMA) as journal:
            assert journal.next_sequence == acknowledged
        assert is_prefix(list(segments.read(home)), acknowledged)
        if not faulty.failed:
            break
    assert n > 3 and acknowledged == 6


def test_after_a_failed_write_nothing_more_is_taken(tmp_path, monkeypatch):
    with Journal(tmp_path, SCHEMA) as journal:
        journal.append(step(0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
            with pytest.raises(JournalError, match="step 1 cannot be kept"):
                journal.append(step(1))
        with pytest.raises(JournalError, match="open the journal anew"):
            journal.append(step(1))


WRITER = """
import sys
from pathlib import Path
from tests.test_journal import SCHEMA, step
from hybrid_jax.real.journal import Journal
journal = Journal(Path(sys.argv[1]), SCHEMA, segment_bytes=4000)
print(journal.next_sequence, flush=True)
while True:
    print(journal.append(step(journal.next_sequence)), flush=True)
"""


def test_sigkill_at_random_moments_loses_no_acknowledged_step(tmp_path):
    rng = np.random.default_rng(0)
    acknowledged = -1
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        ) as child:
            assert int(child.stdout.readline()) >= acknowledged + 1
            for _ in range(int(rng.integers(1, 60))):
                acknowledged = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
            for line in child.stdout.read().splitlines(keepends=True):  # said before the kill
                acknowledged = int(line) if line.endswith("\n") else acknowledged
        found = list(segments.read(tmp_path))
        assert len(found) >= acknowledged + 1 and is_prefix(found, len(found))
    with Journal(tmp_path, SCHEMA) as journal:
        assert journal.recovery.stranded == 0
