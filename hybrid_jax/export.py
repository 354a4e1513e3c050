"""A trained policy as plain numbers: what a robot's computer needs to act, without JAX.

A policy folder holds `policy.npz` (arrays `kernel_0, bias_0, kernel_1, ...`, no pickle) and `contract.json`,
which says how to read them: sizes of the layers, activation, squashing, limits, the hash of the arrays.
"""

import hashlib
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_jax.metrics import write_atomically

FORMAT = "hybrid_jax policy 1"
LOG_STD_RANGE = (-20.0, 2.0)  # as in `networks`, which cannot be imported without JAX
_LOG_STD = ("log_std_multiplier", "log_std_offset")


def save_policy(directory: Path, params: Any, contract: dict[str, Any]) -> None:
    """Writes `policy.npz` and `contract.json` for an actor's parameters.

    `contract` adds what only the task knows: `dt` [s] is required; `action_low`, `action_high` [A] (the
    physical limits that -1 and 1 stand for), `action_unit`, `obs_names` [O], `action_names` [A] and whatever
    else JSON or numpy can hold are optional. Raises ValueError for a missing, clashing or ill-sized entry.
    """
    arrays, own = _read_actor(params)
    _check_contract(contract, own)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    data = file.getvalue()
    whole = own | contract | {"npz_sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps(whole, indent=2, allow_nan=False, default=_from_numpy) + "\n"
    directory.mkdir(parents=True, exist_ok=True)
    # The contract comes last: while it does not match the arrays, `load` refuses the folder.
    write_atomically(directory / "policy.npz", data)
    write_atomically(directory / "contract.json", text)


class NumpyPolicy:
    """The actor in numpy: obs [..., O] -> action [..., A] in [-1, 1], float32.

    `policy(obs)` is tanh of the mean, `policy.explore(obs, rng)` a sample of the tanh-Gaussian; `contract`
    says what the numbers mean. A wrong size of obs raises ValueError.
    """

    def __init__(self, arrays: dict[str, np.ndarray], contract: dict[str, Any]):
        layers = [(arrays[f"kernel_{i}"], arrays[f"bias_{i}"]) for i in range(len(contract["layers"]))]
        self.contract = contract
        self._obs_shape = (contract["obs_size"],)
        self._hidden, (self._kernel, self._bias) = layers[:-1], layers[-1]
        self._log_std = tuple(arrays[name] for name in _LOG_STD) if contract["log_std_range"] else None
        # Acting needs the mean alone, the first columns of the last layer.
        self._mean_kernel = np.ascontiguousarray(self._kernel[:, : contract["action_size"]])
        self._mean_bias = self._bias[: contract["action_size"]]

    @classmethod
    def from_params(cls, params: Any) -> "NumpyPolicy":
        """The policy of an actor's parameters, without a file between."""
        return cls(*_read_actor(params))

    @classmethod
    def load(cls, directory: Path) -> "NumpyPolicy":
        """Reads a policy folder; raises ValueError where contract and arrays do not belong together."""
        contract = json.loads((directory / "contract.json").read_text(encoding="utf-8"))
        if contract.get("format") != FORMAT:
            raise ValueError(f"{directory} has the format {contract.get('format')!r}; this reads {FORMAT!r}.")
        data = (directory / "policy.npz").read_bytes()
        if hashlib.sha256(data).hexdigest() != contract["npz_sha256"]:
            raise ValueError(f"{directory}/policy.npz does not match its contract.json; export it again.")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return cls(dict(file), contract)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        return np.tanh(self._features(obs) @ self._mean_kernel + self._mean_bias)

    def explore(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """tanh(mean + std * noise), std = exp(clip(multiplier * raw + offset, -20, 2))."""
        if self._log_std is None:
            raise ValueError("this policy has no standard deviation; add noise of your own to its action.")
        mean, raw = np.split(self._features(obs) @ self._kernel + self._bias, 2, axis=-1)
        multiplier, offset = self._log_std
        std = np.exp(np.clip(multiplier * raw + offset, *LOG_STD_RANGE))
        return np.tanh(mean + std * rng.standard_normal(mean.shape, np.float32))

    def _features(self, obs: np.ndarray) -> np.ndarray:
        x = np.asarray(obs, np.float32)
        if x.shape[-1:] != self._obs_shape:
            raise ValueError(f"obs has the shape {x.shape}; this policy takes [..., {self._obs_shape[0]}].")
        for kernel, bias in self._hidden:
            x = np.maximum(x @ kernel + bias, 0)
        return x


def flatten(params: Any) -> dict[str, np.ndarray]:
    """Every leaf of nested dicts by its path, `a/b/c`, float32."""
    return dict(_leaves(params, ""))


def unflatten(leaves: dict[str, np.ndarray]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *above, name = path.split("/")
        branch = tree
        for part in above:
            branch = branch.setdefault(part, {})
        branch[name] = leaf
    return tree


def _read_actor(params: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays by name, the contract's own entries); the dense layers go in the order of their numbers."""
    leaves = flatten(params)
    layers = sorted({path.rpartition("/")[0] for path in leaves if path.endswith("kernel")}, key=_natural)
    names = {f"{layer}/{part}": f"{part}_{i}" for i, layer in enumerate(layers) for part in ("kernel", "bias")}
    names |= {path: path.rpartition("/")[2] for path in leaves if path.endswith(_LOG_STD)}
    if not layers or names.keys() != leaves.keys():
        odd = ", ".join(sorted(names.keys() ^ leaves.keys())) or "nothing"
        raise ValueError(f"an actor of dense layers was expected; missing or unknown in its parameters: {odd}.")
    for path, array in leaves.items():
        rank = {"kernel": 2, "bias": 1}.get(path.rpartition("/")[2], 0)
        if array.ndim != rank:
            raise ValueError(f"{path} has the shape {array.shape}, not rank {rank}; export one seed at a time.")
    sizes = [list(leaves[f"{layer}/kernel"].shape) for layer in layers]
    for (before, after), layer in zip(itertools.pairwise(sizes), layers[1:], strict=True):
        if before[1] != after[0]:
            raise ValueError(f"{layer} takes {after[0]} inputs; the layer before it gives {before[1]}.")
    gaussian = len(names) > 2 * len(layers)
    return {names[path]: array for path, array in leaves.items()}, {
        "format": FORMAT,
        "obs_size": sizes[0][0],
        "action_size": sizes[-1][1] // 2 if gaussian else sizes[-1][1],
        "layers": sizes,  # [inputs, outputs] of kernel_0, kernel_1, ...
        "activation": "relu",  # between the layers; the last is linear: mean [A], then raw log_std [A]
        "squash": "tanh",
        "log_std_range": LOG_STD_RANGE if gaussian else None,
    }


def _leaves(tree: Any, path: str) -> list[tuple[str, np.ndarray]]:
    """(path/of/leaf, float32 array) of every leaf of nested dicts."""
    if not hasattr(tree, "items"):
        return [(path, np.asarray(tree, np.float32))]
    prefix = f"{path}/" if path else ""
    return [leaf for name, branch in tree.items() for leaf in _leaves(branch, f"{prefix}{name}")]


def _from_numpy(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"the contract holds a {type(value).__name__}, which has no JSON form.")


def _natural(path: str) -> list:
    """Sorts Dense_2 before Dense_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]


def _check_contract(contract: dict[str, Any], own: dict[str, Any]) -> None:
    clash = sorted(contract.keys() & {*own, "npz_sha256"})
    if clash:
        raise ValueError(f"the contract's entry {clash[0]!r} is written by the export itself; leave it out.")
    if "dt" not in contract:
        raise ValueError("the contract lacks 'dt', the seconds of one control step; add it.")
    sizes = {"obs_names": "obs_size"}
    sizes |= dict.fromkeys(("action_names", "action_low", "action_high"), "action_size")
    for name in sizes.keys() & contract.keys():
        given, wanted = len(contract[name]), own[sizes[name]]
        if given != wanted:
            raise ValueError(f"the contract's {name} has {given} entries where {sizes[name]} is {wanted}.")
