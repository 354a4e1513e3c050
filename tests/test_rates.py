"""The two rates in the compiled step: where rows come from, where they go, and that no change of them compiles anew."""

from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import point_mass
from hybrid_jax import mixing, schedules, trainer
from hybrid_jax.algorithms import h2o, sac
from hybrid_jax.mixing import Mixing, Rates
from hybrid_jax.scaling import Moments
from hybrid_jax.types import REAL, Algorithm, Batch, SimEnv, Spec, Step
from tests.oracles import rows as random_rows

SPEC = point_mass.SPEC
AMOUNTS = trainer.Rates(sims=4, unroll=6, updates=5, sim_capacity=240, pool=8)
SAC = sac.Config(hidden=(4,), batch_real=4, batch_sim=4, mixing="quotas")
GAINS = (1.0, 3.0, 4.0, 5.0)  # of the pretended reality and of three simulators
REAL_ROWS = 96


def _env(gain):
    return point_mass.make(point_mass.Constants(gain=gain))


def _made(mixed, algorithm=None, capacity=REAL_ROWS, amounts=AMOUNTS):
    sims = tuple(map(_env, GAINS[1:]))
    return trainer.make(SPEC, sims, algorithm or sac.make(SAC, SPEC), amounts, capacity, mixed, _env(GAINS[0]))


def _rates(q, beta):
    return Rates(mixing.simplex(q, "q"), mixing.simplex(beta, "beta"))


def _steady(q, beta):
    return schedules.constant(*_rates(q, beta))


@pytest.fixture(scope="module")
def program():
    """A run of four environments and its one compiled step."""
    made = _made(Mixing(_steady([0.25] * 4, [0.25] * 4)))
    return made, jax.jit(chex.assert_max_traces(made.step, n=1), donate_argnums=0)


def _run(program, asked, seed=0):
    """Iterations with these rates: the states and metrics after each."""
    made, step = program
    state = jax.jit(made.init)(jax.random.key(seed), None)
    states, told = [jax.device_get(state)], []
    for rates in asked:
        state, metrics = step(state, None, None, rates)
        states.append(jax.device_get(state))
        told.append(jax.device_get(metrics))
    return states, told


def test_an_iteration_spends_its_steps_by_q_and_its_draws_by_beta(program):
    q, beta = np.array([1, 2, 0, 3]) / 6, np.array([0.5, 0.125, 0.25, 0.125])
    states, told = _run(program, [_rates(q, beta)] * 4)
    added = [state.buffers.added for state in states]
    np.testing.assert_array_equal(np.diff(added, axis=0), [[4, 8, 0, 12]] * 4)  # 6 steps of 4 simulations, exactly by q
    drawn = np.diff([state.buffers.draws for state in states], axis=0)
    # Store 2 stays empty: its quarter of the 8 rows goes to the others as their own shares stand, 2 to 1/2 to 1/2.
    np.testing.assert_allclose(drawn.sum(0) / drawn.sum(), np.array([4, 1, 0, 1]) / 6, atol=0.04)
    assert np.all(drawn.sum(1) == 40) and np.all(drawn[:, 2] == 0)
    assert told[0]["store1/collected"] == pytest.approx(1 / 3) and told[0]["store1/size"] == 8
    for k in (0, 1, 3):
        assert told[-1][f"store{k}/drawn"] == pytest.approx(drawn[-1, k] / 40)
        assert told[-1][f"store{k}/reuse"] == pytest.approx(drawn[:, k].sum() / added[-1][k])


def test_a_thousand_changes_of_both_rates_take_one_trace(program):
    made, step = program  # its step may be traced once
    state = jax.jit(made.init)(jax.random.key(1), None)
    rng = np.random.default_rng(0)
    for q, beta in rng.dirichlet(np.full(4, 0.3), (1_000, 2)):
        state, _ = step(state, None, None, Rates(jnp.float32(q), jnp.float32(beta)))
    assert int(state.step) == 1_000


