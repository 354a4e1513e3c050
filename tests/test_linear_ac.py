"""The linear actor-critic against the closed forms of its limit (T5 to T10 of the mixing theory)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import chains, finite, linear_ac, mixing
from hybrid_jax.buffers import multi_buffer
from hybrid_jax.chains import Chains, Environments
from hybrid_jax.linear_ac import Step, Steps
from hybrid_jax.mixing import Rates
from hybrid_jax.types import Batch, Transition
from tests.laws import TWO_STATES, rejects

PHI = np.array([[0.0], [1.0]])
HALF = np.array([0.5, 0.5])
AVERAGED = Chains(np.stack([TWO_STATES.kernel.mean(axis=0)] * 2), TWO_STATES.reward)


def world(environments=3, states=4, actions=2, seed=0) -> Environments:
    rng = np.random.default_rng(seed)
    kernel = rng.dirichlet(np.full(states, 0.5), (environments, states, actions)) + 0.02
    return Environments(
        kernel / kernel.sum(axis=-1, keepdims=True), rng.standard_normal((environments, states, actions))
    )


def softmax(theta):
    e = np.exp(theta)
    return e / e.sum(axis=-1, keepdims=True)


def all_rows(environments: Environments, policy, beta):
    """Every (s, a, s') of every environment as a row, and its probability beta_j mu_j pi P_j."""
    laws = chains.stationary(chains.under(environments, policy).kernel)
    p = np.einsum("k,ks,sa,ksat->ksat", beta, laws, policy, environments.kernel)
    _, s, a, there = (index.ravel() for index in np.indices(p.shape))
    reward = np.broadcast_to(environments.reward[..., None], p.shape).ravel()
    return Transition(s, a, reward, np.ones(p.size), there), p.ravel()


def expected(learner, state, rows, p):
    """The expectation of the learner's own direction."""
    each = jax.vmap(learner.direction, in_axes=(None, 0))(state, jax.tree.map(jnp.asarray, rows))
    return jax.tree.map(lambda way: np.tensordot(p, np.asarray(way), axes=1), each)


# ---------------------------------------------------------------------- T5, T6: fixed point and mixture chain


@pytest.mark.parametrize("gamma", [None, 0.9])
@pytest.mark.parametrize("beta", [(0.2, 0.5, 0.3), (1.0, 0.0, 0.0), (0.9, 0.05, 0.05)])
def test_t5_the_expected_update_is_av_plus_b_and_zero_at_the_closed_form(gamma, beta):
    environments, phi = world(), np.random.default_rng(1).standard_normal((4, 2))
    policy = softmax(np.random.default_rng(2).standard_normal((4, 2)))
    point = chains.fixed_point(chains.under(environments, policy), beta, phi, gamma)
    rows, p = all_rows(environments, policy, beta)
    with jax.enable_x64(True):
        learner = linear_ac.make(phi, 2, gamma)
        state = learner.init()._replace(eta=jnp.float64(point.eta))
        for v in np.random.default_rng(3).standard_normal((3, 2)):
            way = expected(learner, state._replace(v=jnp.asarray(v)), rows, p)
            np.testing.assert_allclose(way.v, point.A @ v + point.b, atol=1e-12)
        rest = expected(learner, state._replace(v=jnp.asarray(point.v)), rows, p)
    np.testing.assert_allclose([rest.eta, *rest.v], 0, atol=1e-12)
    assert np.linalg.eigvalsh(point.A + point.A.T).max() < 0  # stable, whatever beta


def test_t5_each_environment_adds_its_dirichlet_form():
    chain, x = chains.under(world(), softmax(np.zeros((4, 2)))), np.random.default_rng(4).standard_normal(4)
    for j, mu in enumerate(chains.stationary(chain.kernel)):
        np.testing.assert_allclose(mu @ chain.kernel[j], mu, atol=1e-14)
        form = -0.5 * np.sum(mu[:, None] * chain.kernel[j] * (x[:, None] - x[None]) ** 2)
        assert x @ (mu * (chain.kernel[j] @ x - x)) == pytest.approx(form)


@pytest.mark.parametrize("gamma", [None, 0.9])
def test_t6_the_rows_are_those_of_one_chain_which_is_not_the_average(gamma):
    chain, beta, phi = chains.under(world(), softmax(np.zeros((4, 2)))), np.array([0.2, 0.5, 0.3]), np.eye(4)[:, 1:]
    mixture, point = chains.mixture(chain, beta), chains.fixed_point(chain, beta, phi, gamma)
    np.testing.assert_allclose(mixture.law @ mixture.kernel, mixture.law, atol=1e-14)
    np.testing.assert_allclose(mixture.weight.sum(axis=0), 1)
    assert mixture.law @ mixture.reward == pytest.approx(point.eta)
    change = (1.0 if gamma is None else gamma) * mixture.kernel - np.eye(4)
    np.testing.assert_allclose(point.A, phi.T @ np.diag(mixture.law) @ change @ phi, atol=1e-14)
    one = chains.fixed_point(Chains(mixture.kernel[None], mixture.reward[None]), [1.0], phi, gamma)
    np.testing.assert_allclose(one.v, point.v)
    if gamma is None:  # three one-hot features are exact up to the constant
        values = chains.values(mixture)
        np.testing.assert_allclose(point.v, values[1:] - values[0])
        assert mixture.law @ values == pytest.approx(0)
    averaged = Chains(np.einsum("k,kst", beta, chain.kernel)[None], np.einsum("k,ks", beta, chain.reward)[None])
    assert np.abs(chains.fixed_point(averaged, [1.0], phi, gamma).v - point.v).max() > 0.01


# ------------------------------------------------------------------------------------ T7: the two-state numbers


def test_t7_by_hand():
    for beta, eta, v in (
        ([0, 1], 1 / 2, 1),
        ([1, 0], 1 / 5, 2),
        (HALF, 7 / 20, 91 / 66),
        ([0.1, 0.9], 0.47, 2491 / 2330),
    ):
        point = chains.fixed_point(TWO_STATES, beta, PHI)
        np.testing.assert_allclose([point.eta, *point.v], [eta, v], rtol=1e-12)
    mixture = chains.mixture(TWO_STATES, HALF)
    np.testing.assert_allclose(mixture.law, [13 / 20, 7 / 20])
    np.testing.assert_allclose(mixture.weight[1], [5 / 13, 5 / 7])
    np.testing.assert_allclose([mixture.kernel[0, 1], mixture.kernel[1, 0]], [33 / 130, 33 / 70])
    wrong = chains.fixed_point(AVERAGED, HALF, PHI)
    np.testing.assert_allclose([wrong.eta, *wrong.v], [2 / 5, 4 / 3])


def test_t7_discounted_by_hand():
    known = [(HALF, TWO_STATES, 3.035036, 4.363504), ([0, 1], TWO_STATES, 4.5, 5.5)]
    known += [([1, 0], TWO_STATES, 1.636364, 3.454545), (HALF, AVERAGED, 3.483871, 4.774194)]
    for beta, chain, *values in known:
        np.testing.assert_allclose(chains.fixed_point(chain, beta, np.eye(2), 0.9).v, values, atol=5e-7)
    np.testing.assert_allclose(chains.values(chains.mixture(TWO_STATES, HALF), 0.9), known[0][2:], atol=5e-7)


def learned(stores, q, beta=HALF, gamma=None, chain=TWO_STATES, steps=12_000, seeds=48):
    """(eta, v [d]) of the whole scheme: the mean over the second half, then over seeds, and its standard error."""
    features = PHI if gamma is None else np.eye(2)
    scheme = finite.make(chains.without_actions(chain), multi_buffer(stores))
    learner = linear_ac.make(features, 1, gamma)
    rates = Rates(jnp.asarray(q, jnp.float32), jnp.asarray(beta, jnp.float32))
    laws = jnp.asarray(chains.stationary(chain.kernel), jnp.float32)

    def run(key):
        init_key, key = jax.random.split(key)

        def step(carry, key):
            world, state = carry
            world, _, batch = scheme.step(world, key, learner.policy(state), rates)
            state = learner.update(state, batch)
            return (world, state), jnp.concatenate([state.eta[None], state.v])

        start = scheme.init(init_key, laws), learner.init()
        half = jax.lax.scan(step, start, jax.random.split(key, steps))[1][steps // 2 :]
        return jnp.mean(half, axis=0)

    means = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), seeds)))
    return means.mean(axis=0), means.std(axis=0) / seeds**0.5


