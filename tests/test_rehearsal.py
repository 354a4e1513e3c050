"""The rehearsal robot's lasting ills against the same robot without them."""

import time

import numpy as np
import pytest

from envs import rehearsal

BASE = "envs.point_mass:make_real"


def driven(steps: int = 40, **ills) -> np.ndarray:
    """The observations [steps + 1, 2] of one episode under a fixed script of actions."""
    robot = rehearsal.make(base=BASE, **ills)
    obs = [robot.reset(seed=3)[0]]
    obs += [robot.step(np.array([action]))[0] for action in actions(steps)]
    return np.stack(obs)


def actions(steps: int) -> np.ndarray:
    return np.sin(0.7 * np.arange(steps))


@pytest.fixture(scope="module")
def well():
    return driven()


def test_without_ills_it_is_the_robot_inside(well):
    inside = rehearsal.make(base=BASE).env
    obs = [inside.reset(seed=3)[0]] + [inside.step(np.array([action]))[0] for action in actions(40)]
    np.testing.assert_array_equal(well, obs)


def test_actions_arrive_late(well):
    """Two steps of the safe action first, then the script."""
    inside = rehearsal.make(base=BASE).env
    late = np.concatenate([[0.0, 0.0], actions(38)])
    obs = [inside.reset(seed=3)[0]] + [inside.step(np.array([action]))[0] for action in late]
    np.testing.assert_array_equal(driven(action_delay=2), obs)


def test_observations_arrive_late(well):
    """The first one comes again until what was seen arrives."""
    late = driven(obs_delay=3)
    np.testing.assert_array_equal(late[:4], np.repeat(well[:1], 4, axis=0))
    np.testing.assert_array_equal(late[4:], well[1:-3])


def test_noise_has_its_size_and_no_memory(well):
    noise = (driven(noise=0.1) - well)[1:]
    assert noise.std() == pytest.approx(0.1, rel=0.25) and abs(noise.mean()) < 0.04


def test_dropped_frames_repeat_the_last_one(well):
    seen = driven(dropped=0.5)
    fresh = np.all(seen[1:] == well[1:], axis=1)
    assert 10 <= fresh.sum() <= 30
    for n in np.flatnonzero(~fresh):
        np.testing.assert_array_equal(seen[n + 1], seen[n])


def test_answers_take_their_time():
    begun = time.monotonic()
    driven(steps=50, jitter=0.01)
    assert 0.25 < time.monotonic() - begun < 2.0
