"""The compiled step: one trace, no transfer, exact counts, seeds in one program or one after the other."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import point_mass
from hybrid_jax import trainer
from hybrid_jax.algorithms import h2o, sac
from hybrid_jax.scaling import Moments
from hybrid_jax.types import REAL, Transition

SPEC = point_mass.SPEC
RATES = trainer.Rates(sims=4, unroll=5, updates=3, sim_capacity=64, pool=8)


def _rows(count, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return Transition(draw(count, 2), np.tanh(draw(count, 1)), draw(count), np.ones(count, np.float32), draw(count, 2))


def _algorithm():
    config = h2o.Config(
        hidden=(8,),
        discriminator_hidden=(8,),
        batch_real=4,
        batch_sim=4,
        discriminator_batch_real=6,
        discriminator_batch_sim=6,
    )
    return h2o.make(config, SPEC, Moments(*np.ones((4, 2))))


def _trainer(sims=1):
    worlds = tuple(point_mass.make(point_mass.Constants(gain=4.0 + k)) for k in range(sims))
    return trainer.make(SPEC, worlds, _algorithm(), RATES, 40)


@pytest.fixture(scope="module")
def trained():
    """Five iterations, with the state after each; the step may be traced once."""
    made = _trainer()
    step = jax.jit(chex.assert_max_traces(made.step, n=1), donate_argnums=0)
    state = jax.jit(made.init)(jax.random.key(0), _rows(40))
    states, metrics = [jax.device_get(state)], []
    for _ in range(5):
        with jax.transfer_guard("disallow"):
            state, out = step(state)
        states.append(jax.device_get(state))
        metrics.append(jax.device_get(out))
    return states, metrics


def test_the_state_keeps_its_form_and_stays_finite(trained):
    states, metrics = trained
    chex.assert_trees_all_equal_shapes_and_dtypes(*states)
    numbers = [leaf for leaf in jax.tree.leaves(states) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    chex.assert_tree_all_finite(numbers)
    chex.assert_tree_all_finite(metrics)
    assert [int(state.step) for state in states] == [0, 1, 2, 3, 4, 5]


def test_stores_fill_and_rows_are_drawn_in_exact_numbers(trained):
    states, metrics = trained
    np.testing.assert_array_equal([state.buffers.size for state in states], [[40, s] for s in (0, 20, 40, 60, 64, 64)])
    np.testing.assert_array_equal(states[-1].buffers.draws, [5 * 3 * 10, 5 * 3 * 10])
    assert metrics[-1]["store1/size"] == 64


def test_the_log_of_real_data_is_never_changed(trained):
    states, _ = trained
    for leaf, rows in zip(*map(jax.tree.leaves, (states[-1].buffers.data, _rows(40))), strict=True):
        np.testing.assert_array_equal(leaf[:40], rows)


def test_simulated_rows_obey_the_simulator_and_real_ones_do_not(trained):
    data = trained[0][-1].buffers.data
    x, v, *_ = point_mass.dynamics(point_mass.make().model, data.obs, data.action)
    error = np.abs(np.stack([x, v], -1) - data.next_obs).max(axis=-1)
    assert error[40:].max() < 1e-5
    assert error[:40].min() > 1e-3


def test_the_same_key_gives_the_same_run_and_another_key_another():
    made = trainer.jitted(_trainer())
    ends = []
    for seed in (0, 0, 1):
        state = made.init(jax.random.key(seed), _rows(40))
        for _ in range(2):
            state, _ = made.step(state)
        ends.append(jax.device_get(state.algorithm))
    chex.assert_trees_all_equal(ends[0], ends[1])
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(ends[0], ends[2])


def test_seeds_in_one_program_learn_as_each_alone():
    alone, together = trainer.jitted(_trainer()), trainer.over_seeds(_trainer())
    keys = jnp.stack([jax.random.key(seed) for seed in (3, 4)])
    state = together.init(keys, _rows(40))
    for _ in range(2):
        state, metrics = together.step(state)
    assert metrics["critic_loss"].shape == (2,)
    for i, seed in enumerate((3, 4)):
        single = alone.init(jax.random.key(seed), _rows(40))
        for _ in range(2):
            single, _ = alone.step(single)
        mine = jax.tree.map(lambda leaf, i=i: leaf[i], state)
        chex.assert_trees_all_close(mine.algorithm, single.algorithm, atol=2e-5)
        chex.assert_trees_all_close(mine.buffers.data, single.buffers.data, atol=2e-5)


def test_collect_then_learn_are_the_whole_step():
    made = _trainer()
    run = trainer.jitted(made)
    state, metrics = run.step(run.init(jax.random.key(0), _rows(40)))
    halves, collected = jax.jit(made.collect)(run.init(jax.random.key(0), _rows(40)))
    halves, learned = jax.jit(made.learn)(halves)
    ends = [jax.device_get(end._replace(key=jax.random.key_data(end.key))) for end in (state, halves)]
    chex.assert_trees_all_equal(*ends)
    chex.assert_trees_all_equal(metrics, learned | collected)


def test_two_simulators_fill_their_own_stores():
    made = trainer.jitted(_trainer(sims=2))
    state, metrics = made.step(made.init(jax.random.key(0), _rows(40)))
    np.testing.assert_array_equal(state.buffers.size, [40, 20, 20])
    for k in (1, 2):
        start = 40 + 64 * (k - 1)
        mine = jax.tree.map(lambda leaf, start=start: np.asarray(leaf[start : start + 20]), state.buffers.data)
        constants = point_mass.make(point_mass.Constants(gain=3.0 + k)).model
        x, v, *_ = point_mass.dynamics(constants, mine.obs, mine.action)
        np.testing.assert_allclose(mine.next_obs, np.stack([x, v], -1), atol=1e-5)
    assert {"sim1/episodes", "sim2/episodes"} <= set(metrics)


def test_live_real_rows_enter_with_their_count_and_without_a_retrace():
    algorithm = sac.make(sac.Config(hidden=(8,), batch_real=4, batch_sim=0), SPEC)
    made = trainer.make(SPEC, (), algorithm, trainer.Rates(updates=2), 16)
    step = jax.jit(chex.assert_max_traces(made.step, n=1), donate_argnums=0)
    state = jax.jit(made.init)(jax.random.key(0), None)
    stored = []
    for i, count in enumerate((5, 0, 3, 5)):
        rows = _rows(5, seed=i)
        state, _ = step(state, rows, jnp.int32(count))
        stored += list(rows.reward[:count])
    assert int(state.buffers.size[REAL]) == 13
    np.testing.assert_array_equal(state.buffers.data.reward[:13], stored)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"updates": 0}, "rates.updates is 0; it must be at least 1"),
        ({"sims": 30}, "= 150 rows an iteration do not fit into rates.sim_capacity 64"),
    ],
)
def test_rates_that_do_not_fit_are_refused(change, message):
    rates = trainer.Rates(**vars(RATES) | change)
    with pytest.raises(ValueError, match=message):
        trainer.make(SPEC, (point_mass.make(),), _algorithm(), rates, 40)


def test_a_simulator_of_another_task_is_refused():
    with pytest.raises(ValueError, match="both must be one task"):
        trainer.make(SPEC._replace(obs_size=3), (point_mass.make(),), _algorithm(), RATES, 40)


def test_the_first_simulated_actions_are_uniform_where_asked_for():
    """Of a policy that always pushes to the right, two iterations show nothing, the third all."""
    pushing = sac.make(sac.Config(hidden=(8,), batch_sim=4), SPEC)
    pushing = pushing._replace(explore=lambda policy, obs, key: jnp.full((obs.shape[0], 1), 0.5))
    rates = trainer.Rates(sims=50, unroll=10, updates=1, sim_capacity=500, pool=8, random=2)
    made = trainer.jitted(trainer.make(SPEC, (point_mass.make(),), pushing, rates, 0))
    state = made.init(jax.random.key(0), None)
    for iteration in range(3):
        state, _ = made.step(state)
        actions = np.asarray(state.buffers.data.action[1:])  # row 0 is the empty real store's
        if iteration < 2:
            np.testing.assert_allclose(actions.std(), 1 / np.sqrt(3), atol=0.03)
            assert -1 <= actions.min() < -0.98 and 0.98 < actions.max() <= 1
        else:
            np.testing.assert_array_equal(actions, 0.5)
    with pytest.raises(ValueError, match=r"rates.random is -1; it must be at least 0"):
        trainer.make(SPEC, (point_mass.make(),), pushing, rates.__class__(random=-1), 0)
