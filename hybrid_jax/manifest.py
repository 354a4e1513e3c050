"""The manifest of a checkpoint folder, written last: it says what was written, and so whether it still is that.

It holds the schema, the step, the caller's meta, SHA-256 of every file, and path, shape, dtype and SHA-256 of
every leaf. Files that it does not name are nobody's: they neither help nor harm.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_jax.metrics import write_atomically

SCHEMA = 1
NAME = "manifest.json"


class CheckpointError(ValueError):
    """No checkpoint can be handed out; the sentence says why."""


class Damaged(Exception):
    """The checkpoint is not what was written; an older one may be good."""


def write(folder: Path, step: int, meta: Any, leaves: list[dict[str, Any]]) -> None:
    """Declares the files below `folder` to be checkpoint `step`."""
    files = {str(p.relative_to(folder)): _file_digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    manifest = {"schema": SCHEMA, "step": step, "meta": meta, "leaves": leaves, "files": files}
    write_atomically(folder / NAME, json.dumps({"sha256": _digest(manifest), **manifest}))


def read(folder: Path, step: int) -> dict[str, Any]:
    """The manifest of `folder`, after comparing every file with it; raises Damaged, naming the first that differs."""
    manifest = _read(folder, step)
    for name, digest in manifest["files"].items():
        try:
            found = _file_digest(folder / name)
        except OSError as error:
            raise Damaged(f"{name} cannot be read ({error.strerror})") from error
        if found != digest:
            raise Damaged(f"{name} differs from what was written")
    return manifest


def check_same(folder: Path, expected: dict[str, Any], saved: dict[str, dict[str, Any]]) -> None:
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


def leaf_digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _read(folder: Path, step: int) -> dict[str, Any]:
    try:
        content = (folder / NAME).read_bytes()
        manifest = json.loads(content)
        # Some flips leave the same meaning, as 1e-05 and 1E-05: only the very text that was written is good.
        same = json.dumps(manifest).encode() == content
        digest = manifest.pop("sha256")
    except OSError as error:
        raise Damaged(f"{NAME} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Damaged(f"{NAME} cannot be read") from error
    if not same or digest != _digest(manifest):
        raise Damaged(f"{NAME} differs from what was written")
    if manifest["schema"] != SCHEMA:
        raise CheckpointError(
            f"{folder} has checkpoint schema {manifest['schema']} but this version reads {SCHEMA};"
            " resume with the version that saved it"
        )
    if manifest["step"] != step:
        raise Damaged(f"{NAME} is that of step {manifest['step']}")
    return manifest


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
