"""The networks and the policy in numpy, float64, and how one update or many are looked at from outside."""

import jax
import jax.numpy as jnp
import numpy as np

from hybrid_jax import gap_learner
from hybrid_jax.types import Transition

# states without `init`, which takes longer to compile than a test to run ---------------------------------


def start(algorithm, seed=0, temperature=1.0):
    """A state to learn from: what `init` makes, with other draws."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        names = [str(getattr(entry, "name", getattr(entry, "key", ""))) for entry in path]
        value = np.zeros(shape.shape, shape.dtype)
        if any(name.endswith("optimiser") for name in names):
            return value
        if names[-1] == "kernel":
            return np.float32(rng.standard_normal(shape.shape) / shape.shape[-2] ** 0.5)
        known = {"scale": 1.0, "log_std_multiplier": 1.0, "log_std_offset": -1.0, "log_alpha": np.log(temperature)}
        return value + np.float32(known[names[-1]]) if names[-1] in known else value

    state = jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(algorithm.init, jax.random.key(0)))

    def together(learner):
        copies = {name: learner.actor for name in ("averaged_actor", "target_actor") if getattr(learner, name)}
        return learner._replace(target_critics=learner.critics, **copies)

    return state._replace(sac=together(state.sac)) if isinstance(state, gap_learner.State) else together(state)


def spread(tree, seed=0):
    """Parameters with an entry of order 1/2 everywhere, so that no layer is silent."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.asarray(x) + np.float32(0.5) * rng.standard_normal(x.shape, np.float32), tree)


def apart(algorithm, temperature=0.3):
    """A state in which no two networks agree and none is silent."""
    state = start(algorithm, temperature=temperature)
    learner = state.sac if isinstance(state, gap_learner.State) else state
    names = ("actor", "critics", "target_critics", "averaged_actor", "target_actor")
    learner = learner._replace(**{name: spread(getattr(learner, name), i) for i, name in enumerate(names, start=1)})
    if not isinstance(state, gap_learner.State):
        return learner
    return gap_learner.State(learner, state.gap and state.gap._replace(params=spread(state.gap.params, 12)))


def rows(count, spec, declared=(), seed=0):
    """Random rows, about a fifth terminal; drawn by numpy, which compiles nothing."""
    rng = np.random.default_rng(seed)

    def drawn(*shape):
        return np.float32(rng.standard_normal(shape))

    extras = {name: np.float32(rng.uniform(-1, 1, (count, *shape))) for name, shape in declared}
    action, discount = np.tanh(drawn(count, spec.action_size)), np.float32(rng.random(count) < 0.8)
    both = (drawn(count, spec.obs_size) for _ in range(2))
    return Transition(next(both), action, drawn(count), discount, next(both), extras or ())


# networks ---------------------------------------------------------------------------------------------------


def mlp(params, x, layer_norm="none"):
    """ReLU after every layer but the last, normalised over the features before or after it."""
    depth = sum(name.startswith("Dense") for name in params)
    for i in range(depth):
        layer = params[f"Dense_{i}"]
        x = x @ np.float64(layer["kernel"]) + np.float64(layer["bias"])
        if i + 1 < depth:
            x = _normalised(params[f"LayerNorm_{i}"], x) if layer_norm == "before" else x
            x = np.maximum(x, 0)
            x = _normalised(params[f"LayerNorm_{i}"], x) if layer_norm == "after" else x
    return x


def _normalised(params, x):
    centred = x - x.mean(axis=-1, keepdims=True)
    unit = centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + 1e-6)
    return unit * np.float64(params["scale"]) + np.float64(params["bias"])


def ensemble_q(params, obs, action, layer_norm="none"):
    """Q [M, B] of all members."""
    x = np.concatenate([obs, action], axis=-1)
    members = range(jax.tree.leaves(params)[0].shape[0])
    return np.stack([mlp(jax.tree.map(lambda p, j=j: p[j], params)["params"], x, layer_norm)[..., 0] for j in members])


def policy(params, obs, draw):
    """The action for a normal draw [..., B, A], and its log-density; a draw of 0 gives the mode."""
    p = params["params"]
    mean, raw = np.split(mlp(p["MLP_0"], obs), 2, axis=-1)
    log_std = np.clip(np.float64(p["log_std_multiplier"]) * raw + np.float64(p["log_std_offset"]), -20, 2)
    x = mean + np.exp(log_std) * draw
    log_cosh = np.logaddexp(x, -x) - np.log(2)  # 1 - tanh^2 = cosh^-2, also where tanh rounds to 1
    log_prob = -0.5 * np.square(draw) - log_std - 0.5 * np.log(2 * np.pi) + 2 * log_cosh
    return np.tanh(x), log_prob.sum(axis=-1)


# discriminators ---------------------------------------------------------------------------------------------


def gap_inputs(rows):
    """(s, a, s') side by side [B, O + A + O]."""
    return np.concatenate([np.float64(x) for x in (rows.obs, rows.action, rows.next_obs)], axis=1)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def logits(params, x, bound=2.0):
    out = mlp(params["params"], x)
    return out if bound is None else bound * np.tanh(out)