def check_learned(found, eta, *v):
    """Within 0.03, the distance at which the wrong answers lie, and that is at least four standard errors."""
    mean, error = found
    assert np.all(4 * error < 0.03), f"the run is too short: errors {error}"
    np.testing.assert_allclose(mean, [eta, *v], atol=0.03)


@pytest.mark.parametrize("q", [(0.1, 0.9), (0.5, 0.5)])
def test_t7_separate_stores_find_the_mixture_for_any_q(q):
    found = learned((20, 20), q)
    check_learned(found, 7 / 20, 91 / 66)
    for wrong in ((7 / 20, 3 / 2), (2 / 5, 4 / 3), (47 / 100, 2491 / 2330)):
        rejects(check_learned, found, *wrong)


def test_t7_one_store_finds_beta_equal_to_q():
    found = learned((40,), (0.1, 0.9))
    check_learned(found, 47 / 100, 2491 / 2330)
    rejects(check_learned, found, 7 / 20, 91 / 66)  # so beta cannot be a share of it


def test_t7_rejects_averaged_kernels():
    found = learned((20, 20), (0.5, 0.5), chain=AVERAGED)
    check_learned(found, 2 / 5, 4 / 3)
    rejects(check_learned, found, 7 / 20, 91 / 66)


# -------------------------------------------------------------------------- T8: LSTD on the contents, to the bit


