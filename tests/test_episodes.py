"""Whole episodes out of hand-made records."""

from dataclasses import replace

import numpy as np

from hybrid_jax.real.episodes import Episodes
from hybrid_jax.real.record import Fault, Flag
from tests.test_journal import step


def at(sequence: int, episode: int, number: int, flags: Flag = Flag(0)):
    return replace(step(sequence), episode=episode, step=number, flags=flags)


def test_an_episode_is_its_steps_from_first_to_last():
    episodes = Episodes()
    ends = [
        episodes.add(record)
        for record in (at(0, 3, 0), at(1, 3, 1, Flag.GREEDY), at(2, 3, 2, Flag.TERMINATED), at(3, 4, 0, Flag.TRUNCATED))
    ]
    assert ends[:2] == [None, None]
    first, second = ends[2:]
    np.testing.assert_array_equal(first.obs[:, 0], [step(0).obs[0], *(step(n).next_obs[0] for n in range(3))])
    np.testing.assert_array_equal(first.actions, [step(n).sent for n in range(3)])
    assert first.total == sum(step(n).reward for n in range(3))
    assert first.terminated and not first.greedy and not second.terminated and len(second.rewards) == 1


def test_what_began_earlier_or_was_broken_off_is_left_out():
    episodes = Episodes()
    broken = [
        at(0, 1, 5),
        at(1, 1, 6, Flag.TRUNCATED),
        at(2, 2, 0),
        Fault(3, 2, 1, "lost"),
        at(4, 2, 1, Flag.TRUNCATED),
    ]
    assert [episodes.add(record) for record in broken] == [None] * 5
    assert episodes.add(at(5, 3, 0)) is None
    assert episodes.add(at(6, 4, 0)) is None  # the third was never ended
    whole = episodes.add(at(7, 4, 1, Flag.TRUNCATED | Flag.GREEDY))
    assert whole is not None and len(whole.rewards) == 2


def test_greedy_episodes_are_those_of_greedy_steps_alone():
    episodes = Episodes()
    episodes.add(at(0, 0, 0, Flag.GREEDY))
    assert episodes.add(at(1, 0, 1, Flag.GREEDY | Flag.TRUNCATED)).greedy
