"""Bad updates are left out, counted and named; the good ones are those of a plain loop without the bad."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import point_mass
from hybrid_jax import buffers, guards, trainer
from hybrid_jax.algorithms import h2o, sac
from hybrid_jax.scaling import Moments
from hybrid_jax.types import Algorithm, BufferState, Guards, TrainState, Transition

SPEC = point_mass.SPEC
ROWS, UPDATES, ITERATIONS = 2000, 100, 10
KEY = jax.random.key(5)


def _rows(count, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return Transition(draw(count, 2), np.tanh(draw(count, 1)), draw(count), np.ones(count, np.float32), draw(count, 2))


def _sac():
    config = sac.Config(hidden=(4,), batch_real=4, batch_sim=0, policy_average=0.9, entropy_in_backup=False)
    return sac.make(config, SPEC)


def _poisoned(rows, index, field="reward", value=np.nan):
    leaf = getattr(rows, field).copy()
    leaf[index] = value
    return rows._replace(**{field: leaf})


def _bits(tree):
    """Numbers of every leaf, keys as their data: NaN equals itself, and -0 is not 0."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x).tobytes() for x in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def run():
    return trainer.jitted(trainer.make(SPEC, (), _sac(), trainer.Rates(updates=UPDATES), ROWS))


@pytest.fixture(scope="module")
def drawn(run):
    """(row numbers [4], key) of each update of a run, by the stores' own sampling from rows that are their number."""
    store, mix = buffers.multi_buffer((ROWS,)), _sac().mix
    none = jnp.zeros(1, jnp.uint32)
    numbers = BufferState(jnp.arange(ROWS), jnp.zeros(1, jnp.int32), jnp.array([ROWS]), none, none)

    @jax.jit
    def one(key):
        mix_key, sample_key, update_key = jax.random.split(key, 3)
        return store.sample(numbers, sample_key, mix(mix_key))[1].rows, update_key

    key, found = run.init(KEY, _rows(ROWS)).key, []
    for _ in range(ITERATIONS):
        _, key = jax.random.split(key)  # collect's
        learn_key, key = jax.random.split(key)
        found += [one(update_key) for update_key in jax.random.split(learn_key, UPDATES)]
    return [(np.asarray(numbers), key) for numbers, key in found]


@pytest.mark.parametrize("times", [1, 4])
def test_a_poisoned_row_costs_the_updates_that_draw_it_and_no_other(run, drawn, times):
    in_updates = np.bincount(np.concatenate([np.unique(numbers) for numbers, _ in drawn]), minlength=ROWS)
    row = int(np.flatnonzero(in_updates == times)[0])
    rows = _poisoned(_rows(ROWS), row)
    state, told = run.init(KEY, rows), []
    for _ in range(ITERATIONS):
        state, metrics = run.step(state)
        told.append(jax.device_get(metrics))

    update = jax.jit(_sac().update)
    learner = jax.jit(_sac().init)(jax.random.split(KEY, 3)[0])
    kept, counts = [], []
    for i, (numbers, key) in enumerate(drawn):
        if i % UPDATES == 0:
            kept.append([])
            counts.append(0)
        if row in numbers:
            counts[-1] += 1
            continue
        batch = jax.tree.map(lambda leaf, numbers=numbers: leaf[numbers], rows)
        learner, metrics = update(learner, buffers.Batch(batch, np.zeros(4, np.int32)), key)
        kept[-1].append(metrics)

    assert sum(counts) == times == int(state.guards.skipped)
    assert [metrics["guard/skipped"] for metrics in told] == counts
    chex.assert_trees_all_close(state.algorithm, learner, rtol=1e-6, atol=1e-7)
    for metrics, mine in zip(told, jax.device_get(kept), strict=True):
        for name in ("critic_loss", "entropy"):
            np.testing.assert_allclose(metrics[name], np.mean([each[name] for each in mine]), rtol=1e-5)
        for name in ("q_max", "reward_max"):
            np.testing.assert_allclose(metrics[name], np.max([each[name] for each in mine]), rtol=1e-5)
        assert guards.culprit(metrics) == ("critic_loss" if metrics["guard/skipped"] else None)
        guards.check(metrics, UPDATES, 0)


