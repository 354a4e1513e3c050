"""The feed against the journal's own rows, which carry their number in every field."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from hybrid_jax.feed import Before, Caps, Feed, Recorded, Synchronous, Threaded
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
                assert all(leaf.shape[0] == 4 and leaf.dtype == np.float32 for leaf in jax.tree.leaves(chunk.rows))
                assert all(np.all(leaf[chunk.count :] == 0) for leaf in jax.tree.leaves(chunk.rows))
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


class Scripted:
    """A robot whose steps are those of the journal's tests; it counts what it is asked for."""

    def __init__(self, journal):
        self.journal, self.policies, self.asked, self.waits = journal, [], [], 0

    @property
    def watermark(self) -> int:
        return self.journal.next_sequence

    def set_policy(self, params, version):
        self.policies.append((params, version))

    def collect(self, steps):
        self.asked.append(steps)
        for _ in range(steps):
            self.journal.append(step(self.watermark))
        return self.watermark

    def wait(self, watermark, timeout):
        self.waits += 1
        return self.collect(1)


def test_synchronous_collects_then_learns_and_takes_first_what_is_there(tmp_path):
    with Journal(tmp_path, SCHEMA) as journal:
        robot = Scripted(journal)
        robot.collect(5)  # as a stopped run left them
        source = Synchronous(robot, feed(tmp_path, 4), policy_every=2)
        robot.asked.clear()
        chunks = [numbers(source.next(lambda n=n: n, 100 * n)) for n in range(4)]
    assert chunks == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert robot.asked == [3, 4, 4]
    assert robot.policies == [(0, 0), (2, 200)]


def test_a_recorded_robot_gives_the_same_chunks_again_and_then_ends(tmp_path):
    with Journal(tmp_path, SCHEMA) as journal:
        source = Synchronous(Scripted(journal), feed(tmp_path, 3), policy_every=1)
        live = [source.next(dict, 0) for _ in range(4)]
        again = Synchronous(Recorded(journal.next_sequence), feed(tmp_path, 3), policy_every=1)
        for chunk in live:
            for ours, theirs in zip(*map(jax.tree.leaves, (again.next(dict, 0).rows, chunk.rows)), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        with pytest.raises(JournalError, match="the recording ends after 12 records; 3 more"):
            again.next(dict, 0)


def test_threaded_never_waits_without_a_cap(tmp_path):
    with Journal(tmp_path, SCHEMA) as journal:
        robot = Scripted(journal)
        robot.collect(1)
        source = Threaded(robot, feed(tmp_path, 4), policy_every=3, caps=Caps(real_draws=100), before=Before(rows=1))
        counts = [source.next(dict, 10 * n).count for n in range(5)]
    assert counts == [1, 0, 0, 0, 0] and robot.waits == 0
    assert [version for _, version in robot.policies] == [0, 30]


def test_threaded_waits_where_learning_would_run_ahead(tmp_path):
    with Journal(tmp_path, SCHEMA) as journal:
        robot = Scripted(journal)
        robot.collect(1)
        caps = Caps(real_draws=2, max_updates_without_real=25)
        source = Threaded(robot, feed(tmp_path, 4), 1, caps, Before(rows=10))
        counts = [int(source.next(dict, 10 * n).count) for n in range(7)]
        assert counts == [1, 0, 0, 1, 0, 0, 1] and robot.waits == 2  # at 30 and at 60 updates
    other = tmp_path / "reuse"
    with Journal(other, SCHEMA) as journal:
        robot = Scripted(journal)
        robot.collect(1)
        # 2 draws an update, 4 draws a row at most: 2 rows carry 4 updates
        source = Threaded(robot, feed(other, 4), 1, Caps(real_draws=2, max_reuse=4.0), Before(rows=1))
        counts = [int(source.next(dict, n).count) for n in range(9)]
        assert counts == [1, 0, 0, 0, 0, 1, 0, 1, 0]
        assert all(2 * n <= 4.0 * (1 + sum(counts[: n + 1])) for n in range(9))


def test_what_a_cap_waits_for_is_a_good_row(tmp_path):
    """A fault and a skipped step wake the learner and let it go on waiting."""
    with Journal(tmp_path, SCHEMA) as journal:
        robot = Scripted(journal)
        bad = [Fault(0, 0, 0, "lost"), replace(step(1), flags=Flag.FROZEN)]

        def wait(watermark, timeout):
            robot.waits += 1
            return journal.append(bad.pop(0)) + 1 if bad else robot.collect(1)

        robot.wait = wait
        source = Threaded(robot, feed(tmp_path, 4), 1, Caps(2, max_updates_without_real=25), Before(rows=10))
        assert source.next(dict, 20).count == 0 and robot.waits == 0
        assert numbers(source.next(dict, 30)) == [2] and robot.waits == 3


def test_nothing_is_learned_from_an_empty_store(tmp_path):
    with Journal(tmp_path / "a", SCHEMA) as journal:
        for n in range(4):
            journal.append(replace(step(n), flags=Flag.GAP))
        source = Synchronous(Scripted(journal), feed(tmp_path / "a", 4), policy_every=1)
        assert numbers(source.next(dict, 0)) == [4, 5, 6, 7]
    with Journal(tmp_path / "b", SCHEMA) as journal:
        journal.append(replace(step(0), flags=Flag.GAP))
        source = Threaded(Scripted(journal), feed(tmp_path / "b", 4), 1, Caps(2))
        first = source.next(dict, 0)
        assert numbers(first) == [1, 2, 3]
