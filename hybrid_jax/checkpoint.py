"""Whole-state checkpoints that verify: orbax holds the arrays, our manifest says what is good.

A step is a folder `<step>/` with orbax's `arrays/` and, written last, `manifest.json`: schema, meta, and for
each leaf its path, shape, dtype and SHA-256. A step without a manifest does not exist; one whose content
differs from its manifest is never handed out.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from hybrid_jax.metrics import write_atomically
from hybrid_jax.types import PyTree

SCHEMA = 1
MANIFEST = "manifest.json"


class CheckpointError(ValueError):
    """No checkpoint can be given out; the sentence says why."""


class _Damaged(Exception):
    """This checkpoint cannot be read as it was written; an older one may be good."""


class Checkpointer:
    """Saves and restores a whole state in `directory`; the newest `keep` checkpoints stay.

    Saving is synchronous and copies to the host first, so the state may be donated right after. `skipped`
    tells, after `restore`, which newer checkpoints were damaged and how.
    """

    def __init__(self, directory: Path, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least 1 checkpoint must stay")
        self.directory = Path(directory).resolve()
        self.keep = keep
        self.skipped: list[str] = []
        self._orbax = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._orbax.close()

    def latest(self) -> int | None:
        """The newest step with a manifest."""
        return max(self._steps(), default=None)

    def save(self, step: int, state: PyTree, meta: dict[str, Any]) -> None:
        """Writes the state as checkpoint `step` and then removes those beyond the newest `keep`.

        meta: what JSON can hold; `restore` gives it back. A checkpoint of the same step is replaced.
        """
        leaves = _described(state)
        arrays = {name: np.asarray(array) for name, array in jax.device_get(_stored(state)).items()}
        folder = self.directory / str(step)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._orbax.save(folder / "arrays", {_slot(i): arrays[name] for i, name in enumerate(leaves) if arrays[name].size})
