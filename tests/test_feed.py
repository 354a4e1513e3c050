"""The feed against the journal's own rows, which carry their number in every field."""

from dataclasses import replace

import numpy as np
import pytest

from hybrid_jax.feed import Feed
from hybrid_jax.real.follow import Follower
from hybrid_jax.real.journal import Journal
from hybrid_jax.real.record import Fault, Flag
from hybrid_jax.real.segments import JournalError
from hybrid_jax.types import Spec
from tests.test_journal import SCHEMA, step

SPEC = Spec(obs_size=3, action_size=2, episode_length=100, dt=0.02)


def feed(folder, size: int, start: int = 0) -> Feed:
    return Feed(Follower(folder, SCHEMA, start), SPEC, size)


def numbers(chunk) -> list[int]:
    """The rows' sequence numbers, from their first observation."""
    return [int(obs[0] // 10) for obs in chunk.rows.obs[: chunk.count]]


def test_rows_come_once_and_in_order_in_chunks_of_one_shape(tmp_path):
    with Journal(tmp_path, SCHEMA, segment_bytes=1500) as journal:
        source = feed(tmp_path, 4)
        seen = []
        for n in range(30):
            journal.append(step(n))
            if n % 3 == 2:
                chunk = source.take(journal.next_sequence)
                assert all(leaf.shape[0] == 4 and leaf.dtype == np.float32 for leaf in chunk.rows)
                assert all(np.all(leaf[chunk.count :] == 0) for leaf in chunk.rows)
                seen += numbers(chunk)
        while source.watermark < 30:
            seen += numbers(source.take(30))
    assert seen == list(range(30)) and source.rows == 30
    assert source.take(30).count == 0 and source.take(30).newest_policy == -1


def test_a_chunk_holds_what_the_robot_was_sent(tmp_path):
    ended = replace(step(1), flags=Flag.TERMINATED)
    cut = replace(step(2), flags=Flag.TRUNCATED)
    with Journal(tmp_path, SCHEMA) as journal:
        for each in (step(0), ended, cut):
            journal.append(each)
    chunk = feed(tmp_path, 5).take(3)
    np.testing.assert_array_equal(chunk.rows.action[:3], [[4, 4], [14, 14], [24, 24]])
    np.testing.assert_array_equal(chunk.rows.reward[:3], [5, 15, 25])
    np.testing.assert_array_equal(chunk.rows.next_obs[:3, 0], [6, 16, 26])
    np.testing.assert_array_equal(chunk.rows.discount[:3], [1, 0, 1])  # a time limit is no end of the task
    assert chunk.newest_policy == 14


def test_faults_gaps_and_frozen_sensors_are_passed_over(tmp_path):
    with Journal(tmp_path, SCHEMA) as journal:
        journal.append(step(0))
        journal.append(Fault(1, 0, 1, "lost"))
        journal.append(replace(step(2), flags=Flag.GAP | Flag.LATE))
        journal.append(replace(step(3), flags=Flag.FROZEN))
        journal.append(replace(step(4), flags=Flag.LATE))
    source = feed(tmp_path, 10)
    assert numbers(source.take(5)) == [0, 4]
    assert (source.rows, source.skipped, source.watermark) == (2, 2, 5)


def test_what_is_not_on_disk_cannot_be_taken(tmp_path):
    with Journal(tmp_path, SCHEMA) as journal:
        journal.append(step(0))
        source = feed(tmp_path, 10)
        with pytest.raises(JournalError, match="record 1 is not on disk, asked for up to 2"):
            source.take(2)
        assert numbers(source.take(1)) == [0]  # nothing was lost by asking for too much
    with pytest.raises(JournalError, match="record 1 is not on disk"):
        feed(tmp_path, 10, start=7)


def test_a_later_feed_goes_on_from_its_watermark(tmp_path):
    with Journal(tmp_path, SCHEMA, segment_bytes=1500) as journal:
        for n in range(40):
            journal.append(step(n))
    assert numbers(feed(tmp_path, 100, start=23).take(40)) == list(range(23, 40))


def test_a_chunk_must_hold_something(tmp_path):
    with Journal(tmp_path, SCHEMA) as journal:
        journal.append(step(0))
    with pytest.raises(ValueError, match="a chunk of 0 rows"):
        feed(tmp_path, 0)