def probabilities(params, x, x_sa, bound=2.0):
    """p(real), p(sim) of both heads; x the input of l_sas, x_sa that of l_sa."""
    l_sa = logits(params["sa"], x_sa, bound)
    return softmax(l_sa), softmax(logits(params["sas"], x, bound) + l_sa)


def discriminator_loss(params, x, x_sa, real, bound=2.0):
    """Cross-entropy of both heads, a mean over the real rows and one over the others."""
    return sum(
        np.mean(-np.log(p[real, 0])) + np.mean(-np.log(p[~real, 1])) for p in probabilities(params, x, x_sa, bound)
    )


def log_sim_over_real(params, x, known, bound=2.0):
    """The paper's four logs: log (1-D_sas)/D_sas - log (1-D_sa)/D_sa."""
    p_sa, p_sas = probabilities(params, x, x[:, :known], bound)
    return np.log(p_sas[:, 1] / p_sas[:, 0]) - np.log(p_sa[:, 1] / p_sa[:, 0])


# updates ----------------------------------------------------------------------------------------------------


def normal(key, *shape):
    """The update's own draw."""
    return np.float64(jax.random.normal(key, shape))


def soft_target(config, state, rows, draw, layer_norm="none", members=slice(None)):
    """SAC's y [B] and the largest reward with its entropy; rows in float64."""
    alpha = np.exp(np.float64(state.log_alpha))
    action, log_prob = policy(state.actor, rows.next_obs, draw)
    bonus = -config.entropy_in_backup * alpha * log_prob
    value = ensemble_q(state.target_critics, rows.next_obs, action, layer_norm)[members].min(axis=0) + bonus
    reward = config.reward_scale * rows.reward
    return reward + config.discount * rows.discount * value, np.max(np.abs(reward) + np.abs(bonus))


def soft_policy_loss(state, judge, rows, draw, layer_norm="none", over=np.min):
    """SAC's policy loss with the critics of another state, and the entropy."""
    action, log_prob = policy(state.actor, rows.obs, draw)
    value = over(ensemble_q(judge.critics, rows.obs, action, layer_norm), axis=0)
    return np.mean(np.exp(np.float64(judge.log_alpha)) * log_prob - value), -np.mean(log_prob)


def assert_follows(loss, tree, moment):
    """The first gradient that Adam saw is that of a numpy loss: slopes along a random direction."""
    rng = np.random.default_rng(0)
    old = jax.tree.map(np.float64, tree)
    way = jax.tree.map(lambda x: rng.standard_normal(np.shape(x)), old)
    ahead, behind = (loss(jax.tree.map(lambda x, d, e=e: x + e * d, old, way)) for e in (1e-6, -1e-6))
    gradient = jax.tree.map(lambda m: 10 * np.float64(m), moment)  # Adam's first moment is g/10
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: np.sum(g * d), gradient, way)))
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-3, atol=1e-5)


def assert_moved(new, old, towards, step):
    """Each leaf made a step of this share of its way towards another."""
    expected = jax.tree.map(lambda a, b: (1 - step) * a + step * b, old, towards)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), new, expected)


def assert_same(new, old):
    jax.tree.map(np.testing.assert_array_equal, new, old)


def runner(algorithm, draw, updates):
    """(state, *arguments) -> (state, metrics [updates]) after updates on batches draw(key, *arguments)."""

    def run(state, *arguments):
        def step(state, key):
            draw_key, update_key = jax.random.split(key)
            return algorithm.update(state, draw(draw_key, *arguments), update_key)

        return jax.lax.scan(step, state, jax.random.split(jax.random.key(1), updates))

    return jax.jit(run)


def line(key, rows, gain, noise, reward):
    """A line where s' = s + gain a + noise N(0, 1); terminal rows with s, a uniform and reward(a, s' - s)."""
    keys = jax.random.split(key, 3)
    obs, action = (m * jax.random.uniform(k, (rows, 1), minval=-1.0) for k, m in ((keys[0], 0.5), (keys[1], 1.0)))
    step = gain * action + noise * jax.random.normal(keys[2], (rows, 1))
    return Transition(obs, action, reward(action, step)[:, 0], jnp.zeros(rows), obs + step)


GRID = np.linspace(-1, 1, 401)
LOPSIDED = (1 + 0.8 * GRID) / 2
"""The density on GRID of `lopsided` actions: nine times as many near 1 as near -1."""


def lopsided(key, rows):
    """Actions [rows, 1] of density (1 + 0.8 a) / 2, by its inverse distribution function."""
    return (jnp.sqrt(0.01 + 0.8 * jax.random.uniform(key, (rows, 1))) - 0.5) / 0.4


def integral(values):
    """Of values on GRID, by the trapezium rule."""
    return np.sum(values * np.where(np.abs(GRID) == 1, 0.5, 1.0)) * (GRID[1] - GRID[0])


def stacked(*parts):
    """Rows one after the other."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
