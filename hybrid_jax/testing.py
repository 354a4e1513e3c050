"""Contracts that one may import: what every algorithm and every simulated environment must keep."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from hybrid_jax.types import REAL, Algorithm, Array, Batch, PyTree, SimEnv, Spec, Transition


def random_rows(key: Array, rows: int, spec: Spec, declared: tuple = ()) -> Transition:
    """Rows [rows, ...] of normal observations and rewards, actions in (-1, 1), about a fifth terminal.

    declared: an algorithm's extras, which are uniform in (0, 1).
    """
    keys = jax.random.split(key, 5)
    own = jax.random.split(jax.random.fold_in(key, 1), max(len(declared), 1))
    extras = {name: jax.random.uniform(k, (rows, *shape)) for (name, shape), k in zip(declared, own, strict=False)}
    return Transition(
        jax.random.normal(keys[0], (rows, spec.obs_size)),
        jnp.tanh(jax.random.normal(keys[1], (rows, spec.action_size))),
        jax.random.normal(keys[2], (rows,)),
        jax.random.bernoulli(keys[3], 0.8, (rows,)).astype(jnp.float32),
        jax.random.normal(keys[4], (rows, spec.obs_size)),
        extras or (),
    )


def check_algorithm(algorithm: Algorithm, spec: Spec) -> None:
    """Raises AssertionError unless the algorithm keeps the contract of `types.Algorithm`.

    `update` keeps tree, shapes and dtypes, traces once, may donate its state, gives finite numbers on rows
    of any origin and the same ones for the same key; `observe`, where there is one, sees the rows that count and no
    other; `act` and `explore` give actions [N, A] in [-1, 1].
    Where a row is an episode, the rows are of `spec.episode_length` steps.
    """
    chex.clear_trace_counter()  # it counts by source lines, which two algorithms may share
    init_key, mix_key, rows_key, update_key, act_key = jax.random.split(jax.random.key(0), 5)
    init = jax.jit(algorithm.init)
    update = jax.jit(chex.assert_max_traces(algorithm.update, n=1), donate_argnums=0)

    source = algorithm.mix(mix_key, jnp.full(2, 0.5))
    chex.assert_rank(source, 1)
    chex.assert_type(source, jnp.int32)
    assert jnp.all(source >= REAL), "mix names a store below 0"
    assert jnp.all(source < 2), "mix names a store beyond the two that its rates are of"
    assert algorithm.mix_every >= 1, "fewer than one update share a draw of the mix"
    rows = _stored_rows(rows_key, source.shape[0], spec, algorithm)

    state = init(init_key)
    blank = jax.eval_shape(algorithm.init, init_key)
    for origin in (source, jnp.full_like(source, REAL), jnp.full_like(source, REAL + 1)):
        batch = Batch(rows, origin)
        once, metrics = update(jax.tree.map(jnp.copy, state), batch, update_key)
        again, _ = update(state, batch, update_key)  # the state is gone now: donated
        chex.assert_trees_all_equal_shapes_and_dtypes(once, blank)
        chex.assert_trees_all_equal(_numbers(once), _numbers(again))
        chex.assert_tree_all_finite((_numbers(once), metrics))
        chex.assert_rank(list(metrics.values()), 0)
        state = once
    if algorithm.observe is not None:
        _check_observing(algorithm, state, rows, update_key)
    _check_acting(algorithm, state, spec, act_key)


def _check_observing(algorithm: Algorithm, state: PyTree, rows: Transition, key: Array) -> None:
    """New rows change numbers and no shapes; those behind the count are not there, whatever they hold."""
    observe, count = jax.jit(algorithm.observe), jax.tree.leaves(rows)[0].shape[0]
    spoilt = jax.tree.map(lambda leaf: leaf.at[1:].set(jnp.nan), rows)
    seen, again, none, one = (
        observe(state, *new, key) for new in ((rows, count), (rows, count), (spoilt, 0), (spoilt, 1))
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(seen, state)
    chex.assert_trees_all_equal(_numbers(seen), _numbers(again))
    chex.assert_trees_all_equal(_numbers(none), _numbers(state))
    chex.assert_tree_all_finite((_numbers(seen), _numbers(one)))


def _stored_rows(key: Array, rows: int, spec: Spec, algorithm: Algorithm) -> Transition:
    """Random rows as the algorithm's stores hold them: leaves [rows, ...], or [rows, T, ...] of whole episodes."""
    if not algorithm.episodes:
        return random_rows(key, rows, spec, algorithm.extras)
    steps = random_rows(key, rows * spec.episode_length, spec, algorithm.extras)
    return jax.tree.map(lambda leaf: leaf.reshape(rows, spec.episode_length, *leaf.shape[1:]), steps)