def test_rows_lie_in_the_store_of_the_environment_that_gave_them(program):
    (*_, last), _ = _run(program, [_rates([0.25] * 4, [0.25] * 4)] * 6)
    starts = np.cumsum((0, *program[0].capacities[:-1]))
    for k, gain in enumerate(GAINS):
        own = jax.tree.map(lambda leaf, k=k: leaf[starts[k] :][: last.buffers.size[k]], last.buffers.data)
        errors = []
        for other in GAINS:
            x, v, *_ = point_mass.dynamics(_env(other).model, own.obs, own.action)
            errors.append(np.abs(np.stack([x, v], -1) - own.next_obs).max())
        assert len(own.reward) and errors[GAINS.index(gain)] < 1e-5
        assert min(error for other, error in zip(GAINS, errors, strict=True) if other != gain) > 1e-3


def test_what_is_not_visited_stands_still(program):
    states, told = _run(program, [_rates([0, 1, 0, 0], [0.5, 0.5, 0, 0])])
    for k in (0, 2, 3):
        np.testing.assert_array_equal(states[0].sim[k].obs, states[1].sim[k].obs)
    assert np.all(states[0].sim[1].time != states[1].sim[1].time)
    assert told[0]["store0/drawn"] == 0 and told[0]["store1/drawn"] == 1  # reality has no row yet


def test_one_environment_for_a_whole_iteration():
    made = trainer.jitted(_made(Mixing(_steady([0.1, 0.3, 0.3, 0.3], [0.25] * 4), visits="store")))
    state, added = made.init(jax.random.key(0), None), []
    for _ in range(12):
        state, _ = made.step(state)
        added.append(np.asarray(state.buffers.added))
    new = np.diff(added, axis=0, prepend=0)
    assert set(new.max(1)) == {24} and np.all(new.sum(1) == 24)
    assert len(set(new.argmax(1))) > 1
    np.testing.assert_array_equal(state.collection.newest, new[-1].argmax())


@pytest.mark.parametrize(("newest", "expected"), [(False, [0.75, 0.25, 0, 0]), (True, [0.375, 0.625, 0, 0])])
def test_the_share_of_an_empty_store_may_go_to_the_one_filled_last(newest, expected):
    """Half of beta is store 3's, which stays empty; store 1 is filled behind store 0."""
    mixed = Mixing(_steady([1, 0, 0, 0], [0.375, 0.125, 0, 0.5]), newest_instead=newest)
    made = _made(mixed)
    step = jax.jit(made.step, donate_argnums=0)
    state = jax.jit(made.init)(jax.random.key(3), None)
    for q in ([1, 0, 0, 0], [0, 1, 0, 0]):
        before = np.asarray(state.buffers.draws)
        state, told = step(state, None, None, _rates(q, [0.375, 0.125, 0, 0.5]))
    drawn = np.asarray(state.buffers.draws) - before
    np.testing.assert_array_equal(drawn, 40 * np.array(expected))
    np.testing.assert_allclose([told[f"store{k}/beta"] for k in range(4)], expected, atol=1e-6)
    assert [told[f"store{k}/draws"] for k in range(4)] == np.asarray(state.buffers.draws).tolist()


def test_an_algorithm_of_fixed_counts_is_refused_with_rates():
    fixed = sac.make(sac.Config(hidden=(4,), batch_real=4, batch_sim=4), SPEC)
    with pytest.raises(ValueError, match="whatever beta is; set its mixing to quotas, rows or store"):
        _made(Mixing(_steady([0.25] * 4, [0.25] * 4)), fixed)


