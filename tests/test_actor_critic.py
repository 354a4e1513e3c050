"""The shared step: ensembles, periods and what it hands out; and that each algorithm's file is its own."""

import importlib
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import jax
import numpy as np
import pytest

import hybrid_jax.algorithms
from hybrid_jax import actor_critic
from hybrid_jax.types import Spec
from tests import oracles

SPEC = Spec(obs_size=3, action_size=2, episode_length=10, dt=0.1)
# three critics of their own width, normalised; policy, targets and average move every second update
CONFIG = actor_critic.Config(
    batch_sim=6, hidden=(6,), critic_hidden=(5, 4), critics=3, layer_norm="after", discount=0.9, tau=0.1,
    target_entropy=-0.5, policy_average=0.8, actor_period=2, delayed_targets=True, actor_lr=1e-2, critic_lr=2e-2,
    temperature_lr=3e-2, reward_scale=0.5,
)  # fmt: skip
KEYS = jax.random.split(jax.random.key(3), 5)


@pytest.fixture(scope="module")
def parts():
    return actor_critic.parts(CONFIG, SPEC)


@pytest.fixture(scope="module")
def rows():
    return oracles.rows(6, SPEC)


@pytest.fixture(scope="module")
def updates(parts, rows):
    """The states before and after each of five updates, and their metrics."""
    step = jax.jit(lambda state, key: parts.step(state, rows, actor_critic.mean_squared_error, key))
    states, metrics = [oracles.apart(parts)], []
    for key in KEYS:
        state, told = step(states[-1], key)
        states.append(state)
        metrics.append(told)
    return states, metrics


def test_an_ensemble_of_three_against_numpy(rows, updates):
    """The target is the smallest of all; the loss is a sum over members."""
    states, metrics = updates
    wide = jax.tree.map(np.float64, rows)
    for state, told, key in zip(states, metrics, KEYS, strict=False):
        draw = oracles.normal(jax.random.split(key)[0], 6, 2)
        y, reward_max = oracles.soft_target(CONFIG, state, wide, draw, "after")
        q = oracles.ensemble_q(state.critics, wide.obs, wide.action, "after")
        assert q.shape == (3, 6)
        np.testing.assert_allclose(told["critic_loss"], np.sum(np.mean((q - y) ** 2, axis=1)), rtol=2e-5)
        np.testing.assert_allclose(told["reward_max"], reward_max, rtol=1e-5)


def test_delayed_parts_move_together_and_tell_their_newest_metrics(rows, updates):
    states, metrics = updates
    wide, losses = jax.tree.map(np.float64, rows), [0.0]
    for i, (old, new, told, key) in enumerate(zip(states, states[1:], metrics, KEYS, strict=False), start=1):
        if i % 2:
            for name in ("actor", "averaged_actor", "target_critics", "log_alpha"):
                oracles.assert_same(getattr(new, name), getattr(old, name))
        else:
            oracles.assert_moved(new.target_critics, old.target_critics, new.critics, 0.1)
            oracles.assert_moved(new.averaged_actor, old.averaged_actor, new.actor, 1 - 0.8**2)
            assert not np.array_equal(new.log_alpha, old.log_alpha)
            judge = old._replace(critics=new.critics)  # the policy is judged by the new critics
            draw = oracles.normal(jax.random.split(key)[1], 6, 2)
            losses.append(oracles.soft_policy_loss(old, judge, wide, draw, "after")[0])
        np.testing.assert_allclose(told["actor_loss"], losses[-1], rtol=2e-5, atol=1e-5)
        assert new.delay.count == i
        assert set(told) == set(metrics[0])  # an update tells the same names whether or not the policy moves