@pytest.mark.parametrize("gamma", [None, 0.9])
def test_t8_the_expected_update_on_finite_contents_reaches_lstd(gamma):
    rng, sizes, beta = np.random.default_rng(5), (3, 12, 7), np.array([0.5, 0.2, 0.3])
    phi = rng.standard_normal((5, 2))
    with jax.enable_x64(True):
        store = multi_buffer((8, 12, 9))
        example = Transition(*(jax.ShapeDtypeStruct((), t) for t in ("int32", "int32", "float64", "float64", "int32")))
        state, contents = store.init(example), []
        for k, size in enumerate(sizes):
            drawn = (rng.integers(0, high, size, np.int32) for high in (5, 1, 5))
            s, a, there = drawn
            rows = Transition(s, a, rng.standard_normal(size), np.float64(rng.random(size) < 0.9), there)
            state = store.add(state, k, jax.tree.map(jnp.asarray, rows))
            contents.append(rows)
        # numpy
        eta = sum(b * rows.reward.mean() for b, rows in zip(beta, contents, strict=True)) if gamma is None else 0.0
        A, b = np.zeros((2, 2)), np.zeros(2)
        for share, rows in zip(beta, contents, strict=True):
            discount = 1.0 if gamma is None else gamma * rows.discount[:, None]
            change = discount * phi[rows.next_obs] - phi[rows.obs]
            A += share * phi[rows.obs].T @ change / len(rows.obs)
            b += share * phi[rows.obs].T @ (rows.reward - eta) / len(rows.obs)
        assert np.linalg.eigvals(A).real.max() < 0  # finite contents are not stable by themselves
        # the project's own rows, probabilities and updates
        p = np.repeat(np.asarray(mixing.probabilities(jnp.asarray(beta), state.size)), store.capacities)
        valid = np.concatenate([np.arange(c) < n for c, n in zip(store.capacities, sizes, strict=True)])
        learner = linear_ac.make(phi, 1, gamma)

        def step(now, _):
            each = jax.vmap(learner.direction, in_axes=(None, 0))(now, state.data)
            eta, v = (jnp.tensordot(p * valid, way, 1) for way in each[:2])
            return now._replace(eta=now.eta + eta, v=now.v + 0.3 * v), None

        end = jax.jit(lambda: jax.lax.scan(step, learner.init(), None, 3000)[0])()
        np.testing.assert_allclose(end.v, np.linalg.solve(A, -b), rtol=1e-10)
        if gamma is None:
            np.testing.assert_allclose(end.eta, eta, rtol=1e-12)
        one_store = np.concatenate([np.ones(n) for n in sizes]) / sum(sizes)
        assert np.abs(one_store - (p * valid)[valid]).max() > 0.01  # the shares of one store would be others