def test_a_thousand_bad_updates_change_nothing_and_the_run_stops_at_the_limit(run):
    state = run.init(KEY, _poisoned(_rows(ROWS), slice(None)))
    before = _bits(state.algorithm)
    for done in range(1, ITERATIONS + 1):
        state, metrics = run.step(state)
        assert metrics["guard/in_a_row"] == done * UPDATES
    assert _bits(state.algorithm) == before
    assert (int(state.guards.skipped), int(state.guards.in_a_row), int(state.buffers.draws[0])) == (1000, 1000, 4000)
    assert math.isnan(metrics["critic_loss"]) and math.isnan(metrics["q_max"])
    guards.check(jax.device_get(metrics), 1000, 1000)
    with pytest.raises(guards.BadUpdates, match=r"1000 updates in a row were not finite.* first sign is critic_loss;"):
        guards.check(jax.device_get(metrics), 999, 1000)


@pytest.mark.parametrize("updates", [1, 3])  # one alone leaves no trace in a later loss
def test_a_gradient_alone_is_enough_and_keys_and_counts_stay_too(updates):
    def loss(w, rows):
        return jnp.sum(jnp.sqrt(w * rows.reward))  # at reward 0 the loss is 0 and its gradient NaN

    def update(state, batch, key):
        value, slope = jax.value_and_grad(loss)(state["w"], batch.rows)
        fresh = {"w": state["w"] + 0.01 * slope, "key": jax.random.split(state["key"])[0], "n": state["n"] + 1}
        return fresh, {"some_loss": value}

    def init(key):
        return {"w": jnp.float32(1), "key": key, "n": jnp.int32(0)}

    algorithm = Algorithm(init, update, *[lambda state, *_: state["w"]] * 4, buffers.fixed_mix((2,)))
    run = trainer.jitted(trainer.make(SPEC, (), algorithm, trainer.Rates(updates=updates), 8))
    rows = _rows(8)._replace(reward=np.zeros(8, np.float32))
    state = run.init(KEY, rows)
    before = _bits(state.algorithm)
    state, metrics = run.step(state)
    assert _bits(state.algorithm) == before
    assert (metrics["guard/skipped"], guards.culprit(metrics)) == (updates, "gradients or parameters")
    state, metrics = run.step(run.init(KEY, rows._replace(reward=np.ones(8, np.float32))))
    assert (metrics["guard/skipped"], int(state.algorithm["n"])) == (0, updates)


def test_a_bad_seed_is_no_matter_to_its_neighbour():
    made = trainer.make(SPEC, (), _sac(), trainer.Rates(updates=3), 50)
    together, alone = trainer.over_seeds(made), trainer.jitted(made)
    keys = jnp.stack([jax.random.key(seed) for seed in (3, 4)])

    def ends(poison):
        state = together.init(keys, _rows(50))
        start = jax.device_get(state.algorithm)
        reward = state.buffers.data.reward
        data = state.buffers.data._replace(reward=reward.at[1].set(jnp.nan) if poison else reward)
        state = state._replace(buffers=state.buffers._replace(data=data))
        for _ in range(3):
            state, metrics = together.step(state)
        return start, jax.device_get(state), jax.device_get(metrics)

    pick = lambda tree, i: jax.tree.map(lambda leaf: leaf[i], tree)  # noqa: E731
    start, state, metrics = ends(poison=True)
    assert _bits(pick(state.algorithm, 1)) == _bits(pick(start, 1))
    np.testing.assert_array_equal(state.guards.skipped, [0, 9])
    np.testing.assert_array_equal(metrics["guard/in_a_row"], [0, 9])
    assert [guards.culprit(pick(metrics, i)) for i in (0, 1)] == [None, "critic_loss"]

    _, clean, told = ends(poison=False)
    assert _bits(pick(state.algorithm, 0)) == _bits(pick(clean.algorithm, 0))
    chex.assert_trees_all_equal(pick(metrics, 0), pick(told, 0))
    single = alone.init(keys[0], _rows(50))
    for _ in range(3):
        single, _ = alone.step(single)
    chex.assert_trees_all_close(pick(state.algorithm, 0), single.algorithm, atol=2e-5)


def test_a_thousand_iterations_compile_nothing_and_move_nothing():
    run = trainer.jitted(trainer.make(SPEC, (), _sac(), trainer.Rates(updates=2), 8))
    good = jax.device_put(_rows(8))
    bad = jax.device_put(_poisoned(_rows(8), slice(None)))
    count, compiled = jax.device_put(jnp.int32(8)), []
    state, _ = run.step(run.init(KEY, good), good, count)

    def listen(event, *_, **__):
        compiled.extend([event] * ("backend_compile" in event))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        with jax.transfer_guard("disallow"):
            for i in range(1000):
                state, metrics = run.step(state, bad if i % 2 else good, count)
            jax.block_until_ready(metrics)
        assert compiled == [] and run.step._cache_size() == 1
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert (int(state.guards.skipped), int(state.guards.in_a_row)) == (1000, 2)


