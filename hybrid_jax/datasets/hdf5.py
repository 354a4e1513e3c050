"""D4RL-layout HDF5 files."""

from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    observations: np.ndarray  # [D, O]
    actions: np.ndarray  # [D, A]
    rewards: np.ndarray  # [D]
    next_observations: np.ndarray  # [D, O]
    terminals: np.ndarray  # [D] bool
    timeouts: np.ndarray  # [D] bool


def transitions(data):
    from hybrid_jax.types import Transition

    return Transition(
        data.observations,
        data.actions,
        data.rewards,
        1.0 - data.terminals.astype(np.float32),
        data.next_observations,
    )


def save(path, data, attributes, mantissa_bits=None, next_observations=True):
    import h5py

    with h5py.File(path, "w") as f:
        for k, v in data._asdict().items():
            f.create_dataset(k, data=v, compression="gzip", shuffle=True)


def load(path, spec=None):
    import h5py

    with h5py.File(path) as f:
        return Dataset(*(f[k][()] for k in Dataset._fields))