# ------------------------------------------------------------------------- T9: which way the actor goes


def gradient(objective, theta):
    """By complex steps: exact to rounding."""
    slopes = np.zeros(theta.shape)
    for place in np.ndindex(theta.shape):
        moved = theta.astype(complex)
        moved[place] += 1e-30j
        slopes[place] = objective(moved).imag / 1e-30
    return slopes


def average_reward(kernel, reward, theta):
    """Of ONE environment: kernel [S, A, S], reward [S, A]."""
    policy = softmax(theta)
    mu = chains.stationary(np.einsum("sa,sat->st", policy, kernel))
    return np.einsum("s,sa,sa->", mu, policy, reward)


def actor_step(environments, theta, beta):
    """The learner's expected direction of theta at v* and eta*, tabular: one-hot features but for one state."""
    policy, phi = softmax(theta), np.eye(theta.shape[0])[:, 1:]
    point = chains.fixed_point(chains.under(environments, policy), beta, phi)
    rows, p = all_rows(environments, policy, beta)
    with jax.enable_x64(True):
        learner = linear_ac.make(phi, theta.shape[1])
        state = linear_ac.State(jnp.float64(point.eta), jnp.asarray(point.v), jnp.asarray(theta), jnp.int32(0))
        np.testing.assert_allclose(learner.policy(state), policy, rtol=1e-12)
        return expected(learner, state, rows, p).theta


def of_mixture(environments, theta, beta, frozen):
    """d/dtheta of the mixture environment's average reward, its weights w_j(s) those at theta if frozen."""

    def objective(moved):
        at = theta if frozen else moved
        each = np.asarray(beta)[:, None] * chains.stationary(chains.under(environments, softmax(at)).kernel)
        w = each / each.sum(axis=0)
        kernel, reward = (np.einsum("ks,ks...->s...", w, part) for part in environments)
        return average_reward(kernel, reward, moved)

    return gradient(objective, theta)


def of_sum(environments, theta, beta):
    """d/dtheta of sum_j beta_j eta_j."""
    pairs = list(zip(beta, *environments, strict=True))
    return gradient(lambda moved: sum(share * average_reward(P, r, moved) for share, P, r in pairs), theta)


def bias(environments, theta, beta):
    """sum_j beta_j sum_s mu_j(s) sum_a grad pi(a|s) sum_s' P_j(s'|s,a) (V_b(s') - V_j(s'))."""
    policy = softmax(theta)
    chain = chains.under(environments, policy)
    mixed, total = chains.values(chains.mixture(chain, beta)), np.zeros(theta.shape)
    for j, share in enumerate(beta):
        alone = Chains(chain.kernel[j : j + 1], chain.reward[j : j + 1])
        gap = environments.kernel[j] @ (mixed - chains.values(chains.mixture(alone, [1.0])))  # [S, A]
        centred = gap - np.sum(policy * gap, axis=1, keepdims=True)
        total += share * chains.stationary(chain.kernel[j])[:, None] * policy * centred
    return total


def cosine(a, b):
    return np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)