def test_a_learner_may_be_told_of_every_new_row_and_once():
    """The log at the start, what a robot hands in, a pretended reality and three simulators: nothing twice."""
    base = sac.make(SAC, SPEC)

    def observe(state, rows, count, key):
        valid = jnp.arange(rows.reward.shape[0]) < count
        count, total = state.delay
        total = total + jnp.sum(jnp.where(valid, rows.obs[:, 0], 0.0))
        return state._replace(delay=(count + jnp.sum(valid), total))

    init = lambda key: base.init(key)._replace(delay=(jnp.int32(0), jnp.float32(0)))  # noqa: E731
    told = base._replace(init=init, observe=observe)
    made = trainer.jitted(_made(Mixing(_steady([0.25] * 4, [0.25] * 4)), told))
    log = jax.tree.map(jnp.asarray, random_rows(20, SPEC))
    state = made.init(jax.random.key(0), log)
    given = jax.tree.map(lambda leaf: leaf[:7], log)
    for _ in range(3):
        state, _ = made.step(state, given, jnp.int32(5))
    count, total = state.algorithm.delay
    assert count == np.sum(state.buffers.added) == 20 + 3 * (5 + AMOUNTS.sims * AMOUNTS.unroll)
    ends = np.cumsum(made.capacities)
    kept = [state.buffers.data.obs[end - size : end - size + n, 0]
            for end, size, n in zip(ends, made.capacities, state.buffers.size, strict=True)]  # fmt: skip
    np.testing.assert_allclose(total, np.sum(np.concatenate(kept)), rtol=1e-4)


def test_seeds_in_one_program_go_by_the_rates_as_each_alone():
    mixed = Mixing(_steady([0.1, 0.3, 0.3, 0.3], [0.25] * 4), visits="store")
    alone, together = trainer.jitted(_made(mixed)), trainer.over_seeds(_made(mixed))
    state = together.init(jnp.stack([jax.random.key(seed) for seed in (3, 4)]), None)
    for _ in range(3):
        state, _ = together.step(state)
    for i, seed in enumerate((3, 4)):
        single = alone.init(jax.random.key(seed), None)
        for _ in range(3):
            single, _ = alone.step(single)
        np.testing.assert_array_equal(state.buffers.added[i], single.buffers.added)
        np.testing.assert_array_equal(state.buffers.draws[i], single.buffers.draws)
        np.testing.assert_allclose(state.buffers.data.obs[i], single.buffers.data.obs, atol=2e-5)


def test_updates_that_share_a_mix_fill_an_iteration():
    own = sac.make(SAC, SPEC)._replace(mix_every=2)
    with pytest.raises(ValueError, match=r"rates.updates is 5; the algorithm draws a mix for 2 updates"):
        _made(Mixing(_steady([0.25] * 4, [0.25] * 4)), own)


def test_a_schedule_sees_the_counts_of_the_run():
    """Reuse capped at 2: the draws of no store outgrow twice its rows while another one can take them."""
    steady = _steady([0.25, 0.75, 0, 0], [0.9, 0.1, 0, 0])
    amounts = replace(AMOUNTS, updates=3)  # 24 draws for 24 rows an iteration
    made = trainer.jitted(_made(Mixing(schedules.capped(steady, 2.0, 24)), capacity=1_000, amounts=amounts))
    state = made.init(jax.random.key(0), None)
    for _ in range(20):
        state, _ = made.step(state)
    draws, added = np.asarray(state.buffers.draws, float), np.asarray(state.buffers.added, float)
    assert draws[0] / added[0] <= 2.2 and draws[0] / added[0] > 1.5  # uncapped it would be 3.6
    assert draws.sum() == 20 * 24


# ------------------------------------------------------------------------------------------- H2O's weights on a mix


def _numbers(real: int, sim: int):
    rng = np.random.default_rng(0)
    rows = real + sim
    q, y = jnp.float32(rng.normal(size=(2, rows))), jnp.float32(rng.normal(size=rows))
    return q, y, jnp.float32(rng.uniform(0.1, 1, sim)), jnp.float32(rng.normal(size=sim)), rng.permutation(rows)


