"""The exported policy against the flax actor it came from."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax import networks
from hybrid_jax.export import LOG_STD_RANGE, NumpyPolicy, save_policy

O, A = 5, 2
CONTRACT = {
    "dt": 0.005,
    "action_low": [-2.0, -3.0],
    "action_high": [2.0, 3.0],
    "action_unit": "N m",
    "obs_names": ["x", "v", "tilt", "tilt rate", "last torque"],
    "action_names": ["left", "right"],
    "trained_on": "wheel_legged",
}


@pytest.fixture(scope="module")
def actor():
    """(network, params) with every array away from its initial value, so that none can be mixed up unseen."""
    network = networks.actor(O, A, (16, 8))
    params = jax.jit(network.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    return network, jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype("f4"), params)


@pytest.fixture(scope="module")
def obs():
    return np.random.default_rng(1).normal(size=(64, O)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(actor, obs):
    """(mean, log_std) of the flax actor."""
    network, params = actor
    return jax.tree.map(np.asarray, jax.jit(network.apply)(params, obs))


def test_the_numpy_policy_is_the_flax_actors_mode(actor, obs, expected):
    policy = NumpyPolicy.from_params(actor[1])
    np.testing.assert_allclose(policy(obs), np.tanh(expected[0]), atol=1e-5)
    action = policy(obs[3])
    assert action.shape == (A,) and action.dtype == np.float32
    np.testing.assert_allclose(action, np.tanh(expected[0][3]), atol=1e-5)


class Noise:
    """A generator whose noise is known."""

    def standard_normal(self, shape, dtype):
        return np.linspace(-2, 2, int(np.prod(shape)), dtype=dtype).reshape(shape)


def test_exploring_samples_the_flax_actors_tanh_gaussian(actor, obs, expected):
    mean, log_std = expected
    noise = Noise().standard_normal(mean.shape, np.float32)
    action = NumpyPolicy.from_params(actor[1]).explore(obs, Noise())
    np.testing.assert_allclose(action, np.tanh(mean + np.exp(log_std) * noise), atol=1e-5)
    assert action.dtype == np.float32


def test_the_log_std_is_clipped_as_the_actors(actor, obs):
    network, params = actor
    params = jax.tree.map(lambda leaf: leaf, params)
    params["params"]["log_std_multiplier"] = jnp.float32(1000.0)
    mean, log_std = map(np.asarray, network.apply(params, obs))
    assert log_std.min() == -20 and log_std.max() == 2
    assert LOG_STD_RANGE == networks.LOG_STD_RANGE
    action = NumpyPolicy.from_params(params).explore(obs, Noise())
    wanted = np.tanh(mean + np.exp(log_std) * Noise().standard_normal(mean.shape, np.float32))
    np.testing.assert_allclose(action, wanted, atol=1e-5)


def test_a_saved_policy_acts_as_before_and_keeps_its_contract(actor, obs, tmp_path):
    limits = {"action_low": np.array([-2.0, -3.0]), "dt": np.float64(0.005)}
    save_policy(tmp_path / "policy", actor[1], CONTRACT | limits)
    policy = NumpyPolicy.load(tmp_path / "policy")
    np.testing.assert_array_equal(policy(obs), NumpyPolicy.from_params(actor[1])(obs))
    assert policy.contract == CONTRACT | {
        "format": "hybrid_jax policy 1",
        "obs_size": O,
        "action_size": A,
        "layers": [[O, 16], [16, 8], [8, 2 * A]],
        "activation": "relu",
        "squash": "tanh",
        "log_std_range": [-20.0, 2.0],
        "npz_sha256": hashlib.sha256((tmp_path / "policy/policy.npz").read_bytes()).hexdigest(),
    }


def test_the_files_can_be_run_by_hand_with_numpy_alone(actor, obs, expected, tmp_path):
    save_policy(tmp_path, actor[1], CONTRACT)
    contract = json.loads((tmp_path / "contract.json").read_text())
    arrays = np.load(tmp_path / "policy.npz", allow_pickle=False)
    x = obs
    for i in range(len(contract["layers"])):
        x = (np.maximum(x, 0) if i else x) @ arrays[f"kernel_{i}"] + arrays[f"bias_{i}"]
    np.testing.assert_allclose(np.tanh(x[:, :A]), np.tanh(expected[0]), atol=1e-5)


def test_loading_and_acting_need_no_jax(actor, tmp_path):
    save_policy(tmp_path, actor[1], CONTRACT)
    code = (
        "import sys; sys.modules['jax'] = sys.modules['flax'] = None\n"
        "from pathlib import Path; import numpy as np; from hybrid_jax.export import NumpyPolicy\n"
        f"print(NumpyPolicy.load(Path({str(tmp_path)!r}))(np.zeros({O})).tolist())"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    np.testing.assert_array_equal(json.loads(done.stdout), NumpyPolicy.from_params(actor[1])(np.zeros(O)))


def test_layers_are_taken_in_the_order_of_their_numbers():
    # Twelve layers x -> 2 x + i: any other order, such as Dense_10 before Dense_2, gives another number.
    tree = {f"Dense_{i}": {"kernel": np.full((1, 1), 2.0), "bias": np.full(1, i / 2.0**16)} for i in range(12)}
    x = 1 / 2.0**16
    for i in range(12):
        x = 2 * x + i / 2.0**16
    assert NumpyPolicy.from_params(tree)(np.array([1 / 2.0**16])) == pytest.approx(np.tanh(x), rel=1e-6)


def test_an_actor_without_log_std_acts_but_does_not_explore():
    policy = NumpyPolicy.from_params({"Dense_0": {"kernel": np.eye(2), "bias": np.zeros(2)}})
    np.testing.assert_allclose(policy(np.array([0.5, -0.5])), np.tanh([0.5, -0.5]), rtol=1e-6)
    assert policy.contract["action_size"] == 2 and policy.contract["log_std_range"] is None
    with pytest.raises(ValueError, match="no standard deviation"):
        policy.explore(np.zeros(2), np.random.default_rng())


def dense(*sizes):
    return {"kernel": np.zeros(sizes), "bias": np.zeros(sizes[-1:])}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"Dense_0": dense(3, 4), "Dense_1": dense(5, 2)},
            "Dense_1 takes 5 inputs; the layer before it gives 4",
        ),
        ({"Dense_0": dense(3, 4) | {"scale": np.zeros(4)}}, "unknown in its parameters: Dense_0/scale"),
        ({"Dense_0": {"kernel": np.zeros((2, 2))}}, "unknown in its parameters: Dense_0/bias"),
        ({}, "in its parameters: nothing"),
        (
            {"Dense_0": {"kernel": np.zeros((5, 3, 4)), "bias": np.zeros((5, 4))}},
            r"kernel has the shape \(5, 3, 4\), not rank 2; export one seed",
        ),
    ],
)
def test_trees_that_are_no_actor_are_refused(params, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_policy(tmp_path / "policy", params, {"dt": 0.1})
    assert not (tmp_path / "policy").exists()


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        ({}, "lacks 'dt'"),
        ({"dt": 0.1, "obs_size": 5}, "entry 'obs_size' is written by the export itself"),
        ({"dt": 0.1, "obs_names": ["x"]}, "obs_names has 1 entries where obs_size is 5"),
        ({"dt": 0.1, "made_by": {1}}, "holds a set"),
        ({"dt": 0.1, "action_high": [1.0, 1.0, 1.0]}, "action_high has 3 entries where action_size is 2"),
    ],
)
def test_contracts_that_do_not_fit_are_refused(actor, contract, message, tmp_path):
    with pytest.raises((ValueError, TypeError), match=message):
        save_policy(tmp_path / "policy", actor[1], contract)
    assert not (tmp_path / "policy").exists()


def test_arrays_of_another_policy_are_refused(actor, tmp_path):
    save_policy(tmp_path, actor[1], CONTRACT)
    (tmp_path / "policy.npz").write_bytes((tmp_path / "policy.npz").read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"policy\.npz does not match its contract\.json"):
        NumpyPolicy.load(tmp_path)


def test_another_format_is_refused(actor, tmp_path):
    save_policy(tmp_path, actor[1], CONTRACT)
    path = tmp_path / "contract.json"
    path.write_text(path.read_text().replace("policy 1", "policy 9"))
    with pytest.raises(ValueError, match="format 'hybrid_jax policy 9'"):
        NumpyPolicy.load(tmp_path)


def test_an_observation_of_the_wrong_size_is_refused(actor):
    with pytest.raises(ValueError, match=r"obs has the shape \(4,\); this policy takes \[\.\.\., 5\]"):
        NumpyPolicy.from_params(actor[1])(np.zeros(4))
