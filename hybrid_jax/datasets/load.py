"""The front door of all data sets: which reader takes a path is decided by what lies there, not by its name."""

import os
from pathlib import Path

import h5py

from hybrid_jax.datasets import archive, hdf5, minari, npz, opening
from hybrid_jax.datasets.hdf5 import Dataset
from hybrid_jax.types import Spec

READ = "read are .hdf5 and .npz files in D4RL's layout and Minari's folders with data/main_data.hdf5"
_OTHERS = {
    b"\x93NUMPY": "is a single .npy array",
    b"\x80": "is a pickle, which could run code",
    b"PK": "is an empty or damaged zip",
    b"PAR1": "is a Parquet file",
    b"\x1f\x8b": "is packed by gzip",
    b"(\xb5/\xfd": "is packed by zstd",
}


def load(path: str | os.PathLike, spec: Spec | None = None) -> Dataset:
    """Reads and checks a data set in any layout that is known.

    spec: the environment that the rows must fit; None takes the widths from the file.
    Raises DatasetError with every fault, each with its key, first bad row and count.
    """
    place = Path(path)
    problem = opening.unopened(place)
    if problem == "is a folder":
        if minari.data_folder(place) is not None:
            return minari.load(path, spec)
        raise opening.refused(place, f"is a folder without data/{minari.NAME}; {READ}")
    if problem:
        raise opening.refused(place, problem)
    if h5py.is_hdf5(place):
        return minari.load(path, spec) if minari.holds_episodes(place) else hdf5.load(path, spec)
    with place.open("rb") as file:
        head = file.read(8)
    if head.startswith(archive.SIGNATURE):
        return npz.load(path, spec)
    known = [words for signature, words in _OTHERS.items() if head.startswith(signature)]
    raise opening.refused(place, f"{known[0] if known else 'is of no known kind, or its head is damaged'}; {READ}")
