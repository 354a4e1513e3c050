"""The gate against a hundred thousand hostile actions, hand numbers, and robots that declare too little."""

import re
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest

from hybrid_jax.real.gate import Gate, GateError, Limits, declared

LIMITS = Limits(
    low=np.array([-1.0, 0.0]), high=np.array([1.0, 0.5]), max_step=np.array([0.3, np.inf]), safe=np.array([0.0, 0.1])
)
OBS = np.zeros(3, np.float32)


def robot(**changes):
    """Something that declares its limits as a real environment does."""
    space = gymnasium.spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 0.5]), dtype=np.float64)
    return SimpleNamespace(**{"action_space": space, "max_action_step": 0.3, "safe_action": [0.0, 0.1]} | changes)


def hostile(rng: np.random.Generator):
    """NaN, infinities, denormals, huge numbers, jumps, other shapes and types, and some that are good."""
    specials = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 5e-324, 1e-40, 0.3, -0.0, 1.0, 3e38])
    pick = rng.integers(12)
    if pick < 5:
        return rng.choice(specials, 2)
    if pick < 9:
        return rng.normal(size=2) * 10.0 ** rng.integers(-3, 4)
    if pick == 9:
        return rng.normal(size=2).astype(np.float32)
    return [None, "stop", np.zeros(3), np.zeros((1, 2)), np.array([True, False]), [1, [2]], 1j * np.ones(2), []][
        rng.integers(8)
    ]


def test_a_hundred_thousand_hostile_actions_pass_as_harmless_ones():
    rng, gate = np.random.default_rng(0), Gate(LIMITS)
    last, limited, doubted = LIMITS.safe, 0, 0
    for _ in range(100_000):
        asked = hostile(rng)
        sent, changed, doubt = gate(asked, OBS)
        assert sent.dtype == np.float32 and sent.shape == (2,) and np.all(np.isfinite(sent))
        assert np.all(sent >= LIMITS.low) and np.all(sent <= LIMITS.high)
        if doubt is None:
            assert np.all(np.abs(np.float64(sent) - last) <= LIMITS.max_step)
            assert changed == (not np.array_equal(sent, np.asarray(asked, np.float32)))
        else:
            np.testing.assert_array_equal(sent, LIMITS.safe.astype(np.float32))
        last, limited, doubted = np.float64(sent), limited + changed, doubted + (doubt is not None)
    assert 0 < doubted < limited < 100_000


def test_actions_move_as_far_as_the_limits_allow():
    gate = Gate(LIMITS)
    sent = [gate([1.0, 2.0], OBS).sent for _ in range(5)]
    np.testing.assert_allclose(sent, [[0.3, 0.5], [0.6, 0.5], [0.9, 0.5], [1.0, 0.5], [1.0, 0.5]], atol=1e-6)
    assert gate([0.8, 0.2], OBS) == (pytest.approx([0.8, 0.2]), False, None)
    gate.reset()
    np.testing.assert_allclose(gate([-1.0, 0.0], OBS).sent, [-0.3, 0.0], atol=1e-6)


@pytest.mark.parametrize(
    ("asked", "obs", "doubt"),
    [
        ([np.nan, 0.0], OBS, "is not finite"),
        ([0.0, 0.0], np.array([0.0, np.inf]), "observation behind the action is not finite"),
        ([0.0], OBS, r"has shape \(1,\) and type float64, not 2 numbers"),
        (["a", "b"], OBS, "type <U1"),
    ],
)
def test_doubt_sends_the_safe_action_with_its_reason(asked, obs, doubt):
    sent, limited, reason = Gate(LIMITS)(asked, obs)
    np.testing.assert_array_equal(sent, np.float32([0.0, 0.1]))
    assert limited and re.search(doubt, reason)


def test_the_workspace_has_the_last_word():
    gate = Gate(LIMITS, workspace=lambda obs, action: obs[0] < 1.0 and action[0] <= 0.2)
    assert gate([0.2, 0.1], OBS).doubt is None
    assert "workspace forbids" in gate([0.3, 0.1], OBS).doubt
    assert "workspace forbids" in gate([0.1, 0.1], np.ones(3)).doubt


def test_bounds_hold_where_float32_cannot_say_them():
    third = Limits(np.array([-1 / 3]), np.array([1 / 3]), np.array([np.inf]), np.array([0.0]))
    gate = Gate(third)
    assert np.float64(gate([5.0], OBS).sent[0]) <= 1 / 3 and np.float64(gate([-5.0], OBS).sent[0]) >= -1 / 3


def test_declared_limits_are_read():
    limits = declared(robot())
    np.testing.assert_array_equal(limits.low, [-1.0, 0.0])
    np.testing.assert_array_equal(limits.max_step, [0.3, 0.3])
    np.testing.assert_array_equal(limits.safe, [0.0, 0.1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_space": gymnasium.spaces.Box(-np.inf, np.inf, (2,))}, "no finite action bounds"),
        ({"action_space": gymnasium.spaces.Discrete(3)}, "no finite action bounds"),
        ({"action_space": None}, "no finite action bounds"),
        ({"max_action_step": 0.0}, "must be positive"),
        ({"max_action_step": [0.1, 0.1, 0.1]}, "one number or 2"),
        ({"max_action_step": np.nan}, "must be positive"),
        ({"safe_action": [0.0, 0.9]}, "must lie inside"),
        ({"safe_action": [np.nan, 0.1]}, "must lie inside"),
    ],
)
def test_robots_without_sound_limits_are_refused(changes, message):
    with pytest.raises(GateError, match=message):
        declared(robot(**changes))


def test_a_robot_that_declares_no_largest_step_is_refused():
    env = robot()
    del env.max_action_step
    with pytest.raises(GateError, match=r"declares no max_action_step.*np\.inf says there is none"):
        declared(env)
