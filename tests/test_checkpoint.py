"""Checkpoints come back bit for bit, and damaged ones never come back at all."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_jax.checkpoint import Checkpointer, CheckpointError

META = {"identity": "abc", "seeds": [0, 1], "rate": 0.1}


class Learner(NamedTuple):
    weights: dict
    moments: tuple
    empty: jax.Array
    none: None = None


class State(NamedTuple):
    learner: Learner
    key: jax.Array
    keys: jax.Array
    draws: jax.Array
    done: jax.Array
    step: jax.Array


def make(seed: int) -> State:
    """A state of every kind of leaf, with numbers of its own for each seed."""
    key = jax.random.key(seed)
    weights = {"w": jax.random.normal(key, (9, 4)), "b": jnp.array([seed, jnp.nan, -0.0, jnp.inf])}
    moments = (jax.random.normal(key, (3,), jnp.bfloat16), {"a/b": jnp.int8([seed]), "a": {"b": jnp.int8([1])}})
    return State(
        Learner(weights, moments, jnp.zeros((0, 4))),
        key,
        jax.random.split(jax.random.key(seed, impl="rbg"), (2, 3)),
        jnp.array([2**32 - 1], jnp.uint32) - jnp.uint32(seed),
        jnp.array([True, False, True]),
        jnp.int32(seed),
    )


def bits(tree) -> list:
    """Structure, dtypes, shapes and bytes."""
    leaves, structure = jax.tree.flatten(tree)
    raw = [jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in leaves]
    return [structure, *((str(x.dtype), x.shape, np.asarray(r).tobytes()) for x, r in zip(leaves, raw, strict=True))]


@pytest.fixture(scope="module")
def template():
    return jax.eval_shape(make, 0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with the states 3 and 8 as steps 3 and 8; read only."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpointer(folder) as checkpoints:
        for step in (3, 8):
            checkpoints.save(step, make(step), META | {"step": step})
    return folder


@pytest.fixture
def checkpoints(saved, tmp_path):
    """A Checkpointer over a copy of `saved`."""
    shutil.copytree(saved, tmp_path / "copy")
    with Checkpointer(tmp_path / "copy") as owner:
        yield owner


def test_a_state_comes_back_bit_for_bit(saved, template):
    with Checkpointer(saved) as checkpoints:
        assert checkpoints.latest() == 8
        state, meta, step = checkpoints.restore(template)
    assert step == 8 and meta == META | {"step": 8} and checkpoints.skipped == []
    assert bits(state) == bits(make(8))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    np.testing.assert_array_equal(jax.random.normal(state.keys[1, 2], 3), jax.random.normal(make(8).keys[1, 2], 3))


def test_meta_comes_back_as_json_has_it(tmp_path, template):
    """Numbers as keys become text, whose order is another than theirs; tuples become lists."""
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, make(1), {"counts": {10: "ten", 9: "nine"}, "pair": (1e-05, None)})
        assert checkpoints.restore(template)[1] == {"counts": {"10": "ten", "9": "nine"}, "pair": [1e-05, None]}


def test_arrays_serve_as_a_template_too(saved):
    with Checkpointer(saved) as checkpoints:
        assert bits(checkpoints.restore(make(1))[0]) == bits(make(8))


def test_donation_before_and_after_is_undisturbed(tmp_path, template):
    move = jax.jit(lambda state: state._replace(draws=state.draws + 1), donate_argnums=0)
    state = jax.jit(make)(5)
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        addresses = [state.draws.unsafe_buffer_pointer(), state.learner.weights["w"].unsafe_buffer_pointer()]
        state = move(state)
        assert [state.draws.unsafe_buffer_pointer(), state.learner.weights["w"].unsafe_buffer_pointer()] == addresses
        restored, _, _ = checkpoints.restore(template)
        assert bits(restored) == bits(make(5))
        assert bits(move(restored)) == bits(state)


def test_the_newest_checkpoints_stay(tmp_path, template):
    with Checkpointer(tmp_path / "new" / "folder", keep=2) as checkpoints:
        assert checkpoints.latest() is None
        for step in (0, 4, 10):
            checkpoints.save(step, make(step), {})
            assert checkpoints.latest() == step
        assert sorted(p.name for p in checkpoints.directory.iterdir()) == ["10", "4"]
        checkpoints.save(10, make(11), {"again": True})
        state, meta, step = checkpoints.restore(template)
    assert (bits(state), meta, step) == (bits(make(11)), {"again": True}, 10)


def test_a_save_cut_short_does_not_count_and_is_swept_away(checkpoints, template):
    """Neither a folder without a manifest nor one that was never renamed; the next save takes its place."""
    (checkpoints.directory / "8" / "manifest.json").unlink()
    shutil.copytree(checkpoints.directory / "3", checkpoints.directory / "12.partial")
    assert checkpoints.latest() == 3
    assert checkpoints.restore(template)[2] == 3
    checkpoints.save(8, make(8), {})
    checkpoints.save(12, make(12), {})
    assert sorted(p.name for p in checkpoints.directory.iterdir()) == ["12", "8"]
    assert bits(checkpoints.restore(template)[0]) == bits(make(12))


def test_no_good_checkpoint_is_an_error_that_names_each(checkpoints, template):
    (checkpoints.directory / "3" / "manifest.json").write_text("{}")
    (checkpoints.directory / "8" / "arrays" / "_METADATA").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no good checkpoint \(step 8: arrays/_METADATA .*; step 3: manifest"):
        checkpoints.restore(template)
    with pytest.raises(CheckpointError, match="holds no checkpoint"), Checkpointer(checkpoints.directory / "x") as none:
        none.restore(template)


def rewrite(folder: Path, change) -> None:
    """Changes the manifest and makes its digest right again."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    change(manifest)
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest | {"sha256": digest}))