def test_h2os_loss_on_halves_does_not_depend_on_where_the_rows_lie():
    config = h2o.Config(batch_real=8, batch_sim=8, beta=0.7)
    q, y, w, u, order = _numbers(8, 8)
    all_w, all_u = (jnp.concatenate([jnp.full(8, jnp.nan), x])[order] for x in (w, u))
    mixed = partial(h2o.critic_loss, config, y=y[order], w=all_w, u=all_u, real=jnp.asarray(order < 8))
    told = h2o.critic_loss(config, q, y, w, u)
    chex.assert_trees_all_close(told, mixed(q[:, order]), rtol=1e-5)
    slopes = jax.grad(lambda q: h2o.critic_loss(config, q, y, w, u)[0])(q)
    np.testing.assert_allclose(slopes[:, order], jax.grad(lambda q: mixed(q)[0])(q[:, order]), rtol=1e-4, atol=1e-6)


def test_h2os_loss_weighs_the_worlds_by_their_rows():
    """2 mean w (q - y)^2 over all rows, w = 1 where real: three real rows of twelve are a quarter of it."""
    config = h2o.Config(batch_real=3, batch_sim=9, beta=0.0)
    q, y, w, u, _ = _numbers(3, 9)
    weight = np.concatenate([np.ones(3), w])
    whole = 2 * np.mean(weight * (np.asarray(q, np.float64) - np.asarray(y)) ** 2, axis=1).sum()
    padded = (jnp.concatenate([jnp.full(3, jnp.nan), x]) for x in (w, u))
    loss, _ = h2o.critic_loss(config, q, y, *padded, jnp.arange(12) < 3)
    np.testing.assert_allclose(loss, whole, rtol=1e-5)


def test_h2o_learns_at_any_rates_and_its_discriminators_see_both_worlds():
    config = h2o.Config(
        hidden=(4,), discriminator_hidden=(4,), batch_real=3, batch_sim=5, mixing="quotas",
        discriminator_batch_real=6, discriminator_batch_sim=8,
    )  # fmt: skip
    algorithm = h2o.make(config, SPEC, Moments(*np.ones((4, 2))))
    for beta, real, worlds in (
        ([0.25, 0.5, 0.25], 2, {1, 2}),
        ([1 - 2e-12, 1e-12, 1e-12], 8, {1, 2}),  # reality alone is wanted, but the simulators have rows
        ([0.0, 1.0, 0.0], 0, {1}),
    ):
        source = np.asarray(algorithm.mix(jax.random.key(0), jnp.float32(beta)))
        assert np.sum(source[:8] == REAL) == real
        assert np.all(source[8:14] == REAL) == (beta[0] > 0) and set(source[14:]) == worlds
    update = jax.jit(chex.assert_max_traces(algorithm.update, n=1))
    state = algorithm.init(jax.random.key(0))
    for i, beta in enumerate(([0.25, 0.5, 0.25], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0])):
        batch = Batch(random_rows(22, SPEC), algorithm.mix(jax.random.key(i), jnp.float32(beta)))
        state, metrics = update(state, batch, jax.random.key(i))
        chex.assert_tree_all_finite(metrics)


# ----------------------------------------------------------------------------------------------- episodes as rows

LINE = Spec(obs_size=2, action_size=1, episode_length=3, dt=1.0)


def _line(ends_early=False) -> SimEnv:
    """Counts its own steps; an episode has succeeded where its number, kept in the observation, is even."""

    def reset(model, key):
        number = jax.random.randint(key, (), 0, 1_000).astype(jnp.float32)
        obs = jnp.stack([number, jnp.float32(0)])
        return obs, obs

    def step(model, state, action):
        obs = state + jnp.array([0.0, 1.0])
        broken = ends_early & (obs[0] % 3 == 0) & (obs[1] == 2)
        return obs, Step(obs, obs[1], broken, jnp.zeros((), bool))

    return SimEnv(LINE, jnp.zeros(()), reset, step, success=lambda obs: obs[0] % 2 == 0)


