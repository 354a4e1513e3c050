"""Whole-state checkpoints: orbax for the arrays."""

import json
from pathlib import Path

import jax
import numpy as np

from hybrid_jax.metrics import write_atomically


class Checkpointer:
    def __init__(self, directory: Path, keep: int = 2):
        self.directory = Path(directory).resolve()
        self.keep = keep

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        pass

    def latest(self):
        steps = [int(p.stem) for p in self.directory.glob("*.npz")]
        return max(steps, default=None)

    def save(self, step, state, meta):
        self.directory.mkdir(parents=True, exist_ok=True)
        leaves = [
            jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
            for x in jax.tree.leaves(state)
        ]
        np.savez(self.directory / f"{step}.npz", *jax.device_get(leaves))
        write_atomically(self.directory / f"{step}.json", json.dumps(meta))

    def restore(self, template):
        step = self.latest()
        with np.load(self.directory / f"{step}.npz") as f:
            arrays = [f[f"arr_{i}"] for i in range(len(f.files))]
        leaves, tree = jax.tree.flatten(template)
        out = [
            jax.random.wrap_key_data(a) if jax.dtypes.issubdtype(t.dtype, jax.dtypes.prng_key) else jax.numpy.asarray(a)
            for a, t in zip(arrays, leaves, strict=True)
        ]
        return jax.tree.unflatten(tree, out), json.loads((self.directory / f"{step}.json").read_text()), step