@pytest.fixture(scope="module")
def both_worlds():
    """H2O on real rows and a simulator."""
    config = h2o.Config(
        hidden=(4,), discriminator_hidden=(4,), batch_real=4, batch_sim=4, discriminator_batch_real=4,
        discriminator_batch_sim=4,
    )  # fmt: skip
    algorithm = h2o.make(config, SPEC, Moments(*np.ones((4, 2))))
    rates = trainer.Rates(sims=4, unroll=5, updates=5, sim_capacity=64, pool=8)
    return trainer.jitted(trainer.make(SPEC, (point_mass.make(),), algorithm, rates, 40))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("field", [name for name in Transition._fields if name != "extras"])
def test_poison_in_any_field_stays_out_of_the_learner(both_worlds, field, value):
    state = both_worlds.init(KEY, _poisoned(_rows(40), slice(4), field, value))
    start = jax.device_get(state.algorithm)
    for _ in range(3):
        state, metrics = both_worlds.step(state)
    chex.assert_tree_all_finite(state.algorithm)
    assert 0 < int(state.guards.skipped) < 15
    assert _bits(state.algorithm) != _bits(start)
    assert math.isfinite(metrics["guard/culprit"])


@pytest.mark.parametrize(
    ("good", "before", "skipped", "in_a_row", "culprit"),
    [
        ([True, True, True], 7, 0, 0, None),
        ([True, False, False], 7, 2, 2, "b_loss"),
        ([False, False, True], 7, 2, 0, "a"),
        ([False, False, False], 7, 3, 10, "b_loss"),
    ],
)
def test_the_counters_by_hand(good, before, skipped, in_a_row, culprit):
    state = TrainState(*[None] * 5, Guards(jnp.int32(20), jnp.int32(before)), None)
    metrics = {"a": jnp.array([1.0, jnp.nan, jnp.nan]), "b_loss": jnp.array([3.0, 4.0, jnp.inf]), "c_max": jnp.ones(3)}
    state, told = guards.count(state, metrics, jnp.array(good))
    assert (int(state.guards.skipped), int(state.guards.in_a_row)) == (20 + skipped, in_a_row)
    assert (told["guard/skipped"], told["guard/in_a_row"]) == (skipped, in_a_row)
    assert guards.culprit(told | {"sim1/episodes": 3.0}) == culprit


def test_figures_are_over_the_good_updates():
    metrics = {"loss": jnp.array([1.0, jnp.nan, 5.0]), "q_max": jnp.array([-2.0, 9.0, -4.0])}
    told = guards.summary(metrics, jnp.array([True, False, True]))
    assert {name: float(value) for name, value in told.items()} == {"loss": 3.0, "q_max": -2.0}
    assert all(math.isnan(value) for value in guards.summary(metrics, jnp.zeros(3, bool)).values())


def test_an_algorithm_may_not_name_its_metrics_like_the_trainer():
    with pytest.raises(ValueError, match="take '/' out of the names"):
        guards.count(None, {"guard/mine": jnp.ones(3)}, jnp.ones(3, bool))


def test_the_alarm_knows_the_largest_reward_and_speaks_once_per_crossing():
    alarm = guards.QAlarm(0.9)  # the bound is 2 x 10 x the largest reward
    looks = [  # q_max, reward_max, does it speak
        (5.0, 0.0, False),  # no reward yet, no bound
        (19.0, 1.0, False),
        (21.0, 1.0, True),
        (30.0, 0.5, False),  # still above
        (math.nan, math.nan, False),  # no good update
        (31.0, 0.5, False),
        (20.0, 0.5, False),  # back, the bound remembers reward 1
        (20.1, 0.5, True),
        (39.0, 2.0, False),  # a larger reward, a larger bound
        (41.0, 0.1, True),
    ]
    said = [alarm.look({"q_max": q, "reward_max": reward}, 100) for q, reward, _ in looks]
    assert [text is not None for text in said] == [speaks for *_, speaks in looks]
    assert "update 100: |Q| reaches 21, the rewards so far (up to 1 a step) allow 10;" in said[2]
    assert guards.QAlarm(1.0).look({"q_max": 1e30, "reward_max": 1.0}, 1) is None
    assert guards.QAlarm(0.9).look({"some_loss": 1.0}, 1) is None