def check_sim_env(env: SimEnv) -> None:
    """Raises AssertionError unless the environment keeps the contract of `types.SimEnv`.

    Pure and batched by vmap: `reset` and `step` keep tree, shapes and dtypes, trace once, give finite numbers, and
    the same ones for the same key; a batch of simulations equals each alone.
    """
    chex.clear_trace_counter()  # it counts by source lines, which two tasks may share
    spec, sims = env.spec, 3
    keys = jax.random.split(jax.random.key(0), sims)
    reset = jax.jit(jax.vmap(env.reset, in_axes=(None, 0)))
    step = jax.jit(jax.vmap(chex.assert_max_traces(env.step, n=1), in_axes=(None, 0, 0)))
    state, obs = reset(env.model, keys)
    chex.assert_shape(obs, (sims, spec.obs_size))
    chex.assert_trees_all_equal(_numbers((state, obs)), _numbers(reset(env.model, keys)))
    actions = jax.random.uniform(jax.random.key(1), (sims, spec.action_size), minval=-1.0, maxval=1.0)
    first = state
    for _ in range(3):
        reached, out = step(env.model, state, actions)
        chex.assert_trees_all_equal_shapes_and_dtypes(reached, state)
        chex.assert_shape(out.obs, (sims, spec.obs_size))
        chex.assert_type([out.obs, out.reward], jnp.float32)
        chex.assert_type([out.terminated, out.truncated], bool)
        chex.assert_tree_all_finite((out.obs, out.reward))
        state = reached
    alone, single = jax.jit(env.step)(env.model, jax.tree.map(lambda leaf: leaf[1], first), actions[1])
    batched, together = step(env.model, first, actions)
    chex.assert_trees_all_close(single, jax.tree.map(lambda leaf: leaf[1], together), atol=1e-5)
    chex.assert_trees_all_equal_shapes_and_dtypes(alone, jax.tree.map(lambda leaf: leaf[1], batched))


def _check_acting(algorithm: Algorithm, state: PyTree, spec: Spec, key: Array) -> None:
    obs_key, first, second = jax.random.split(key, 3)
    obs = 10.0 * jax.random.normal(obs_key, (5, spec.obs_size))
    policy = algorithm.policy(state)
    chex.assert_trees_all_equal_shapes_and_dtypes(policy, algorithm.deployed(state))
    act, explore = jax.jit(algorithm.act), jax.jit(algorithm.explore)
    actions = [act(policy, obs), explore(policy, obs, first), explore(policy, obs, second)]
    for action in actions:
        chex.assert_shape(action, (5, spec.action_size))
        chex.assert_type(action, jnp.float32)
        assert jnp.all(jnp.abs(action) <= 1), "an action lies outside [-1, 1]"
    assert not jnp.array_equal(actions[1], actions[2]), "explore gives one action for two keys"
    chex.assert_trees_all_equal(actions[1], explore(policy, obs, first))
    np.testing.assert_allclose(algorithm.act(policy, obs[:1]), actions[0][:1], rtol=1e-4, atol=1e-5)


def _numbers(tree: PyTree) -> list[Array]:
    return [x for x in jax.tree.leaves(tree) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
