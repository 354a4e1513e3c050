"""Whole-state checkpoints that are verified: orbax holds the arrays, our manifest says what is good.

A checkpoint is a folder `<step>/` with orbax's `arrays/` and, written last, `manifest.json`. A step without a
manifest does not exist; files that differ from it are never parsed.
"""

import contextlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from hybrid_jax import manifest
from hybrid_jax.manifest import CheckpointError, Damaged, leaf_digest
from hybrid_jax.types import PyTree


class SaveFailed(OSError):
    """The disk refused a checkpoint; those before it are as they were, and the next save may succeed."""


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
        self._orbax = _orbax()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._orbax.close()

    def latest(self) -> int | None:
        """The newest step with a manifest."""
        return max(self._complete(), default=None)

    def save(self, step: int, state: PyTree, meta: dict[str, Any]) -> None:
        """Writes checkpoint `step`, in place of one of the same step, then removes the oldest beyond `keep`.

        meta: anything JSON holds; `restore` gives it back. Checkpoints of later steps are left alone.
        Raises CheckpointError for a leaf that is no array, SaveFailed where the disk refuses.
        """
        meta = json.loads(json.dumps(meta))  # what JSON cannot hold is refused before anything is written
        arrays, leaves = _to_host(state)
        # A name of its own: threads of orbax may outlive a failed save and still write where they began.
        partial = self.directory / f"{step}.{secrets.token_hex(4)}.partial"
        try:
            self._write(partial, step, arrays, leaves, meta)
            self._put_in_place(partial, step)
        except Exception as error:
            self._orbax = _orbax()  # the old one may hold the error and raise it again
            shutil.rmtree(partial, ignore_errors=True)  # makes room; what is left the next save sweeps
            raise SaveFailed(self._refusal(step, error)) from error
        self._thin_out(step)

    def restore(self, template: PyTree) -> tuple[PyTree, dict[str, Any], int]:
        """(state, meta, step) of the newest good checkpoint, its leaves bit-equal to those saved.

        template: the tree with arrays or ShapeDtypeStructs for leaves, as from `jax.eval_shape`.
        Raises CheckpointError when no checkpoint is good, or when a good one holds another state.
        """
        self.skipped = []
        for step in self._steps():
            try:
                return *self._read(step, template), step
            except Damaged as damage:
                self.skipped.append(f"step {step}: {damage}")
        if not self.skipped:
            raise CheckpointError(f"{self.directory} holds no checkpoint; start a new run")
        raise CheckpointError(f"{self.directory} holds no good checkpoint ({'; '.join(self.skipped)}); start a new run")

    def _steps(self) -> list[int]:
        """The steps that have a folder, newest first."""
        found = (int(p.name) for p in self.directory.glob("*/") if p.name.isdecimal())
        return sorted(found, reverse=True)

    def _complete(self) -> list[int]:
        """Those of them with a manifest."""
        return [step for step in self._steps() if (self.directory / str(step) / manifest.NAME).exists()]

    def _write(self, partial: Path, step: int, arrays: list[np.ndarray], leaves: list[dict], meta: Any) -> None:
        for left in self.directory.glob("*.partial/"):  # by saves that were killed
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True)
        with _muted("absl"):  # orbax logs, with its threads' stacks, what it raises anyway
            # orbax refuses arrays without elements: those come back from the template.
            self._orbax.save(partial / "arrays", {str(i): a for i, a in enumerate(arrays) if a.size})
        _sync(partial)
        manifest.write(partial, step, meta, leaves)
        _sync_one(partial)

    def _put_in_place(self, partial: Path, step: int) -> None:
        folder, aside = self.directory / str(step), Path(f"{partial}.old.partial")
        if folder.exists():
            folder.rename(aside)  # a crash hits the moment between two renames less likely than a long removal
        partial.rename(folder)
        _sync_one(self.directory)
        shutil.rmtree(aside, ignore_errors=True)

    def _thin_out(self, step: int) -> None:
        with contextlib.suppress(OSError):  # the new one is safe; the next save tries again
            stay = [s for s in self._complete() if s <= step][: self.keep]
            for old in self._steps():
                if old <= step and old not in stay:
                    _remove(self.directory / str(old))

    def _refusal(self, step: int, error: Exception) -> str:
        good = self._newest_good()
        stays = "no good one can be read" if good is None else f"checkpoint {good} is the newest good one and stays"
        cause = f"{_cause(error)}, {_free_gib(self.directory):.1f} GiB free"
        return f"checkpoint {step} could not be saved in {self.directory} ({cause}); {stays}"

    def _newest_good(self) -> int | None:
        with contextlib.suppress(OSError):
            for step in self._steps():
                with contextlib.suppress(Damaged, CheckpointError):
                    return manifest.read(self.directory / str(step), step)["step"]
        return None

    def _read(self, step: int, template: PyTree) -> tuple[PyTree, dict[str, Any]]:
        folder = self.directory / str(step)
        written = manifest.read(folder, step)
        paths, tree = jax.tree_util.tree_flatten_with_path(template)
        expected = {jax.tree_util.keystr(path): leaf for path, leaf in paths}
        saved = {leaf["path"]: leaf for leaf in written["leaves"]}
        manifest.check_same(folder, expected, saved)
        try:
            arrays = self._orbax.restore(folder / "arrays")
        except Exception as error:  # the files are whole, so this is orbax's own: another version, no memory
            raise Damaged(f"orbax cannot read it ({type(error).__name__}: {error})") from error
        slots = {leaf["path"]: str(i) for i, leaf in enumerate(written["leaves"])}
        leaves = [_to_leaf(name, arrays.get(slots[name]), saved[name], expected[name]) for name in expected]
        return jax.tree.unflatten(tree, leaves), written["meta"]


def _orbax() -> ocp.Checkpointer:
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())


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
        facts = {"path": name, "shape": list(leaf.shape), "dtype": str(leaf.dtype), "sha256": leaf_digest(array)}
        if _is_key(leaf):
            facts["key_impl"] = str(jax.random.key_impl(leaf))
        described.append(facts)
    return arrays, described


def _to_leaf(name: str, array: np.ndarray | None, saved: dict[str, Any], expected: Any) -> jax.Array:
    """The verified leaf on the device, in memory of its own so that it can be donated."""
    if array is None:
        if 0 not in expected.shape:
            raise Damaged(f"the array of {name} is missing")
        stored = jax.eval_shape(jax.random.key_data, expected) if _is_key(expected) else expected
        array = np.zeros(stored.shape, stored.dtype)
    if leaf_digest(array) != saved["sha256"]:
        raise Damaged(f"the array of {name} differs from what was saved")
    array = jnp.array(array)
    return jax.random.wrap_key_data(array, impl=saved["key_impl"]) if _is_key(expected) else array


def _cause(error: Exception) -> str:
    """What the system said, in a few words; tensorstore puts its number into a page of text."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (told := re.search(r"os_error_code='(\d+)'", str(error))):
        number = int(told[1])
    first = f"{type(error).__name__}: {error}".partition("\n")[0]
    return first[:200] if number is None else os.strerror(number)


def _free_gib(folder: Path) -> float:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free / 2**30


@contextlib.contextmanager
def _muted(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


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
    (folder / manifest.NAME).unlink(missing_ok=True)
    shutil.rmtree(folder)