def test_t9_the_actor_follows_the_mixture_with_its_weights_held():
    environments, beta = world(), np.array([0.2, 0.5, 0.3])
    theta = np.random.default_rng(6).standard_normal((4, 2))
    step, wanted = actor_step(environments, theta, beta), of_sum(environments, theta, beta)
    np.testing.assert_allclose(step, of_mixture(environments, theta, beta, frozen=True), atol=1e-10)
    np.testing.assert_allclose(step - wanted, bias(environments, theta, beta), atol=1e-10)
    assert np.abs(step - wanted).max() > 1e-3  # a biased objective
    assert 0.9 < cosine(step, wanted) < 0.9999
    # held or not makes no difference to sum_j beta_j eta_j, which the mixture's average reward is
    np.testing.assert_allclose(of_mixture(environments, theta, beta, frozen=False), wanted, atol=1e-10)


def test_t9_without_a_gap_there_is_no_bias():
    alone, theta = world(environments=1), np.random.default_rng(7).standard_normal((4, 2))
    alike = Environments(*(np.repeat(part, 3, axis=0) for part in alone))
    for environments, beta in ((alone, [1.0]), (alike, [0.2, 0.5, 0.3])):
        np.testing.assert_allclose(actor_step(environments, theta, beta), of_sum(environments, theta, beta), atol=1e-10)


def test_t9_the_average_reward_rises_and_theta_stays_in_its_bound():
    environments, beta, bound = world(environments=2, states=3), HALF, 2.0
    scheme = finite.make(environments, multi_buffer((20, 20)))
    learner = linear_ac.make(np.eye(3)[:, 1:], 2, steps=Steps(theta=Step(0.3, 0.9)), bound=bound)
    rates = Rates(jnp.float32([0.3, 0.7]), jnp.float32(beta))

    def step(carry, key):
        world, state = carry
        world, _, batch = scheme.step(world, key, learner.policy(state), rates)
        state = learner.update(state, batch)
        return (world, state), jnp.max(jnp.abs(state.theta))

    def run(key):
        start = scheme.init(key, jnp.full((2, 3), 1 / 3)), learner.init()
        (_, state), largest = jax.lax.scan(step, start, jax.random.split(key, 8_000))
        return state.theta, jnp.max(largest)

    thetas, largest = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), 8))

    def reward(theta):
        return chains.fixed_point(chains.under(environments, softmax(np.float64(theta))), beta, np.eye(3)[:, 1:]).eta

    start, best = reward(np.zeros((3, 2))), max(reward(40.0 * t.reshape(3, 2)) for t in CORNERS)
    rises = np.array([reward(theta) - start for theta in thetas])
    assert np.all(rises > 0.5 * (best - start))
    assert np.all(largest <= bound)
    assert np.any(largest == bound)


CORNERS = np.array([[p == "1" for c in f"{n:03b}" for p in (c, str(1 - int(c)))] for n in range(8)], float)
"""The deterministic policies of three states and two actions, flat."""


# ------------------------------------------------------------- T10: what a fixed beta costs, however many rows


SIM_ROWS, REAL_ROWS = ((0, 9, 1.0), (1, 1, 0.0)), ((0, 1, 0.0), (1, 9, 0.6))  # (action, how many, reward)
THRESHOLD = 1 / (3.84**0.5 - 0.8)


@pytest.fixture(scope="module")
def bandit():
    """One state: the simulator pays for action 0, reality for action 1; each is mostly tried where it pays."""
    store = multi_buffer((10, 10))
    state = store.init((jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32)))
    for k, groups in enumerate((REAL_ROWS, SIM_ROWS)):
        action = np.concatenate([np.full(count, a, np.int32) for a, count, _ in groups])
        reward = np.concatenate([np.full(count, r, np.float32) for _, count, r in groups])
        state = store.add(state, k, (jnp.asarray(action), jnp.asarray(reward)))
    return store, state


def bandit_q(state, beta_real):
    """Where tabular Q-learning with gamma = 0 ends: the mean reward of each action over the rows as drawn."""
    beta = jnp.float32([beta_real, 1 - beta_real])
    p = np.repeat(np.float64(mixing.probabilities(beta, state.size)), 10)
    action, reward = map(np.asarray, state.data)
    return np.array([np.sum((p * reward)[action == a]) / np.sum(p[action == a]) for a in range(2)])


