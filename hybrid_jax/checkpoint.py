"""Whole-state checkpoints that are verified: orbax holds the arrays, our manifest says what is good.

A checkpoint is a folder `<step>/` with orbax's `arrays/` and, written last, `manifest.json`: the schema, the
caller's meta, SHA-256 of every file, and path, shape, dtype and SHA-256 of every leaf. A step without a
manifest does not exist; files that differ from it are never parsed.
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


class CheckpointError(ValueError):
    """No checkpoint can be handed out; the sentence says why."""


class _Damaged(Exception):
    """The checkpoint is not what was written; an older one may be good."""


class Checkpointer:
    """Saves and restores a whole state below `directory`; of the checkpoints the newest `keep` stay.

    Saving is synchronous: afterwards the checkpoint is on the disk and the state may be donated. `skipped`
    says, after `restore`, which newer checkpoints were damaged and how.
    """

    def __init__(self, directory: Path, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least 1 checkpoint must stay")
        self.directory = Path(directory).resolve()  # orbax refuses relative paths
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
        """Writes checkpoint `step`, in place of one of the same step, then removes the oldest beyond `keep`.

        meta: anything JSON holds; `restore` gives it back. Checkpoints of later steps are left alone.
        Raises CheckpointError for a leaf that is no array, OSError where the disk refuses.
        """
        manifest: dict[str, Any] = {"schema": SCHEMA, "step": step, "meta": meta}
        json.dumps(manifest)  # what JSON cannot hold is refused before anything is written
        arrays, manifest["leaves"] = _to_host(state)
        folder, partial = self.directory / str(step), self.directory / f"{step}.partial"
        _remove(partial)
        partial.mkdir(parents=True)
        # orbax refuses arrays without elements: those come back from the template.
        self._orbax.save(partial / "arrays", {str(i): a for i, a in enumerate(arrays) if a.size})
        manifest["files"] = {str(p.relative_to(partial)): _sha256(p.read_bytes()) for p in _files(partial)}
        _sync(partial)
        write_atomically(partial / "manifest.json", json.dumps({"sha256": _digest(manifest), **manifest}))
        _remove(folder)
        partial.rename(folder)
        for changed in (folder, self.directory):
            _sync_one(changed)
        for old in sorted(s for s in self._steps() if s <= step)[: -self.keep]:
            _remove(self.directory / str(old))

    def restore(self, template: PyTree) -> tuple[PyTree, dict[str, Any], int]:
        """(state, meta, step) of the newest good checkpoint, its leaves bit-equal to those saved.

        template: the tree with arrays or ShapeDtypeStructs for leaves, as from `jax.eval_shape`.
        Raises CheckpointError when no checkpoint is good, or when a good one holds another state.
        """
        self.skipped = []
        for step in sorted(self._steps(), reverse=True):
            try:
                return *self._read(step, template), step
            except _Damaged as damage:
                self.skipped.append(f"step {step}: {damage}")
        if not self.skipped:
            raise CheckpointError(f"{self.directory} holds no checkpoint; start a new run")
        raise CheckpointError(f"{self.directory} holds no good checkpoint ({'; '.join(self.skipped)}); start a new run")

    def _steps(self) -> list[int]:
        return [int(p.parent.name) for p in self.directory.glob("*/manifest.json") if p.parent.name.isdecimal()]

    def _read(self, step: int, template: PyTree) -> tuple[PyTree, dict[str, Any]]:
        folder = self.directory / str(step)
        manifest = _read_manifest(folder)
        for name, digest in manifest["files"].items():
            try:
                content = (folder / name).read_bytes()
            except OSError as error:
                raise _Damaged(f"{name} cannot be read ({error.strerror})") from error
            if _sha256(content) != digest:
                raise _Damaged(f"{name} differs from what was written")
        paths, tree = jax.tree_util.tree_flatten_with_path(template)
        expected = {jax.tree_util.keystr(path): leaf for path, leaf in paths}
        saved = {leaf["path"]: leaf for leaf in manifest["leaves"]}
        _check_same(folder, expected, saved)
        try:
            arrays = self._orbax.restore(folder / "arrays")
        except Exception as error:  # the files are whole, so this is orbax's own: another version, no memory
            raise _Damaged(f"orbax cannot read it ({type(error).__name__}: {error})") from error
        slots = {leaf["path"]: str(i) for i, leaf in enumerate(manifest["leaves"])}
        leaves = [_to_leaf(name, arrays.get(slots[name]), saved[name], expected[name]) for name in expected]
        return jax.tree.unflatten(tree, leaves), manifest["meta"]


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(state: PyTree) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """The leaves as numpy arrays and, for the manifest, what they are."""
    named = [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]]
    for name, leaf in named:
        if not isinstance(leaf, jax.Array | np.ndarray):
            raise CheckpointError(f"{name} is a {type(leaf).__name__}; every leaf of a saved state must be an array")
    # Copies: on a CPU device_get may hand out, and the leaf keep, a view that stops the leaf from being donated.
    arrays = [np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for _, leaf in named]
    described = []
    for (name, leaf), array in zip(named, arrays, strict=True):
        facts = {"path": name, "shape": list(leaf.shape), "dtype": str(leaf.dtype), "sha256": _leaf_digest(array)}
        if _is_key(leaf):
            facts["key_impl"] = str(jax.random.key_impl(leaf))
        described.append(facts)
    return arrays, described


def _to_leaf(name: str, array: np.ndarray | None, saved: dict[str, Any], expected: Any) -> jax.Array:
    """The verified leaf on the device, in memory of its own so that it can be donated."""
    if array is None:
        if 0 not in expected.shape:
            raise _Damaged(f"the array of {name} is missing")
        stored = jax.eval_shape(jax.random.key_data, expected) if _is_key(expected) else expected
        array = np.zeros(stored.shape, stored.dtype)
    if _leaf_digest(array) != saved["sha256"]:
        raise _Damaged(f"the array of {name} differs from what was saved")
    array = jnp.array(array)
    return jax.random.wrap_key_data(array, impl=saved["key_impl"]) if _is_key(expected) else array


def _check_same(folder: Path, expected: dict[str, Any], saved: dict[str, dict[str, Any]]) -> None:
    """Refuses, naming the leaf, a checkpoint of another state than the template's."""
    for name in [*expected, *saved]:
        if name not in saved:
            raise CheckpointError(f"{folder} has no leaf {name}; it was saved by a run of another shape")
        if name not in expected:
            raise CheckpointError(f"{folder} has a leaf {name} that this run has not; it was saved by another run")
        ours = (list(expected[name].shape), str(expected[name].dtype))
        theirs = (saved[name]["shape"], saved[name]["dtype"])
        if ours != theirs:
            raise CheckpointError(
                f"{folder} holds {name} as {theirs[1]}{theirs[0]} but this run needs {ours[1]}{ours[0]};"
                " resume with the settings that it was saved with"
            )


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        digest = manifest.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise _Damaged("manifest.json cannot be read") from error
    if digest != _digest(manifest):
        raise _Damaged("manifest.json differs from what was written")
    if manifest["schema"] != SCHEMA:
        raise CheckpointError(
            f"{folder} has checkpoint schema {manifest['schema']} but this version reads {SCHEMA};"
            " resume with the version that saved it"
        )
    return manifest


def _sha256(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest(manifest: dict[str, Any]) -> str:
    return _sha256(json.dumps(manifest, sort_keys=True).encode())


def _leaf_digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _sync(folder: Path) -> None:
    """Brings every file and folder below to the disk: orbax leaves that open for its metadata."""
    for path in [folder, *folder.rglob("*")]:
        _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    """Removes a checkpoint, its manifest first: whatever a crash leaves behind does not count."""
    if folder.exists():
        (folder / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(folder)
