"""What a Minari set says about itself: its format, how much it holds, and the spaces of its environment.

It stands in `metadata.json`, or in attributes of the HDF5 file.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hybrid_jax.datasets import opening
from hybrid_jax.datasets.faults import DatasetError, Fault
from hybrid_jax.datasets.opening import first_line, printable

NAME = "metadata.json"
MAX_BYTES = 2**22  # bounds of a large Box take some
_KEYS = ("data_format", "total_episodes", "total_steps", "observation_space", "action_space")
_CURES = {
    "observations": "record again through gymnasium.wrappers.FlattenObservation",
    "actions": "write each action as one vector in [-1, 1]",
}


def read(path: Path, where: Path) -> dict[str, Any]:
    """The metadata's file as far as it is known here, {} where there is none; raises DatasetError, naming `where`."""
    if not os.path.lexists(path):
        return {}
    problem, found = opening.unopened(path), None
    if problem is None and path.stat().st_size > MAX_BYTES:
        problem = f"has {path.stat().st_size:,} bytes, at most {MAX_BYTES:,} are read"
    if problem is None:
        try:
            found = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            problem = f"is damaged ({first_line(error)})"
    if problem is None and not isinstance(found, dict):
        problem = "is damaged (it holds no names)"
    if problem or found is None:
        raise DatasetError(str(where), [Fault(NAME, None, 1, problem or "")])
    return {key: found[key] for key in _KEYS if key in found}


def attributes(file: h5py.File) -> dict[str, int]:
    """The counts out of the file of the rows, where Minari was older than 0.5.

    The texts there are left alone: HDF5 keeps them apart, and in a damaged file it may look for them for ever.
    """
    found = {}
    for key in ("total_episodes", "total_steps"):
        if key in file.attrs:
            place = file.attrs.get_id(key)
            if place.dtype.kind in "iu" and place.shape == ():
                found[key] = int(file.attrs[key])  # pyright: ignore[reportArgumentType]
    return found


def faults(about: Mapping[str, Any]) -> list[Fault]:
    """Why the rows cannot be read, from what is said about them."""
    stored = about.get("data_format", "hdf5")
    if stored != "hdf5":
        sentence = f"is in Minari's format {printable(str(stored))}, read is hdf5; write it with data_format='hdf5'"
        return [Fault("file", None, 1, sentence)]
    found = []
    for key in _CURES:
        space = _space(about, key)
        kind, shape = space.get("type", "Box"), space.get("shape", [0])
        if kind != "Box" or not isinstance(shape, list) or len(shape) != 1:
            flat = f"{printable(str(kind))} space" + (f" of shape {printable(str(shape))}" if kind == "Box" else "")
            found.append(Fault(key, None, 1, f"are of a {flat}, read are flat Box spaces; {_CURES[key]}"))
    return found


def cure(key: str) -> str:
    """What to do where a column is not flat; empty for those that always are."""
    return f"; {_CURES[key]}" if key in _CURES else ""


def warnings(about: Mapping[str, Any], rows: int) -> list[Fault]:
    """What is said about the rows and does not fit them."""
    found = []
    steps = about.get("total_steps", rows)
    if steps != rows:  # early versions of Minari miscounted
        found.append(Fault("file", None, 1, f"holds {rows:,} steps, its metadata say {printable(str(steps))}"))
    space = _space(about, "actions")
    try:
        low, high = (np.asarray(space[name], np.float64) for name in ("low", "high"))
        if np.any(low != -1) or np.any(high != 1):
            span = f"were recorded in a space from {low.min():g} to {high.max():g}, wanted is -1 to 1"
            found.append(Fault("actions", None, 1, f"{span}; nothing is rescaled"))
    except (KeyError, ValueError, TypeError):  # no bounds, or none that are numbers
        pass
    return found


def _space(about: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The description of a space, which Minari keeps as JSON inside of JSON; {} where there is none."""
    text = about.get(f"{key.removesuffix('s')}_space")
    try:
        space = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        space = None
    return space if isinstance(space, dict) else {}
