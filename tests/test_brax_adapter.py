"""The adapter on brax's own environments: nothing is reset behind the rollout's back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax import envs as brax_envs
from brax.envs.base import PipelineEnv, State, Wrapper

from envs import brax_adapter
from hybrid_jax import rollout


class Counter(PipelineEnv):
    """A brax environment that counts its steps and is done at the fourth."""

    def __init__(self):
        self._n = 0

    observation_size = 1
    action_size = 1
    dt = 0.1

    def reset(self, rng):
        assert rng.dtype == jnp.uint32  # brax takes raw keys
        zero = jnp.zeros(())
        return State(pipeline_state=None, obs=jnp.zeros(1), reward=zero, done=zero)

    def step(self, state, action):
        count = state.obs[0] + 1
        return state.replace(obs=count[None], reward=action[0], done=jnp.where(count == 4, 1.0, 0.0))


def test_the_true_successor_survives_the_end_of_an_episode():
    env = brax_adapter.make(Counter(), episode_length=100)
    state = rollout.init(env, jax.random.key(0), 3, 2)
    still = lambda obs, key: jnp.full((obs.shape[0], 1), 0.5)  # noqa: E731
    _, rows, valid, stats = rollout.rollout(env, still, state, jax.random.key(1), 8)
    assert valid.all()
    np.testing.assert_array_equal(rows.obs[:, 0, 0], [0, 1, 2, 3, 0, 1, 2, 3])
    np.testing.assert_array_equal(rows.next_obs[:, 0, 0], [1, 2, 3, 4, 1, 2, 3, 4])
    np.testing.assert_array_equal(rows.discount[:, 0], [1, 1, 1, 0, 1, 1, 1, 0])
    np.testing.assert_array_equal(rows.reward, 0.5)
    assert stats.episodes == 6 == stats.terminated


# brax reads contacts by a name that MJX has deprecated
@pytest.mark.filterwarnings("ignore:Accessing `ncon` directly:DeprecationWarning")
def test_a_real_brax_task_steps_as_brax_itself():
    with pytest.warns(UserWarning, match="not actively being maintained"):
        bare = brax_envs.get_environment("inverted_pendulum", backend="generalized")
    env = brax_adapter.make(bare)
    assert env.spec[:2] == (bare.observation_size, bare.action_size)
    key, action = jax.random.key(5), jnp.array([0.3])
    with jax.numpy_rank_promotion("allow"):  # brax broadcasts ranks inside
        state, obs = jax.jit(env.reset)(env.model, key)
        theirs = jax.jit(bare.step)(state, action)
        _, out = jax.jit(env.step)(env.model, state, action)
    np.testing.assert_array_equal(obs, state.obs)
    np.testing.assert_array_equal(out.obs, theirs.obs)
    assert float(out.reward) == float(theirs.reward)


def test_wrapped_and_dict_environments_are_refused():
    with pytest.raises(ValueError, match="is a brax wrapper"):
        brax_adapter.make(Wrapper(Counter()))
    fancy = Counter()
    fancy.__class__ = type("Fancy", (Counter,), {"observation_size": {"state": 3}})
    with pytest.raises(ValueError, match="only one vector"):
        brax_adapter.make(fancy)