def test_arrays_other_than_those_saved_are_not_handed_out(checkpoints, template):
    """Whole files with other content, as a fault in the storage library would give."""

    def swap(manifest):
        digests = {leaf["path"]: leaf for leaf in manifest["leaves"]}
        digests[".done"]["sha256"] = digests[".draws"]["sha256"]

    rewrite(checkpoints.directory / "8", swap)
    assert checkpoints.restore(template)[2] == 3
    assert checkpoints.skipped == ["step 8: the array of .done differs from what was saved"]


def test_another_schema_is_refused(checkpoints, template):
    rewrite(checkpoints.directory / "8", lambda manifest: manifest.update(schema=2))
    with pytest.raises(CheckpointError, match="schema 2 but this version reads 1"):
        checkpoints.restore(template)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s._replace(draws=jnp.zeros(2, jnp.uint32)),
            r"\.draws as uint32\[1\] but this run needs uint32\[2\]",
        ),
        (lambda s: s._replace(step=jnp.float32(0)), r"\.step as int32\[\] but this run needs float32\[\]"),
        (lambda s: s._replace(key=jax.random.key(0, impl="rbg")), r"\.key as key<fry>\[\] .* needs key<rbg>\[\]"),
        (lambda s: s._replace(key=jnp.zeros(2, jnp.uint32)), r"\.key as key<fry>\[\] .* needs uint32\[2\]"),
        (
            lambda s: s._replace(learner=s.learner._replace(empty=jnp.zeros((4, 0)))),
            r"\.learner\.empty as float32\[0, 4\]",
        ),
        (lambda s: s._replace(learner=s.learner._replace(none=jnp.ones(1))), r"has no leaf \.learner\.none"),
        (lambda s: s._replace(done=None), r"has a leaf \.done that this run has not"),
    ],
)
def test_another_state_is_refused_by_the_name_of_the_leaf(saved, change, message):
    with Checkpointer(saved) as checkpoints, pytest.raises(CheckpointError, match=message):
        checkpoints.restore(jax.eval_shape(lambda: change(make(0))))


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path):
    with Checkpointer(tmp_path / "x") as checkpoints:
        with pytest.raises(CheckpointError, match=r"\['a'\] is a int; every leaf .* must be an array"):
            checkpoints.save(1, {"a": 3}, {})
        with pytest.raises(TypeError, match="not JSON serializable"):
            checkpoints.save(1, make(0), {"path": Path()})
        assert not checkpoints.directory.exists()
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpointer(tmp_path, keep=0)