def test_start(parts):
    """Targets and average equal what they follow; each member and each width is its own."""
    state = jax.jit(parts.init)(KEYS[0])
    oracles.assert_same(state.target_critics, state.critics)
    oracles.assert_same(state.averaged_actor, state.actor)
    kernel = state.critics["params"]["Dense_0"]["kernel"]
    assert kernel.shape == (3, 5, 5) and state.actor["params"]["MLP_0"]["Dense_0"]["kernel"].shape == (3, 6)
    assert not np.array_equal(kernel[0], kernel[1])
    assert state.log_alpha == 0 and state.delay.count == 0


def test_what_is_handed_out(parts, updates):
    state = updates[0][-1]
    assert parts.policy(state) is state.actor and parts.deployed(state) is state.averaged_actor
    live = actor_critic.parts(replace(CONFIG, policy_average=0.0), SPEC)
    assert live.deployed(state) is state.actor
    plain = jax.eval_shape(actor_critic.parts(actor_critic.Config(), SPEC).init, KEYS[0])
    assert plain.averaged_actor == () and plain.delay == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_sim": 0}, "batch_real is 0 and batch_sim is 0; give counts >= 0, at least one of them positive"),
        ({"batch_real": -1}, "batch_real is -1 and batch_sim is 6"),
        ({"hidden": ()}, r"hidden is \(\); give at least one positive width"),
        ({"critic_hidden": (4, 0)}, r"critic_hidden is \(4, 0\); give at least one positive width"),
        ({"critics": 0}, "critics is 0; give at least 1"),
        ({"layer_norm": "inside"}, "layer_norm is 'inside'; use one of none, before, after"),
        ({"actor_lr": -1e-3}, "actor_lr is -0.001; give at least 0"),
        ({"critic_lr": float("nan")}, "critic_lr is nan; give at least 0"),
        ({"temperature_lr": -1.0}, "temperature_lr is -1.0; give at least 0"),
        ({"discount": 0.0}, r"discount is 0.0; give a number in \(0, 1\]"),
        ({"tau": float("nan")}, r"tau is nan; give a number in \(0, 1\]"),
        ({"initial_temperature": float("inf")}, "initial_temperature is inf; give a positive number"),
        ({"reward_scale": 0.0}, "reward_scale is 0.0; give a positive number"),
        ({"policy_average": 1.0}, r"policy_average is 1.0; give a decay in \[0, 1\)"),
        ({"actor_period": 0}, "actor_period is 0; give at least 1"),
        ({"actor_period": 1}, "delayed_targets is True, but actor_period is 1; give an actor_period of at least 2"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        actor_critic.parts(replace(CONFIG, **change), SPEC)


# the algorithms' files ----------------------------------------------------------------------------------------

FILES = sorted(path for path in Path(hybrid_jax.algorithms.__path__[0]).glob("*.py") if path.stem != "__init__")
RUN = 6  # lines that two files may not have in common, one after the other


def shared_run(one, other):
    """A run of RUN lines that both have, or None."""
    runs = {tuple(one[i : i + RUN]) for i in range(len(one) - RUN + 1)}
    return next((run for i in range(len(other)) if (run := tuple(other[i : i + RUN])) in runs), None)


def test_the_search_for_copies_finds_one():
    lines = [f"line {i}" for i in range(9)]
    assert shared_run(lines, ["x", *lines[2:8], "y"]) == tuple(lines[2:8])
    assert shared_run(lines, ["x", *lines[2:7], "y"]) is None


@pytest.mark.parametrize(("one", "other"), list(combinations(FILES, 2)), ids=lambda path: path.stem)
def test_no_algorithm_copies_another(one, other):
    lines = [path.read_text(encoding="utf-8").splitlines() for path in (one, other)]
    assert shared_run(*lines) is None  # as they stand, imports and blanks among them
    assert shared_run(*([line.strip() for line in each if line.strip()] for each in lines)) is None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_algorithm_is_a_page_that_names_its_paper_and_what_to_expect(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 150
    text = importlib.import_module(f"hybrid_jax.algorithms.{path.stem}").__doc__
    assert re.search(r"arXiv \d{4}\.\d{5}\b", text) and re.search(r"^To expect: \S", text, re.MULTILINE)