def _watcher(every=1) -> Algorithm:
    """Learns nothing and tells the sources and the first row of each batch."""

    def update(state, batch, key):
        return state + 1, {"first": batch.source[0].astype(jnp.float32), "all": jnp.mean(batch.source * 1.0)}

    act = lambda policy, obs, key=None: jnp.zeros((obs.shape[0], 1))  # noqa: E731
    policy = lambda state: state  # noqa: E731
    mix = mixing.sources("store", 4)
    return Algorithm(lambda key: jnp.float32(0), update, policy, policy, act, act, mix, episodes=True, mix_every=every)


@pytest.mark.parametrize("ends_early", [False, True])
def test_whole_episodes_are_stored_in_order_and_broken_ones_are_not(ends_early):
    amounts = trainer.Rates(sims=5, unroll=6, updates=1, sim_capacity=300, pool=64)
    schedule = Mixing(_steady([0.0, 1.0], [0.0, 1.0]))
    made = trainer.jitted(trainer.make(LINE, (_line(ends_early),), _watcher(), amounts, 0, schedule))
    assert made.capacities == (1, 100)
    state = made.init(jax.random.key(0), None)
    seen = 0
    for _ in range(6):
        state, metrics = made.step(state)
        seen += 10
        size = int(state.buffers.size[1])
        rows = jax.tree.map(lambda leaf, size=size: np.asarray(leaf[1 : 1 + size]), state.buffers.data)
        assert rows.obs.shape == (size, 3, 2)
        np.testing.assert_array_equal(rows.obs[:, :, 1], np.tile([0, 1, 2], (size, 1)))
        np.testing.assert_array_equal(rows.next_obs[:, :, 1], np.tile([1, 2, 3], (size, 1)))
        assert np.all(rows.obs[:, :, 0] == rows.obs[:, :1, 0])  # one episode's number on all of its steps
    kept = np.asarray(rows.obs[:, 0, 0])
    if ends_early:  # those alone are missing: about a third, and no clock is out of phase behind them
        assert np.all(kept % 3 != 0) and abs(size / seen - 2 / 3) < 0.2
        assert np.all(np.asarray(state.sim[0].time) == 0)
    else:
        assert size == seen
        shares, average = [np.mean(kept[i : i + 10] % 2 == 0) for i in range(0, size, 10)], [0.0]
        for share in shares:
            average.append(average[-1] + 10 / 50 * (share - average[-1]))
        np.testing.assert_allclose(state.collection.success[1], average[-1], rtol=1e-5)
        np.testing.assert_allclose(state.collection.best[1], max(average), rtol=1e-5)
        assert metrics["sim1/succeeded"] == round(10 * shares[-1])


def test_several_updates_share_one_draw_of_the_mix():
    amounts = trainer.Rates(sims=2, unroll=3, updates=12, sim_capacity=30, pool=4)
    found = []
    for every in (1, 6):
        schedule = Mixing(_steady([0, 0.5, 0.5], [0, 0.5, 0.5]))
        algorithm = _watcher(every)

        def update(state, batch, key):
            return state.at[state[-1]].set(batch.source[0]).at[-1].add(1), {"loss": jnp.float32(0)}

        algorithm = algorithm._replace(update=update, init=lambda key: jnp.zeros(13, jnp.int32))
        made = trainer.jitted(trainer.make(LINE, (_line(), _line()), algorithm, amounts, 0, schedule))
        state = made.init(jax.random.key(5), None)
        state, _ = made.step(state)
        state, _ = made.step(state._replace(algorithm=jnp.zeros(13, jnp.int32)))
        found.append(np.asarray(state.algorithm[:12]))
    assert len(set(found[0][:6])) == 2
    assert len(set(found[1][:6])) == len(set(found[1][6:])) == 1


def test_episodes_need_whole_rollouts():
    amounts = trainer.Rates(sims=2, unroll=4, updates=1, sim_capacity=30, pool=4)
    with pytest.raises(
        ValueError, match=r"rates.unroll is 4; the algorithm stores whole episodes, give a multiple of 3"
    ):
        trainer.make(LINE, (_line(),), _watcher(), amounts, 0, Mixing(_steady([0, 1], [0, 1])))