def test_t10_at_equal_shares_the_greedy_action_is_worthless_in_reality(bandit):
    store, state = bandit
    np.testing.assert_allclose(bandit_q(state, 0.5), [0.9, 0.54], rtol=1e-6)
    assert bandit_q(state, 0.5).argmax() == 0  # which pays nothing in reality
    # drawn and averaged, as a learner would
    source = mixing.sources("quotas", 40_000)(jax.random.key(0), jnp.float32(HALF))
    action, reward = jax.jit(store.sample)(state, jax.random.key(1), source)[1].rows
    np.testing.assert_allclose([reward[action == a].mean() for a in range(2)], [0.9, 0.54], atol=0.01)


def test_t10_greedy_is_right_only_above_the_threshold(bandit):
    assert pytest.approx(0.862372, abs=5e-7) == THRESHOLD
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if bandit_q(bandit[1], middle).argmax() == 1 else (middle, high)
    assert low == pytest.approx(THRESHOLD, abs=2e-6)


# ------------------------------------------------------------------------------------ the update, the refusals


def test_one_update_by_hand():
    steps = Steps(Step(0.5, 0.6), Step(0.25, 0.7, 3.0), Step(0.125, 0.9))
    learner = linear_ac.make(np.float32([[1.0], [3.0]]), 2, steps=steps)
    state = linear_ac.State(jnp.float32(0.5), jnp.float32([2.0]), jnp.zeros((2, 2)), jnp.int32(0))
    one = Transition(*(jnp.array([x]) for x in (0, 1, 2.5, 1.0, 1)))
    new = jax.jit(learner.update)(state, Batch(one, jnp.zeros(1, jnp.int32)))
    # delta = 2.5 - 0.5 + 6 - 2 = 6; grad log pi(1|0) = (-1/2, 1/2)
    assert (new.eta, new.v[0], new.t) == (0.5 + 0.5 * 2, 2 + 0.25 * 6 * 1, 1)
    np.testing.assert_allclose(new.theta, [[-0.375, 0.375], [0, 0]])
    twice = jax.tree.map(lambda x: jnp.repeat(x, 2), one)
    doubled = jax.jit(learner.update)(state, Batch(twice, jnp.zeros(2, jnp.int32)))
    np.testing.assert_allclose(doubled.v, new.v)  # the mean of the rows, not their sum
    assert steps.v.at(jnp.int32(3)) == pytest.approx(0.25 * 2**-0.7)


def test_a_terminal_row_has_no_successor():
    learner = linear_ac.make(np.float32([[1.0], [3.0]]), 1, gamma=0.5)
    state = linear_ac.State(jnp.float32(7.0), jnp.float32([2.0]), jnp.zeros((2, 1)), jnp.int32(0))
    for discount, delta in ((1.0, 1 + 0.5 * 6 - 2), (0.0, 1 - 2)):
        row = Transition(jnp.int32(0), jnp.int32(0), jnp.float32(1), jnp.float32(discount), jnp.int32(1))
        assert learner.direction(state, row).v[0] == delta


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": Steps(v=Step(0.1, 0.5))}, "the step of v is .* 1/2 < power <= 1"),
        ({"steps": Steps(v=Step(0.1, 0.9))}, "theta has power 0.9, that of v 0.9; give theta the greater one"),
        ({"steps": Steps(eta=Step(0.1, 0.8))}, "eta has power 0.8, that of v 0.7"),
        ({"gamma": 1.0}, "gamma is 1.0"),
        ({"actions": 0}, "actions is 0"),
        ({"bound": 0.0}, "bound is 0.0"),
    ],
)
def test_settings_that_break_the_theory_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        linear_ac.make(**{"features": PHI, "actions": 1} | wrong)


def test_another_number_of_stores_is_refused():
    with pytest.raises(ValueError, match="3 stores for 2 environments"):
        finite.make(chains.without_actions(TWO_STATES), multi_buffer((2, 2, 2)))
